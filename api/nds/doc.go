// Package nds is the wire contract of the name discovery service: the NameTable a
// control plane sends (type URL type.googleapis.com/istio.networking.nds.v1.NameTable)
// and the proxy's DNS answers from.
//
// translate writes it, proxy/dns/names reads it. Messages follow the rules of protobuf: not
// to be changed while somebody else reads them.
package nds

//go:generate protoc --proto_path=../.. --go_out=../.. --go_opt=paths=source_relative api/nds/nds.proto
