// Package replicasv1 is what replicas of a control plane ask each other: what the proxies know that are connected to the other one.
//
// Questions enter and answers leave by gRPC, on the port of xDS, for callers with the control plane's own identity only. The code is
// generated from replicas.proto (`make generate`).
package replicasv1
