package client_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/internal/memnet"
	"github.com/weirmesh/weir/xds/client"
	"github.com/weirmesh/weir/xds/resource"
)

// script is a control plane that says what the test makes it say.
type script struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	t        *testing.T
	net      memnet.Network
	requests chan *discoveryv3.DeltaDiscoveryRequest
	say      chan *discoveryv3.DeltaDiscoveryResponse // nil ends the stream
}

func (s *script) DeltaAggregatedResources(stream grpc.BidiStreamingServer[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]) error {
	go func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			s.requests <- r
		}
	}()
	for {
		select {
		case r := <-s.say:
			if r == nil {
				return status.Error(codes.Aborted, "enough")
			}
			if err := stream.Send(r); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		}
	}
}

// newScript serves until the returned function is called.
func newScript(t *testing.T) (*script, func()) {
	s := &script{t: t, requests: make(chan *discoveryv3.DeltaDiscoveryRequest, 100), say: make(chan *discoveryv3.DeltaDiscoveryResponse)}
	l, err := s.net.Listen("control")
	if err != nil {
		t.Fatal(err)
	}
	g := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s)
	go g.Serve(l)
	return s, g.Stop
}

func (s *script) dial(context.Context) (client.Conn, error) {
	return grpc.NewClient("passthrough:///control", append(client.DialOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, a string) (net.Conn, error) { return s.net.DialContext(ctx, "", a) }),
	)...)
}

func (s *script) options(apply func(context.Context, client.Update) error) client.Options {
	return client.Options{
		Dial: s.dial, Node: func() *corev3.Node { return &corev3.Node{Id: "proxy"} },
		Apply: apply, Log: slog.New(slog.DiscardHandler),
	}
}

// heard are the requests since it was last called, in short.
func (s *script) heard() []string {
	synctest.Wait()
	var out []string
	for len(s.requests) > 0 {
		r := <-s.requests
		line := []string{resource.Short(r.GetTypeUrl())}
		if r.GetNode() != nil {
			line = append(line, "node="+r.GetNode().GetId())
		}
		if n := r.GetResourceNamesSubscribe(); len(n) > 0 {
			line = append(line, fmt.Sprint("sub=", n))
		}
		if n := r.GetResourceNamesUnsubscribe(); len(n) > 0 {
			line = append(line, fmt.Sprint("unsub=", n))
		}
		if n := r.GetResponseNonce(); n != "" {
			line = append(line, "nonce="+n)
		}
		if e := r.GetErrorDetail(); e != nil {
			line = append(line, fmt.Sprintf("%s: %s", codes.Code(e.GetCode()), e.GetMessage()))
		}
		out = append(out, strings.Join(line, " "))
	}
	return out
}

func (s *script) expect(want ...string) {
	s.t.Helper()
	if d := cmp.Diff(want, s.heard(), cmpopts.EquateEmpty()); d != "" {
		s.t.Errorf("requests (-want +got)\n%s", d)
	}
}

// pass lets time pass in the bubble.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func response(typeURL, nonce string, names ...string) *discoveryv3.DeltaDiscoveryResponse {
	r := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL, Nonce: nonce, SystemVersionInfo: "v" + nonce}
	for _, n := range names {
		r.Resources = append(r.Resources, &discoveryv3.Resource{Name: n, Version: "1", Resource: &anypb.Any{TypeUrl: typeURL}})
	}
	return r
}

