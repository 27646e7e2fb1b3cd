package server

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/status"

	"github.com/weirmesh/weir/xds/resource"
)

// The transcripts in testdata/machine are conversations with one machine. They know
//
//	stream delta|sotw [names=N]   a client connects (N limits its names); the View stays
//	view N                        lines "CDS a=1 b=2": a View with Version N is published; in a line
//	                              "CDS * *a=1 b=2" a wildcard means a only
//	request CDS [sub=(a,b)] [unsub=(c)] [known=(a=1)] [nonce=x]        delta
//	request CDS [names=(a,b)] [nonce=x]                                state of the world
//	ack CDS | nack CDS            the answer to the last response, with the message below
//	status
//
// and print what is sent: "→ CDS 2 v7: a=1 -b" is nonce 2, View 7, a with content 1, b removed.
//
// If a test fails, run go test ./xds/server -rewrite and look at the difference. Only
// commit the changes if you understand what caused them and if they are desired.
func TestMachine(t *testing.T) {
	datadriven.Walk(t, "testdata/machine", func(t *testing.T, path string) {
		c := &conversation{t: t, limits: limits{types: 5, names: 100}}
		datadriven.RunTest(t, path, c.run)
	})
}

type conversation struct {
	t      *testing.T
	m      *machine
	limits limits
	view   *resource.View
	last   map[string]*response // by type
	names  map[string][]string  // by type, of the last sotw request
	out    strings.Builder
}

func (c *conversation) run(t *testing.T, d *datadriven.TestData) string {
	c.t = t
	c.out.Reset()
	list := func(key string) []string {
		for _, a := range d.CmdArgs {
			if a.Key == key {
				return a.Vals
			}
		}
		return nil
	}
	text := func(key string) string { return strings.Join(list(key), ", ") }
	var typeURL string
	if len(d.CmdArgs) > 0 {
		typeURL = longURL(d.CmdArgs[0].Key)
	}
	switch d.Cmd {
	case "stream":
		c.limits.names = 100
		if n := text("names"); n != "" {
			c.limits.names, _ = strconv.Atoi(n)
		}
		c.m = newMachine(d.CmdArgs[0].Key == "sotw", "", c.limits, newBundles())
		c.last, c.names = map[string]*response{}, map[string][]string{}
		if c.view != nil {
			c.sent(c.m.publish(c.view), nil)
		}
	case "view":
		version, err := strconv.ParseUint(d.CmdArgs[0].Key, 10, 64)
		if err != nil {
			d.Fatalf(t, "%v", err)
		}
		c.view = parseView(version, d.Input)
		if c.m != nil {
			c.sent(c.m.publish(c.view), nil)
		}
	case "request":
		if c.m.sotw {
			nonce := text("nonce")
			if nonce == "" && c.last[typeURL] != nil {
				nonce = c.last[typeURL].nonce
			}
			c.names[typeURL] = list("names")
			c.sent(c.m.sotwRequest(&discoveryv3.DiscoveryRequest{TypeUrl: typeURL, ResourceNames: list("names"), ResponseNonce: nonce}, time.Time{}))
			break
		}
		known := map[string]string{}
		for _, kv := range list("known") {
			k, v, _ := strings.Cut(kv, "=")
			known[k] = resource.Version([]byte(v))
		}
		c.sent(c.m.deltaRequest(&discoveryv3.DeltaDiscoveryRequest{
			TypeUrl: typeURL, ResourceNamesSubscribe: list("sub"), ResourceNamesUnsubscribe: list("unsub"),
			InitialResourceVersions: known, ResponseNonce: text("nonce"),
		}, time.Time{}))
	case "ack", "nack":
		var detail *rpcstatus.Status
		if d.Cmd == "nack" {
			detail = &rpcstatus.Status{Message: strings.TrimSpace(d.Input)}
		}
		c.answer(typeURL, detail)
	case "status":
		c.status()
	default:
		d.Fatalf(t, "unknown command %q", d.Cmd)
	}
	if c.out.Len() == 0 {
		return "nothing\n"
	}
	return c.out.String()
}

func (c *conversation) answer(typeURL string, detail *rpcstatus.Status) {
	nonce := c.last[typeURL].nonce
	if c.m.sotw {
		c.sent(c.m.sotwRequest(&discoveryv3.DiscoveryRequest{TypeUrl: typeURL, ResourceNames: c.names[typeURL], ResponseNonce: nonce, ErrorDetail: detail}, time.Time{}))
	} else {
		c.sent(c.m.deltaRequest(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, ResponseNonce: nonce, ErrorDetail: detail}, time.Time{}))
	}
}

func (c *conversation) sent(out []*response, err error) {
	if err != nil {
		fmt.Fprintf(&c.out, "stream ends: %s %s\n", status.Code(err), status.Convert(err).Message())
	}
	for _, r := range out {
		fmt.Fprintln(&c.out, "→", r)
		c.last[r.typeURL] = r
	}
	checkInvariants(c.t, c.m)
}

