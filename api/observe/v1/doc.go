// Package observev1 is the wire contract of the observe stream: what proxies tell their
// control plane about traffic, and what it asks them.
//
// proxy/observe/edges writes reports, package control reads them. Messages follow the
// rules of protobuf: not to be changed while somebody else reads them.
package observev1

//go:generate protoc --proto_path=../../.. --go_out=../../.. --go_opt=paths=source_relative --go-grpc_out=../../.. --go-grpc_opt=paths=source_relative api/observe/v1/observe.proto
