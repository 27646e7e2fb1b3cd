package grpc_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/weirmesh/weir/test/mesh"
)

// telling answers EmptyCall with an error that has details, one of which only proxies of the mesh may say.
type telling struct {
	testgrpc.UnimplementedTestServiceServer
}

func (telling) EmptyCall(context.Context, *testgrpc.Empty) (*testgrpc.Empty, error) {
	s, err := status.New(codes.FailedPrecondition, "the shop is closed").WithDetails(&errdetails.ErrorInfo{Reason: "CLOSED", Domain: "shop.example"}, &errdetails.ErrorInfo{Reason: "no_endpoints", Domain: "weir.dev"})
	if err != nil {
		return nil, err
	}
	return nil, s.Err()
}

const toldConfig = `
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec: {selector: {app: nobody}, ports: [{name: grpc, port: 9090}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: interop}
spec:
  hosts: [interop]
  http:
  - match: [{headers: {to: {exact: nobody}}}]
    route: [{destination: {host: nobody}}]
  - match: [{headers: {to: {exact: limited}}}]
    fault: {abort: {grpcStatus: RESOURCE_EXHAUSTED, percentage: {value: 100}}}
    route: [{destination: {host: interop}}]
  - route: [{destination: {host: interop}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-streams}
spec:
  selector: {matchLabels: {app: interop}}
  action: DENY
  rules: [{to: [{operation: {paths: [/grpc.testing.TestService/FullDuplexCall]}}]}]
`

// A program with grpc-go reads from the status why a proxy answered, and the id to ask `weir why` for, in calls and in streams; what the
// application says itself stays as it is, but for what only proxies may say.
func TestStatusDetailsSayWhy(t *testing.T) {
	m := mesh.New(t, nil)
	m.Config("interop.yaml", service)
	m.Config("told.yaml", toldConfig)
	all := m.Workloads(
		mesh.Spec{Name: "client", Owner: "client", ServiceAccount: "client", Labels: map[string]string{"app": "client"}},
		mesh.Spec{Name: "interop", Owner: "interop", ServiceAccount: "interop", Labels: map[string]string{"app": "interop"}, Ports: []mesh.Port{{Name: "grpc", Number: 9090}}})
	client, server := all[0], all[1]
	l, err := net.Listen("tcp", server.App(9090).String())
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(s, telling{})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	cc := channel(t, client)
	defer cc.Close()
	c := testgrpc.NewTestServiceClient(cc)
	m.Settle()

	const id = "0c7cd0b4-3f21-4d2b-9a55-5f0b7cfe5e21"
	unary := func(ctx context.Context) error {
		_, err := c.EmptyCall(ctx, &testgrpc.Empty{})
		return err
	}
	stream := func(ctx context.Context) error {
		s, err := c.FullDuplexCall(ctx)
		if err != nil {
			return err
		}
		_, err = s.Recv()
		return err
	}
	for _, x := range []struct {
		name, to string
		call     func(context.Context) error
		want     string // code, then details: domain, reason and request_id
	}{
		{"its own proxy finds no endpoint", "nobody", unary, "Unavailable weir.dev no_endpoints " + id},
		{"a stream, too", "nobody", stream, "Unavailable weir.dev no_endpoints " + id},
		{"a fault on purpose", "limited", unary, "ResourceExhausted weir.dev fault_abort " + id},
		{"the server's proxy denies it", "", stream, "PermissionDenied weir.dev denied " + id},
		{"the application's own details", "", unary, "FailedPrecondition shop.example CLOSED "},
	} {
		m.Run(x.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(t.Context(), "x-request-id", id, "to", x.to))
			defer cancel()
			st := status.Convert(x.call(ctx))
			got := []string{st.Code().String()}
			for _, d := range st.Details() {
				info, ok := d.(*errdetails.ErrorInfo)
				if !ok {
					t.Errorf("a detail is %T: %v", d, d)
					continue
				}
				got = append(got, fmt.Sprintf("%s %s %s", info.GetDomain(), info.GetReason(), info.GetMetadata()["request_id"]))
			}
			if g := strings.Join(got, " "); g != x.want || st.Message() == "" {
				t.Errorf("%s (%q), want %s", g, st.Message(), x.want)
			}
		})
	}
	// What the server's proxy meets is told by way of the client's.
	s.Stop()
	m.Run("the application is gone", func(t *testing.T) {
		st := status.Convert(unary(metadata.AppendToOutgoingContext(t.Context(), "x-request-id", id)))
		if len(st.Details()) != 1 || st.Code() != codes.Unavailable {
			t.Fatalf("%v: %v", st, st.Details())
		}
		if info, ok := st.Details()[0].(*errdetails.ErrorInfo); !ok || !strings.HasPrefix(info.GetReason(), "upstream_") || info.GetDomain() != "weir.dev" || info.GetMetadata()["request_id"] != id {
			t.Errorf("%v", st.Details())
		}
	})
}
