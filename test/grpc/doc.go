// Package grpc holds grpc-go's interoperability cases against a mesh: a client
// and a server that know nothing of Weir, each beside its own proxy, mutual TLS
// between the two. It is a package of its own because the cases report by
// grpc-go's process-wide logger.
package grpc
