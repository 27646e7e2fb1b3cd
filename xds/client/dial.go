package client

import (
	"context"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	grpcbackoff "google.golang.org/grpc/backoff"
	"google.golang.org/grpc/keepalive"

	"github.com/weirmesh/weir/xds/resource"
)

const (
	// silence is how long what was sent may stay unanswered: data, by TCP (gRPC makes it
	// TCP_USER_TIMEOUT), and pings, by gRPC. TCP sends again after 0.2, 0.6, 1.4, 3.0, 6.2
	// and then 10 s, so that after a shorter interruption the connection goes on within 4 s.
	silence = 10 * time.Second
	// dialTime is how long to wait for the answer to a SYN, which is sent a second time
	// after 1 s: whoever can be reached again is noticed within 2 s.
	dialTime = 2 * time.Second
)

// DialOptions are the options for connections to a control plane: a vanished one is noticed
// within 12 s, one that hangs within 40 s, one that comes back within 4 s. Addresses are
// host:port and unix:PATH; a proxy for HTTP is not used, because that is for applications.
func DialOptions() []grpc.DialOption {
	return []grpc.DialOption{
		// Pings more often than every 15 s offend istiod; so TCP does that.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: silence}),
		grpc.WithContextDialer(dial),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(resource.MaxResponse), grpc.ForceCodecV2(newCodec())),
		// Attempts are spaced by the Client. The time is for a control plane to which thousands
		// come at once: who gives up in the middle of a handshake only makes it do it again.
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: grpcbackoff.DefaultConfig, MinConnectTimeout: 20 * time.Second}),
		grpc.WithDisableServiceConfig(),
	}
}

func dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{Timeout: dialTime, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}}
	if path, ok := strings.CutPrefix(addr, "unix:"); ok { // unix:///absolute, unix:relative
		return d.DialContext(ctx, "unix", strings.TrimPrefix(path, "//"))
	}
	return d.DialContext(ctx, "tcp", addr)
}