// Responses are applied one after the other, and those that are refused are NACKed. What Apply subscribes to is
// asked for before the ACK.
func TestApply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := newScript(t)
		var c *client.Client
		var calls []string
		release := make(chan struct{})
		c = client.New(s.options(func(_ context.Context, u client.Update) error {
			bad := false
			for _, r := range u.Set {
				bad = bad || r.Name == "bad"
			}
			if u.TypeURL == resource.ClusterType {
				c.Subscribe(resource.EndpointType, "a", "bad")
			}
			calls = append(calls, resource.Short(u.TypeURL))
			<-release
			if bad {
				return errors.New("endpoint bad has no address")
			}
			return nil
		}))
		c.Subscribe(resource.ClusterType)
		c.Subscribe(resource.ListenerType)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		s.expect("CDS node=proxy", "LDS")

		s.say <- response(resource.ClusterType, "1", "a")
		s.expect() // Apply is still at it
		s.say <- response(resource.EndpointType, "2", "a", "bad")
		s.say <- response(resource.ListenerType, "3", "l")
		s.say <- response(resource.ClusterType, "4", "b")
		s.say <- response(resource.ListenerType, "5", "l")
		s.say <- response("never.asked/For", "6", "x")
		s.say <- response(resource.ListenerType, "7") // nothing to apply
		synctest.Wait()
		close(release)
		s.expect("EDS sub=[a bad]", "CDS nonce=1",
			"EDS nonce=2 InvalidArgument: endpoint bad has no address", "LDS nonce=3", "CDS nonce=4",
			"LDS nonce=5", `For nonce=6 InvalidArgument: resources of type "never.asked/For" were not asked for`,
			"LDS nonce=7")
		if d := cmp.Diff([]string{"CDS", "EDS", "LDS", "CDS", "LDS"}, calls); d != "" {
			t.Errorf("calls of Apply (-want +got)\n%s", d)
		}
		st, _ := c.State()
		var eds client.TypeState
		for _, typ := range st.Types {
			if typ.TypeURL == resource.EndpointType {
				eds = typ
			}
		}
		want := client.TypeState{
			TypeURL: resource.EndpointType, Names: 2, Waiting: []string{"a", "bad"},
			LastNACK: &client.NACK{Version: "v2", Names: []string{"a", "bad"}, Message: "endpoint bad has no address", Time: time.Now()},
		}
		if d := cmp.Diff(want, eds); d != "" || st.Synced {
			t.Errorf("synced %v, state (-want +got)\n%s", st.Synced, d)
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run gives %v", err)
		}
		stop()
	})
}

// What a response means is read when those before it are applied: a name given up by then is not
// told as absent, or nobody would say when it has come, and one that is asked for again is not
// taken away by an answer to what was before.
func TestAnUpdateMayChangeWhatTheNextMeans(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := newScript(t)
		var c *client.Client
		var updates []string
		c = client.New(s.options(func(_ context.Context, u client.Update) error {
			updates = append(updates, fmt.Sprintf("%s %d set, removed %v, absent %v", resource.Short(u.TypeURL), len(u.Set), u.Removed, u.Absent))
			if u.TypeURL == resource.VirtualHostType && len(updates) > 1 { // a route leads elsewhere now
				c.Unsubscribe(resource.ClusterType, "old")
				c.Subscribe(resource.ClusterType, "new")
			}
			return nil
		}))
		c.Subscribe(resource.ClusterType)
		c.Subscribe(resource.ClusterType, "old")
		c.Subscribe(resource.VirtualHostType)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		s.expect("CDS node=proxy sub=[* old]", "VHDS sub=[*]")
		s.say <- response(resource.ClusterType, "1", "old", "new")
		s.expect("CDS nonce=1")
		updates = append(updates[:0], "begun")
		s.say <- response(resource.VirtualHostType, "2", "80/host")
		gone := response(resource.ClusterType, "3")
		gone.RemovedResources = []string{"new", "old"}
		s.say <- gone
		s.expect("CDS sub=[new] unsub=[old]", "VHDS nonce=2", "CDS sub=[new]", "CDS nonce=3")
		if d := cmp.Diff([]string{"begun", "VHDS 1 set, removed [], absent []", "CDS 0 set, removed [old], absent []"}, updates); d != "" {
			t.Errorf("updates (-want +got)\n%s", d)
		}
		if got := c.Asked(resource.ClusterType, []string{"new", "old"}); !slices.Equal(got, []string{"new"}) {
			t.Errorf("asked for are %v", got)
		}
		cancel()
		<-done
		stop()
	})
}

// refusal is an error about certain resources.
type refusal []string

func (r refusal) Error() string     { return "wrong: " + strings.Join(r, ", ") }
func (r refusal) Refused() []string { return r }

