// Package soak lets time and bytes pass through weir-proxy processes and looks whether
// anything grows, is lost or is altered.
//
// How long enters by the environment (SOAK=10m; make soak sets it), figures leave in the
// log. Without it each test takes a few seconds, so that make test shows that it works.
// How many connections stay through it all enters by CONNECTIONS. TestLargeBodies sends bodies of 1 GB to slow readers through
// one proxy; TestMixedTraffic has every kind of traffic, well and badly behaved, pass the sidecars of a mesh (package test/mesh)
// whose configuration changes all the time: two of callers, each with a process that holds half of the connections, and the
// application's. They run at the same time.
package soak
