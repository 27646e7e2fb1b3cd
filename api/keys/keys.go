// Package keys is the wire contract by which proxies ask their control plane for the newest keys of a token
// issuer: one gRPC method, weir.dev.keys.v1.Keys/Newest, from a google.protobuf.StringValue to another.
//
// The request is the address of a key set, as the set itself names it (its member "weir.dev", see
// docs/design/jwt.md). The response is the set, as text, as of a moment after the request came. Errors:
// NOT_FOUND of an address that no object names, UNAVAILABLE when no set could ever be fetched there.
package keys

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Token says, in the identifier of a control plane, that it answers.
const Token = "weir-keys/1"

const (
	service = "weir.dev.keys.v1.Keys"
	method  = "Newest"
)

// Server answers. ctx is the stream's.
type Server interface {
	// Admit refuses who may not ask, before what is asked is read.
	Admit(ctx context.Context) error
	Newest(ctx context.Context, uri string) (text string, err error)
}

// Register serves s.
func Register(g grpc.ServiceRegistrar, s Server) {
	g.RegisterService(&grpc.ServiceDesc{ServiceName: service, HandlerType: (*Server)(nil), Methods: []grpc.MethodDesc{{MethodName: method,
		Handler: func(srv any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			if err := srv.(Server).Admit(ctx); err != nil {
				return nil, err
			}
			in := &wrapperspb.StringValue{}
			if err := decode(in); err != nil {
				return nil, err
			}
			text, err := srv.(Server).Newest(ctx, in.GetValue())
			if err != nil {
				return nil, err
			}
			return wrapperspb.String(text), nil
		}}}}, s)
}

// Newest asks.
func Newest(ctx context.Context, conn grpc.ClientConnInterface, uri string) (text string, err error) {
	out := &wrapperspb.StringValue{}
	err = conn.Invoke(ctx, "/"+service+"/"+method, wrapperspb.String(uri), out)
	return out.GetValue(), err
}