// What is right in a response is applied, whatever is wrong with the rest, and the rest is
// NACKed. Nothing is tried twice that cannot get better.
func TestApplyPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := newScript(t)
		var calls []string
		c := client.New(s.options(func(_ context.Context, u client.Update) error {
			var names, wrong []string
			for _, r := range u.Set {
				names = append(names, r.Name)
				if strings.HasPrefix(r.Name, "bad") {
					wrong = append(wrong, r.Name)
				}
			}
			calls = append(calls, strings.Join(names, "+"))
			if wrong != nil {
				return fmt.Errorf("building: %w", refusal(wrong))
			}
			return nil
		}))
		c.Subscribe(resource.ClusterType)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- c.Run(ctx) }()
		s.expect("CDS node=proxy")
		s.say <- response(resource.ClusterType, "1", "a", "bad", "b", "bad2")
		s.expect("CDS nonce=1 InvalidArgument: building: wrong: bad, bad2")
		s.say <- response(resource.ClusterType, "2", "bad")
		s.expect("CDS nonce=2 InvalidArgument: building: wrong: bad")
		if d := cmp.Diff([]string{"a+bad+b+bad2", "a+b", "bad"}, calls); d != "" {
			t.Errorf("calls of Apply (-want +got)\n%s", d)
		}
		if st, _ := c.State(); st.Types[0].Held != 2 || st.Types[0].Version != "" || st.Types[0].LastNACK == nil || !st.Synced {
			t.Errorf("state %+v", st)
		} else if d := cmp.Diff([]string{"bad", "bad2"}, st.Types[0].LastNACK.Names); d != "" {
			t.Errorf("refused (-want +got)\n%s", d)
		}
		s.say <- response(resource.ClusterType, "3", "c", "bad")
		s.expect("CDS nonce=3 InvalidArgument: building: wrong: bad")
		calls = nil
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run gives %v", err)
		}
		stop()
	})
}

// The state tells of every change, and keeps the reason of the last outage.
func TestState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := newScript(t)
		c := client.New(s.options(func(context.Context, client.Update) error { return nil }))
		c.Subscribe(resource.ClusterType)
		st, changed := c.State()
		if st.Connected || st.Synced || st.LastError != nil {
			t.Errorf("before: %+v", st)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go c.Run(ctx)
		synctest.Wait()
		if st, _ := c.State(); st.Connected {
			t.Error("a stream without a response counts as connected")
		}
		pass(time.Minute)
		r := response(resource.ClusterType, "1", "a")
		r.ControlPlane = &corev3.ControlPlane{Identifier: "weir-1"}
		s.say <- r
		<-changed
		synctest.Wait()
		st, changed = c.State()
		if !st.Connected || !st.Synced || !st.Since.Equal(time.Now()) || st.ControlPlane != "weir-1" || st.Types[0].Held != 1 || st.Types[0].Version != "v1" {
			t.Errorf("connected: %+v", st)
		}
		s.say <- nil
		<-changed
		st, _ = c.State()
		if st.Connected || !st.Synced || status.Code(st.LastError) != codes.Aborted {
			t.Errorf("after the end: %+v", st)
		}
		cancel()
		stop()
		synctest.Wait()
	})
}

// The first retry is at once, then the waits double from 100 ms to 10 s, of which half is
// random. A stream that worked starts that over.
func TestReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := newScript(t)
		var mu sync.Mutex
		var attempts []time.Time
		up := false
		o := s.options(func(context.Context, client.Update) error { return nil })
		o.Dial = func(ctx context.Context) (client.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			attempts = append(attempts, time.Now())
			if !up {
				return nil, errors.New("no route")
			}
			return s.dial(ctx)
		}
		c := client.New(o)
		c.Subscribe(resource.ClusterType)
		ctx, cancel := context.WithCancel(t.Context())
		go c.Run(ctx)
		pass(time.Minute)
		mu.Lock()
		for i, ceiling := range []time.Duration{0, 100, 200, 400, 800, 1600, 3200, 6400, 10000, 10000} {
			ceiling *= time.Millisecond
			if d := attempts[i+1].Sub(attempts[i]); d < ceiling/2 || d > ceiling {
				t.Errorf("wait %d is %v, want %v to %v", i+1, d, ceiling/2, ceiling)
			}
		}
		if st, _ := c.State(); st.LastError == nil || st.LastError.Error() != "connecting: no route" {
			t.Errorf("state %+v", st)
		}

		up = true
		mu.Unlock()
		pass(10 * time.Second)
		s.say <- response(resource.ClusterType, "1", "a")
		pass(10 * time.Second)
		s.say <- nil
		synctest.Wait()
		mu.Lock()
		if last := attempts[len(attempts)-1]; !last.Equal(time.Now()) {
			t.Errorf("after a stream that worked the last attempt was %v ago", time.Since(last))
		}
		mu.Unlock()
		cancel()
		stop()
		synctest.Wait()
	})
}

