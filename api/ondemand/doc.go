// Package ondemand is the wire contract of configuration on demand: the one message that
// it adds to xDS (type URL type.googleapis.com/weir.dev.ondemand.v1.IndexShard).
//
// package xds/ondemand writes and reads it for both planes.
package ondemand

//go:generate protoc --proto_path=../.. --go_out=../.. --go_opt=paths=source_relative api/ondemand/ondemand.proto