// checkInvariants holds after every step.
func checkInvariants(t interface{ Errorf(string, ...any) }, m *machine) {
	names := 0
	for _, s := range m.subs {
		names += s.names.len()
		for n := range s.dirty {
			if s.limited && m.phase < phaseDone {
				continue // what a wildcard does not mean any more is removed when nothing can refer to it
			}
			if r := m.base(s).At(n); !s.subscribed(n) && (s.flight == nil || r != nil) && m.latest != nil {
				t.Errorf("%s %q is dirty, but not subscribed to", resource.Short(s.typeURL), n)
			}
		}
		if m.latest != nil && s.flight == nil && m.phase == phaseDone && m.target == m.latest {
			for n := range s.dirty {
				t.Errorf("%s %q is dirty, but nothing keeps it", resource.Short(s.typeURL), n)
			}
		}
	}
	if names != m.names {
		t.Errorf("%d names are counted, %d subscribed to", m.names, names)
	}
	if m.latest != nil && (m.active > m.settled || m.settled > m.latest.Version) {
		t.Errorf("active %d, settled %d, latest %d", m.active, m.settled, m.latest.Version)
	}
}

func (r *response) String() string {
	parts := []string{}
	for _, res := range r.resources {
		parts = append(parts, res.Name()+"="+string(res.Body()))
	}
	for _, n := range r.removed {
		parts = append(parts, "-"+n)
	}
	if len(parts) == 0 {
		parts = []string{"nothing"}
	}
	return fmt.Sprintf("%s %s v%d: %s", resource.Short(r.typeURL), r.nonce, r.version, strings.Join(parts, " "))
}

func (c *conversation) status() {
	fmt.Fprintf(&c.out, "phase=%v round=%d active=%d\n", c.m.phase, c.m.round, c.m.active)
	for _, s := range c.m.subs {
		names := slices.Sorted(s.names.all())
		if s.wildcard {
			names = append([]string{"*"}, names...)
		}
		fmt.Fprintf(&c.out, "%s subscribed=%v sent=%d acked=%d", resource.Short(s.typeURL), names, s.sent, s.acked)
		if s.flight != nil {
			fmt.Fprintf(&c.out, " unanswered=%v", s.flight.names)
		}
		if len(s.dirty) > 0 {
			fmt.Fprintf(&c.out, " waiting=%v", slices.Sorted(maps.Keys(s.dirty)))
		}
		if len(s.nacked) > 0 {
			fmt.Fprintf(&c.out, " rejected=%v", slices.Sorted(maps.Keys(s.nacked)))
		}
		if s.lastNACK != nil {
			fmt.Fprintf(&c.out, " last-nack=%v %q", s.lastNACK.Names, s.lastNACK.Message)
		}
		fmt.Fprintln(&c.out)
	}
}

// parseView reads lines "CDS a=1 b=2" or "CDS * *a=1 b=2".
func parseView(version uint64, text string) *resource.View {
	v := resource.NewView(version)
	v.Wild = map[string]resource.Set{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		for _, kv := range f[min(1, len(f)):] {
			typeURL := longURL(f[0])
			if kv == "*" {
				v.Wild[typeURL] = resource.Set{}
				continue
			}
			kv, wild := strings.CutPrefix(kv, "*")
			name, body, _ := strings.Cut(kv, "=")
			r := resource.FromBytes(typeURL, name, []byte(body))
			v.Sets[typeURL] = v.Sets[typeURL].Set(name, r)
			if wild {
				v.Wild[typeURL] = v.Wild[typeURL].Set(name, r)
			}
		}
	}
	return v
}

func longURL(short string) string {
	for _, u := range []string{
		resource.ClusterType, resource.EndpointType, resource.ListenerType, resource.RouteType,
		resource.VirtualHostType, resource.SecretType, resource.ExtensionConfigType, resource.NameTableType,
	} {
		if resource.Short(u) == short {
			return u
		}
	}
	if short == "none" {
		return ""
	}
	return "type.googleapis.com/" + short
}

func TestMentions(t *testing.T) {
	for _, c := range []struct {
		text, name string
		want       bool
	}{
		{"Error adding/updating cluster(s) outbound|80||a.b: bad", "outbound|80||a.b", true},
		{"Error adding/updating cluster(s) outbound|80||a.b: bad", "a.b", false},
		{`listener "0.0.0.0_80": x`, "0.0.0.0_80", true},
		{"cluster abc is bad; cluster ab too", "ab", true},
		{"cluster abc is bad", "ab", false},
		{"route 80", "80", true},
		{"route 8080", "80", false},
		{"anything", "", false},
		{"a", "a", true},
	} {
		if got := mentions(c.text, c.name); got != c.want {
			t.Errorf("mentions(%q, %q) = %v", c.text, c.name, got)
		}
	}
}