// Of an outage the log says one line when it is clear that nobody is there, and one when
// somebody is again; meanwhile the waits are 2 s at most. An end that the first retry makes
// good is one line.
func TestOutageInTheLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, stop := newScript(t)
		var mu sync.Mutex
		var attempts []time.Time
		up := true
		log := &lines{}
		o := s.options(func(context.Context, client.Update) error { return nil })
		o.Log = slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
		o.Dial = func(ctx context.Context) (client.Conn, error) {
			mu.Lock()
			defer mu.Unlock()
			attempts = append(attempts, time.Now())
			if up {
				return s.dial(ctx)
			}
			// Each text is another one.
			return nil, status.Errorf(codes.Unavailable, "reading from port %d: connection refused", len(attempts))
		}
		c := client.New(o)
		c.Subscribe(resource.ClusterType)
		ctx, cancel := context.WithCancel(t.Context())
		go c.Run(ctx)
		say := func() {
			r := response(resource.ClusterType, "1", "a")
			r.ControlPlane = &corev3.ControlPlane{Identifier: "weir-1"}
			s.say <- r
		}
		say()
		pass(time.Minute)
		s.say <- nil
		say()
		synctest.Wait()
		const opened = `level=INFO msg="configuration stream open" controlPlane=weir-1`
		log.expect(t, opened, opened+` away=0s lost="rpc error: code = Aborted desc = enough"`)

		pass(time.Minute)
		mu.Lock()
		up, attempts = false, nil
		mu.Unlock()
		s.say <- nil
		pass(30 * time.Second)
		mu.Lock()
		for i := len(attempts) - 1; i > 5; i-- {
			if d := attempts[i].Sub(attempts[i-1]); d > 2*time.Second {
				t.Errorf("attempt %d comes after %v", i, d)
			}
		}
		up = true
		mu.Unlock()
		pass(2 * time.Second)
		say()
		synctest.Wait()
		log.expect(t, `level=WARN msg="no control plane: what it said last stays in force" err="connecting: rpc error: code = Unavailable desc = reading from port 1: connection refused" lost="rpc error: code = Aborted desc = enough"`,
			opened+" away=32s")
		cancel()
		stop()
		synctest.Wait()
	})
}

// lines are what was logged since it was last looked at.
type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) expect(t *testing.T, want ...string) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	got := strings.Split(strings.TrimSuffix(l.b.String(), "\n"), "\n")
	l.b.Reset()
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("the log (-want +got):\n%s", d)
	}
}

// Addresses are host:port and Unix sockets.
func TestDial(t *testing.T) {
	dir, err := os.MkdirTemp("", "weir-test-") // t.TempDir's names are too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	t.Chdir(dir)
	for _, c := range []struct{ network, addr, prefix string }{
		{"tcp", "127.0.0.1:0", ""}, {"unix", filepath.Join(dir, "absolute"), "unix://"}, {"unix", filepath.Join(dir, "short"), "unix:"}, {"unix", "relative", "unix:"},
	} {
		l, err := net.Listen(c.network, c.addr)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := grpc.NewClient(c.prefix+l.Addr().String(), append(client.DialOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()))...)
		if err != nil {
			t.Fatal(err)
		}
		conn.Connect()
		arrived, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		arrived.Close()
		conn.Close()
		l.Close()
	}
}
