// Package causes is why requests and connections fail: the closed set of causes, and Envoy's response flags.
//
// A cause is what a proxy gives its own replies and broken connections; its code, details or flags enter from access logs and
// records, and sentences, remedies and flags leave. Both planes and the command line may import it; it is constant, so anything
// may be called from anywhere.
package causes
