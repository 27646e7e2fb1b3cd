package server

import (
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/weirmesh/weir/xds/resource"
)

// Holding is what a client is to hold.
type Holding struct {
	Client Client
	// Resources are those of the newest View that it subscribed to, in no order.
	Resources []*resource.Resource
}

// Holding looks the client up whose node is chosen; of several streams the newest counts.
func (s *Server) Holding(choose func(node string) bool) (Holding, bool) {
	var se *session
	for _, x := range s.snapshot() {
		if choose(x.node.GetId()) && (se == nil || x.since.After(se.since)) {
			se = x
		}
	}
	if se == nil {
		return Holding{}, false
	}
	h := Holding{Client: se.status()}
	se.mu.Lock()
	defer se.mu.Unlock()
	for _, sub := range se.m.subs {
		set := se.m.latest.Set(sub.typeURL)
		if sub.everything() {
			h.Resources = slices.AppendSeq(h.Resources, set.Values())
			continue
		}
		for name, r := range set.All() {
			if sub.subscribed(name) {
				h.Resources = append(h.Resources, r)
			}
		}
	}
	return h, true
}

// waits reports whether the client has not been sent, or has not answered, all that it is
// to hold of a type.
func (m *machine) waits(s *subscription) bool {
	return s.flight != nil || len(s.dirty) > 0 || s.owing || !m.latest.Set(s.typeURL).Same(m.base(s))
}

// agent is the program that a node says it is, with its version.
func agent(n *corev3.Node) string {
	v := n.GetUserAgentVersion()
	if b := n.GetUserAgentBuildVersion().GetMetadata().GetFields(); v == "" && b != nil {
		v = b["revision.sha"].GetStringValue()
	}
	const most = 80 // the client's text
	name := strings.TrimSpace(n.GetUserAgentName() + " " + v)
	return strings.ToValidUTF8(name[:min(len(name), most)], "")
}
