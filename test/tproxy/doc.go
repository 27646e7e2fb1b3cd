// Package tproxy tries capture that keeps the client's address (TPROXY) with the rules of
// capture, the kernel and a proxy: it holds tests only. They run in network namespaces of
// their own, as root or as a user who may make them, and are skipped elsewhere.
package tproxy
