package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// echoed is the method that all calls of gRPC are to: its path is one that policies let in.
const echoed = "/api/Echo"

// serveEcho is the application behind the rows of gRPC: it answers each message with the same.
func serveEcho(address string) error {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", address)
	if err != nil {
		return err
	}
	return grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		for m := new(wrapperspb.BytesValue); ; {
			if err := s.RecvMsg(m); err != nil {
				if errors.Is(err, io.EOF) {
					err = nil
				}
				return err
			}
			if err := s.SendMsg(m); err != nil {
				return err
			}
		}
	})).Serve(l)
}

// multiplex asks by HTTP/2 as h2load does, ten streams at a time on each of ten connections; the sidecars speak HTTP/2 to each other, too.
func multiplex(ctx context.Context, m *mesh, r *row) (float64, error) {
	return m.h2load(ctx, m.http2[r.service], path, "-H", ":authority: "+r.service+".shop", "-H", "authorization: Bearer "+m.tokens[0])
}

// unary makes gRPC's calls with a message of 1 KB and one in answer, in the same way.
func unary(ctx context.Context, m *mesh, r *row) (float64, error) {
	message, err := proto.Marshal(wrapperspb.Bytes(make([]byte, 1<<10)))
	if err != nil {
		return 0, err
	}
	file := filepath.Join(m.dir, r.name+".body")
	framed := append([]byte{0, 0, 0, byte(len(message) >> 8), byte(len(message))}, message...)
	if err := os.WriteFile(file, framed, 0o600); err != nil {
		return 0, err
	}
	return m.h2load(ctx, m.grpc[r.service], echoed, "-d", file, "-H", ":authority: "+r.service+".shop", "-H", "content-type: application/grpc", "-H", "te: trailers",
		"-H", "authorization: Bearer "+m.tokens[0])
}

// h2load returns how many requests succeeded; that one failed is an error.
func (m *mesh) h2load(ctx context.Context, address, path string, args ...string) (float64, error) {
	args = append([]string{"-c", strconv.Itoa(loadCore), "h2load", "-t", "1", "-c", "10", "-m", "10", "-D", fmt.Sprintf("%.0f", m.o.length.Seconds())}, args...)
	out, err := exec.CommandContext(ctx, "taskset", append(args, "http://"+address+path)...).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("h2load: %w: %s", err, out)
	}
	if found := requests2.FindSubmatch(out); found != nil && succeeded.Match(out) {
		return strconv.ParseFloat(string(found[1]), 64)
	}
	return 0, fmt.Errorf("h2load: %s", out)
}

// stream keeps as many streams of gRPC open as there are callers, on four connections, and sends 1 KB on each again when it has come back.
func stream(ctx context.Context, m *mesh, r *row) (float64, error) {
	var conns [4]*grpc.ClientConn
	for i := range conns {
		c, err := m.dialGRPC(r.service)
		if err != nil {
			return 0, err
		}
		defer c.Close()
		conns[i] = c
	}
	var next atomic.Int64
	return m.turns(ctx, func(ctx context.Context, count func()) error {
		s, err := m.begin(conns[int(next.Add(1))%len(conns)], echoed, m.tokens[0])
		if err != nil {
			return err
		}
		in, out := new(wrapperspb.BytesValue), wrapperspb.Bytes(make([]byte, 1<<10))
		for ; ctx.Err() == nil; count() {
			if err := errors.Join(s.SendMsg(out), s.RecvMsg(in)); err != nil {
				return err
			}
		}
		return s.CloseSend()
	})
}

func (m *mesh) dialGRPC(service string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+m.grpc[service], grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority(service+".shop"))
}

// begin begins a call, which the end of a round does not end: that is no failure.
func (m *mesh) begin(c *grpc.ClientConn, method, token string) (grpc.ClientStream, error) {
	ctx := metadata.AppendToOutgoingContext(context.Background(), "authorization", "Bearer "+token)
	return c.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, method)
}

// checkGRPC proves that calls of gRPC are answered, and refused where policies and tokens say so: h2load sees 200 either way.
func (m *mesh) checkGRPC(r *row) error {
	type call struct {
		method, token string
		want          codes.Code
	}
	calls := []call{{echoed, m.tokens[0], codes.OK}}
	if governed(r.service) {
		calls = append(calls, call{"/team-01/Echo", m.tokens[0], codes.PermissionDenied})
	}
	if checked(r.service) {
		calls = append(calls, call{echoed, m.tokens[0] + "x", codes.Unauthenticated})
	}
	conn, err := m.dialGRPC(r.service)
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, c := range calls {
		if err := eventually(func() error {
			sent := wrapperspb.Bytes([]byte("hello"))
			got := new(wrapperspb.BytesValue)
			s, err := m.begin(conn, c.method, c.token)
			if err == nil {
				err = errors.Join(s.SendMsg(sent), s.CloseSend())
			}
			if err == nil || errors.Is(err, io.EOF) {
				err = s.RecvMsg(got)
			}
			if status.Code(err) != c.want || err == nil && !bytes.Equal(got.Value, sent.Value) {
				return fmt.Errorf("%s: %q, %w; it should be %s", c.method, got.Value, err, c.want)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

// site is the folder of what nghttpd serves: 1 KB.
func (m *mesh) site() (string, error) {
	name, _, _ := strings.Cut(path, "?")
	file := filepath.Join(m.dir, "site", filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return "", err
	}
	return filepath.Join(m.dir, "site"), os.WriteFile(file, bytes.Repeat([]byte("y"), 1<<10), 0o600)
}
