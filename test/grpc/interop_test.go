package grpc_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/grpclog"
	"google.golang.org/grpc/interop"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/orca"

	"github.com/weirmesh/weir/test/mesh"
)

// TestMain makes a case that fails end its goroutine instead of the process.
func TestMain(m *testing.M) {
	grpclog.SetLoggerV2(failing{grpclog.NewLoggerV2(io.Discard, io.Discard, io.Discard)})
	os.Exit(m.Run())
}

// failing is a logger that the interop cases call Fatal of.
type failing struct{ grpclog.LoggerV2 }

func (failing) Fatal(a ...any)            { fail(fmt.Sprint(a...)) }
func (failing) Fatalf(f string, a ...any) { fail(fmt.Sprintf(f, a...)) }
func (failing) Fatalln(a ...any)          { fail(fmt.Sprintln(a...)) }
func (failing) InfoDepth(int, ...any)     {}
func (failing) WarningDepth(int, ...any)  {}
func (failing) ErrorDepth(int, ...any)    {}
func (failing) FatalDepth(_ int, a ...any) {
	fail(fmt.Sprint(a...))
}

func fail(text string) {
	fmt.Fprintln(os.Stderr, "interop:", strings.TrimSpace(text))
	runtime.Goexit()
}

const service = `
apiVersion: v1
kind: Service
metadata: {name: interop}
spec:
  selector: {app: interop}
  ports:
  - {name: grpc, port: 9090}
`

// channel is a gRPC channel of the workload to a service.
func channel(t *testing.T, w *mesh.Workload, o ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///interop:9090", append(o,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) { return w.Dial(ctx, target) }))...)
	if err != nil {
		t.Fatal(err)
	}
	return cc
}

// serve runs the interop server where the workload's program would listen.
func serve(t *testing.T, w *mesh.Workload) {
	t.Helper()
	l, err := net.Listen("tcp", w.App(9090).String())
	if err != nil {
		t.Fatal(err)
	}
	metrics := orca.NewServerMetricsRecorder()
	s := grpc.NewServer(orca.CallMetricsServerOption(nil))
	if err := orca.Register(s, orca.ServiceOptions{ServerMetricsProvider: metrics, MinReportingInterval: 30 * time.Second}); err != nil {
		t.Fatal(err)
	}
	testgrpc.RegisterTestServiceServer(s, interop.NewTestServer(interop.NewTestServerOptions{MetricsRecorder: metrics}))
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestInteropCasesPassThroughTwoProxies: every case of grpc-go's interop client that needs no
// credentials of a cloud, but pick_first_unary, which grpc-go's own server does not answer.
func TestInteropCasesPassThroughTwoProxies(t *testing.T) {
	m := mesh.New(t, nil)
	m.Config("interop.yaml", service)
	all := m.Workloads(
		mesh.Spec{Name: "client", Owner: "client", ServiceAccount: "client", Labels: map[string]string{"app": "client"}},
		mesh.Spec{Name: "interop", Owner: "interop", ServiceAccount: "interop", Labels: map[string]string{"app": "interop"},
			Ports: []mesh.Port{{Name: "grpc", Number: 9090}}, Tap: true})
	client, server := all[0], all[1]
	serve(t, server)

	type call = func(context.Context, testgrpc.TestServiceClient, ...grpc.CallOption)
	cases := []struct {
		name string
		do   call
	}{
		{"empty_unary", interop.DoEmptyUnaryCall},
		{"large_unary", interop.DoLargeUnaryCall},
		{"client_streaming", interop.DoClientStreaming},
		{"server_streaming", interop.DoServerStreaming},
		{"ping_pong", interop.DoPingPong},
		{"empty_stream", interop.DoEmptyStream},
		{"timeout_on_sleeping_server", interop.DoTimeoutOnSleepingServer},
		{"cancel_after_begin", interop.DoCancelAfterBegin},
		{"cancel_after_first_response", interop.DoCancelAfterFirstResponse},
		{"status_code_and_message", interop.DoStatusCodeAndMessage},
		{"special_status_message", interop.DoSpecialStatusMessage},
		{"custom_metadata", interop.DoCustomMetadata},
		{"unimplemented_method", func(ctx context.Context, _ testgrpc.TestServiceClient, _ ...grpc.CallOption) {
			cc := channel(t, client)
			defer cc.Close()
			interop.DoUnimplementedMethod(ctx, cc)
		}},
		{"unimplemented_service", func(ctx context.Context, _ testgrpc.TestServiceClient, _ ...grpc.CallOption) {
			cc := channel(t, client)
			defer cc.Close()
			interop.DoUnimplementedService(ctx, testgrpc.NewUnimplementedServiceClient(cc))
		}},
		// Load reports in trailers. (orca_oob wants them more often than a server outside of grpc-go may send them.)
		{"orca_per_rpc", func(ctx context.Context, _ testgrpc.TestServiceClient, _ ...grpc.CallOption) {
			cc := channel(t, client, grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}`))
			defer cc.Close()
			interop.DoORCAPerRPCTest(ctx, testgrpc.NewTestServiceClient(cc))
		}},
		{"rpc_soak", func(ctx context.Context, _ testgrpc.TestServiceClient, _ ...grpc.CallOption) {
			cc := channel(t, client)
			defer cc.Close()
			soak(ctx, func() (*grpc.ClientConn, func()) { return cc, func() {} })
		}},
		{"channel_soak", func(ctx context.Context, _ testgrpc.TestServiceClient, _ ...grpc.CallOption) {
			soak(ctx, func() (*grpc.ClientConn, func()) {
				cc := channel(t, client)
				return cc, func() { cc.Close() }
			})
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cc := channel(t, client)
			defer cc.Close()
			passed := make(chan bool, 1)
			go func() {
				ok := false
				defer func() { passed <- ok }()
				c.do(ctx, testgrpc.NewTestServiceClient(cc))
				ok = true
			}()
			if !<-passed {
				t.Error("the case failed; its reason is on standard error")
			}
		})
	}
	for _, f := range server.Wire(9090).Flows() {
		if b := f.Sent(); len(b) > 0 && b[0] != 0x16 {
			t.Errorf("between the proxies is plaintext: %q", b[:min(len(b), 80)])
		}
	}
	// The proxies took it for gRPC and not for bytes.
	for _, w := range all {
		counts := w.Metrics()["istio_requests_total"]
		if mesh.Count(counts, "request_protocol=grpc", "grpc_response_status=0") == 0 {
			t.Errorf("%s counted no gRPC request", w.Name)
		}
		if mesh.Count(counts, "request_protocol=grpc", "grpc_response_status=2") == 0 {
			t.Errorf("%s counted no gRPC request with status 2 (status_code_and_message has some)", w.Name)
		}
	}
}

// soak makes large calls on many workers.
func soak(ctx context.Context, channel func() (*grpc.ClientConn, func())) {
	interop.DoSoakTest(ctx, interop.SoakTestConfig{
		RequestSize: 271828, ResponseSize: 314159, PerIterationMaxAcceptableLatency: 20 * time.Second, OverallTimeout: 20 * time.Second,
		ServerAddr: "interop:9090", NumWorkers: 4, Iterations: 12, ChannelForTest: channel,
	})
}
