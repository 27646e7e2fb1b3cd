package http_test

import (
	"maps"
	"slices"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/loop"
	pstate "github.com/weirmesh/weir/proxy/state"
	"github.com/weirmesh/weir/xds/resource"
)

// xds is the command of that name: a resource as a control plane sends it, that is in force from now on, or the error by which it is
// refused. Of a listener its first chain takes the place of what config said. The script's own clusters and routes are gone.
func (s *script) xds(kind, text string) error {
	if s.builder == nil {
		s.builder = pstate.NewBuilder(pstate.Options{Plaintext: true, Cluster: "here", Loop: func() *loop.Loop { return s.loop }, Checks: func() *cluster.Checks { return s.checks }})
	}
	var m interface {
		proto.Message
		GetName() string
	}
	u := pstate.Update{}
	switch kind {
	case "cluster":
		m, u.TypeURL = &clusterv3.Cluster{}, resource.ClusterType
	case "routes":
		m, u.TypeURL = &routev3.RouteConfiguration{}, resource.RouteType
	case "listener":
		m, u.TypeURL = &listenerv3.Listener{}, resource.ListenerType
	default:
		s.t.Fatalf("unknown %s", kind)
	}
	if err := prototext.Unmarshal([]byte(text), m); err != nil {
		s.t.Fatal(err)
	}
	body, err := anypb.New(m)
	if err != nil {
		s.t.Fatal(err)
	}
	u.Set = []pstate.Resource{{Name: m.GetName(), Version: "1", Body: body}}
	next, _, err := s.builder.Apply(u)
	if err != nil {
		return err
	}
	if l := next.Listener(m.GetName()); l != nil && kind == "listener" {
		s.cfg = l.Config.Chains[0].Filters.(*http.Config)
	}
	s.state = &state{clusters: slices.Collect(next.Clusters())}
	s.worker.SetState(next)
	return nil
}

// asked sends a request on a connection of its own, answers it where it arrives, and says where that was and what was asked there, with
// the headers that are told of; or what the client heard, if it arrived nowhere.
func (s *script) asked(request, answer string, tell ...string) string {
	s.t.Helper()
	c, err := s.net.Dial(front)
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Send(wire(s.t, request+"\n\n\\c")); err != nil {
		s.t.Fatal(err)
	}
	s.net.Advance(100 * time.Millisecond) // and further attempts
	out := ""
	for _, at := range slices.Sorted(maps.Keys(s.listeners)) {
		u := s.listeners[at].Accept()
		if u == nil {
			continue
		}
		b, _ := u.Recv()
		line, head, _ := strings.Cut(string(b), "\r\n")
		out += at + " " + strings.TrimSuffix(line, " HTTP/1.1")
		for _, name := range append([]string{"host"}, tell...) {
			for l := range strings.SplitSeq(head, "\r\n") {
				if v, ok := strings.CutPrefix(strings.ToLower(l), name+": "); ok {
					out += " " + name + "=" + v
				}
			}
		}
		if _, err := u.Send([]byte(answer)); err != nil {
			s.t.Fatal(err)
		}
		s.net.Step()
		u.Close()
		s.net.Step()
	}
	b, _ := c.Recv()
	s.answer = string(b)
	if out == "" {
		head, body, _ := strings.Cut(string(b), "\r\n\r\n")
		status, _, _ := strings.Cut(strings.TrimPrefix(head, "HTTP/1.1 "), " ")
		return strings.TrimSpace(status + " " + body)
	}
	return out
}
