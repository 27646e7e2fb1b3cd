package server_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"pgregory.net/rapid"

	"github.com/weirmesh/weir/xds/client"
	"github.com/weirmesh/weir/xds/resource"
	"github.com/weirmesh/weir/xds/server"
)

// Whatever changes, crosses, is refused and is cut off: when everything has arrived the
// client holds what the server wants it to hold, except for what it refuses, and the
// server knows it. On the way no route is held whose cluster or endpoints are not.
func TestConvergence(t *testing.T) {
	for _, sotw := range []bool{false, true} {
		t.Run(map[bool]string{false: "delta", true: "sotw"}[sotw], func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// Without the deadline of *testing.T, which must not be asked for in a bubble.
				tb := struct{ testing.TB }{t}
				// Some of the mistakes that are possible here show in one of some hundred.
				for range 5 {
					rapid.Check(tb, func(rt *rapid.T) { converge(rt, sotw) })
				}
			})
		})
	}
}

func converge(rt *rapid.T, sotw bool) {
	ctx, cancel := context.WithCancel(context.Background())
	defer func() {
		cancel()
		synctest.Wait()
	}()
	w := &world{t: rt, content: map[string]map[string]string{}, badAllowed: rapid.Bool().Draw(rt, "bad allowed")}
	for i, c := range clusters[:2] {
		w.set(resource.ClusterType, c, "x")
		w.set(resource.EndpointType, c, "x")
		w.set(resource.RouteType, routes[i], c)
		w.set(resource.ListenerType, listeners[i], routes[i])
	}
	w.publish()
	log := slog.New(slog.DiscardHandler)
	s := server.New(server.Options{
		Source: w, Log: log, Identifier: "test",
		Authorize: func(server.Peer, *corev3.Node) error { return nil },
	})
	go s.Run(ctx)
	tr := &transport{server: s, codec: server.NewCodec()}
	p := &proxy{t: rt, w: w, store: map[string]map[string]string{}, secrets: map[string]bool{}, warming: map[string]bool{}, terse: rapid.Bool().Draw(rt, "terse")}
	p.c = client.New(client.Options{
		Dial: func(context.Context) (client.Conn, error) { return tr, nil },
		Node: func() *corev3.Node { return &corev3.Node{Id: "proxy"} },
		Log:  log, SotW: sotw, Apply: p.apply,
	})
	p.c.Subscribe(resource.ClusterType)
	p.c.Subscribe(resource.ListenerType)
	go p.c.Run(ctx)

	secrets := []string{"s1", "s2", "s3"}
	for range rapid.IntRange(20, 120).Draw(rt, "steps") {
		switch rapid.SampledFrom([]string{"edit", "edit", "publish", "pass", "pass", "pass", "pass", "drop", "secret"}).Draw(rt, "step") {
		case "edit":
			w.edit()
		case "publish":
			w.publish()
		case "pass":
			for range rapid.IntRange(1, 4).Draw(rt, "messages") {
				tr.pass(rapid.IntRange(0, 3).Draw(rt, "direction"))
				synctest.Wait()
			}
		case "drop":
			tr.drop()
			p.unordered = sotw
			clear(p.warming) // how Envoy gets over that is its own affair
		case "secret":
			n := rapid.SampledFrom(secrets).Draw(rt, "secret")
			if p.secrets[n] = !p.secrets[n]; !p.secrets[n] {
				p.c.Unsubscribe(resource.SecretType, n)
				delete(p.at(resource.SecretType), n)
			} else {
				p.c.Subscribe(resource.SecretType, n)
			}
		}
		synctest.Wait()
		if p.err != nil {
			rt.Fatal(p.err)
		}
	}
	// Twice: what is asked for and rejected after a View was active does not undo that.
	for range 2 {
		w.publish()
		// Until the longest back-off has passed and nothing moves any more.
		for quiet := 0; quiet < 2; {
			synctest.Wait()
			if tr.pass(0) {
				quiet = 0
				continue
			}
			time.Sleep(11 * time.Second) // of the bubble's clock
			quiet++
		}
	}
	if p.err != nil {
		rt.Fatal(p.err)
	}
	p.compare(sotw)
	if !sotw { // where the client does not show what came unchanged
		p.compareWarming()
	}
	compareStatus(rt, w, p, s, sotw)
}

// world is the configuration, and the Source.
type world struct {
	t          *rapid.T
	badAllowed bool
	bad        bool // something bad was ever published
	n          int
	version    uint64
	content    map[string]map[string]string // by type and name
	feed       server.Feed
}

func (w *world) Connect(context.Context, *corev3.Node, server.Peer) (*server.Feed, error) {
	return &w.feed, nil
}

func (w *world) set(typeURL, name, content string) {
	if w.content[typeURL] == nil {
		w.content[typeURL] = map[string]string{}
	}
	w.content[typeURL][name] = content
}

// fresh is content that was never there before, and at times bad.
func (w *world) fresh(prefix string) string {
	w.n++
	if w.badAllowed && rapid.IntRange(0, 5).Draw(w.t, "is bad") == 0 {
		w.bad = true
		prefix += " bad"
	}
	return fmt.Sprintf("%s #%d", prefix, w.n)
}

// reference is the first word of content: what it refers to.
func reference(content string) string {
	ref, _, _ := strings.Cut(content, " ")
	return ref
}

var (
	clusters  = []string{"c1", "c2", "c3", "c4"}
	listeners = []string{"l1", "l2"}
	routes    = []string{"r1", "r2", "r3"}
)

// edit makes one change after which everything referred to exists.
func (w *world) edit() {
	pick := func(names []string) string { return rapid.SampledFrom(names).Draw(w.t, "name") }
	switch rapid.SampledFrom([]string{"cluster", "cluster", "endpoints", "route", "route", "listener", "remove", "secret"}).Draw(w.t, "edit") {
	case "cluster":
		c := pick(clusters)
		w.set(resource.ClusterType, c, w.fresh("x"))
		if w.content[resource.EndpointType][c] == "" {
			w.set(resource.EndpointType, c, w.fresh("x"))
		}
	case "endpoints":
		if c := pick(clusters); w.content[resource.ClusterType][c] != "" {
			w.set(resource.EndpointType, c, w.fresh("x"))
		}
	case "route":
		if c := pick(clusters); w.content[resource.ClusterType][c] != "" {
			w.set(resource.RouteType, pick(routes), w.fresh(c))
		}
	case "listener":
		if r := pick(routes); w.content[resource.RouteType][r] != "" {
			w.set(resource.ListenerType, pick(listeners), w.fresh(r))
		}
	case "secret":
		s := pick([]string{"s1", "s2", "s3"})
		if rapid.Bool().Draw(w.t, "there") {
			w.set(resource.SecretType, s, w.fresh("x"))
		} else {
			delete(w.content[resource.SecretType], s)
		}
	case "remove":
		c := pick(clusters)
		delete(w.content[resource.ClusterType], c)
		delete(w.content[resource.EndpointType], c)
		for r, content := range w.content[resource.RouteType] {
			if reference(content) == c {
				delete(w.content[resource.RouteType], r)
			}
		}
		for l, content := range w.content[resource.ListenerType] {
			if w.content[resource.RouteType][reference(content)] == "" {
				delete(w.content[resource.ListenerType], l)
			}
		}
	}
}

func (w *world) publish() {
	w.version++
	var all []*resource.Resource
	for typeURL, byName := range w.content {
		for name, content := range byName {
			b := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), name)
			b = protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), content)
			all = append(all, resource.FromBytes(typeURL, name, b))
		}
	}
	w.feed.Publish(resource.NewView(w.version, all...))
}

// proxy applies what it is told as a whole or not at all, refuses what is bad, and
// subscribes to what it learns of.
type proxy struct {
	t     *rapid.T
	w     *world
	c     *client.Client
	terse bool // does not say what is bad
	// In state of the world the server of a new stream does not know what is held, so it
	// cannot keep what the client's routes still refer to.
	unordered bool
	// warming are clusters that took the place of others and wait for their endpoints,
	// as Envoy's do.
	warming map[string]bool
	store   map[string]map[string]string
	secrets map[string]bool
	err     error
}

func (p *proxy) at(typeURL string) map[string]string {
	if p.store[typeURL] == nil {
		p.store[typeURL] = map[string]string{}
	}
	return p.store[typeURL]
}

func (p *proxy) apply(_ context.Context, u client.Update) error {
	for _, r := range u.Set {
		if strings.Contains(contentOf(r), "bad") {
			if p.terse {
				return fmt.Errorf("no")
			}
			return fmt.Errorf("resource %q is bad", r.Name)
		}
	}
	for _, r := range u.Set {
		switch had := p.at(u.TypeURL)[r.Name]; u.TypeURL {
		case resource.ClusterType:
			p.c.Subscribe(resource.EndpointType, r.Name)
			p.warming[r.Name] = had != ""
		case resource.EndpointType:
			delete(p.warming, r.Name)
		}
		p.at(u.TypeURL)[r.Name] = contentOf(r)
	}
	for _, n := range u.Removed {
		delete(p.at(u.TypeURL), n)
		if u.TypeURL == resource.ClusterType {
			p.c.Unsubscribe(resource.EndpointType, n)
			delete(p.warming, n)
			delete(p.at(resource.EndpointType), n)
		}
	}
	if u.TypeURL == resource.ListenerType {
		wanted := p.routes()
		for _, r := range routes {
			if slices.Contains(wanted, r) {
				p.c.Subscribe(resource.RouteType, r)
			} else {
				p.c.Unsubscribe(resource.RouteType, r)
				delete(p.at(resource.RouteType), r)
			}
		}
	}
	if p.w.bad || p.unordered {
		return nil
	}
	for r, content := range p.at(resource.RouteType) {
		c := reference(content)
		if p.at(resource.ClusterType)[c] == "" || p.at(resource.EndpointType)[c] == "" {
			p.err = fmt.Errorf("route %s refers to %s, which is not there:\n%v\nafter %v", r, c, p.store, u)
		}
	}
	return nil
}

// routes are those that the listeners refer to.
func (p *proxy) routes() []string {
	var out []string
	for content := range maps.Values(p.at(resource.ListenerType)) {
		out = append(out, reference(content))
	}
	return out
}

func contentOf(r client.Resource) string {
	b := r.Body.Value
	for {
		num, _, n := protowire.ConsumeTag(b)
		v, m := protowire.ConsumeString(b[n:])
		if num == 2 {
			return v
		}
		b = b[n+m:]
	}
}

// wanted are the names that the proxy subscribes to.
func (p *proxy) wanted(typeURL string) []string {
	switch typeURL {
	case resource.EndpointType:
		return slices.Collect(maps.Keys(p.at(resource.ClusterType)))
	case resource.RouteType:
		return p.routes()
	case resource.SecretType:
		var out []string
		for n, on := range p.secrets {
			if on {
				out = append(out, n)
			}
		}
		return out
	}
	names := slices.Collect(maps.Keys(p.w.content[typeURL]))
	return append(names, slices.Collect(maps.Keys(p.at(typeURL)))...)
}

func (p *proxy) compare(sotw bool) {
	for _, typeURL := range []string{resource.ClusterType, resource.EndpointType, resource.ListenerType, resource.RouteType, resource.SecretType} {
		whole := typeURL == resource.ClusterType || typeURL == resource.ListenerType
		content := p.w.content[typeURL]
		if sotw && whole && slices.ContainsFunc(slices.Collect(maps.Values(content)), isBad) {
			continue // one bad resource condemns all: that is state of the world
		}
		wanted := p.wanted(typeURL)
		for _, n := range wanted {
			want, got := content[n], p.at(typeURL)[n]
			switch {
			case isBad(want):
				if isBad(got) {
					p.t.Errorf("%s %s: bad content is held", resource.Short(typeURL), n)
				}
			case want == "" && sotw && !whole: // nothing says that it is gone
			case want != got:
				p.t.Errorf("%s %s: the client holds %q, the server wants %q", resource.Short(typeURL), n, got, want)
			}
		}
		for n := range p.at(typeURL) {
			if !slices.Contains(wanted, n) {
				p.t.Errorf("%s %s is held, but not subscribed to", resource.Short(typeURL), n)
			}
		}
	}
}

func (p *proxy) compareWarming() {
	for c, waits := range p.warming {
		if waits && !isBad(p.w.content[resource.EndpointType][c]) {
			p.t.Errorf("cluster %s waits for its endpoints", c)
		}
	}
}

func isBad(content string) bool { return strings.Contains(content, "bad") }

func compareStatus(t *rapid.T, w *world, p *proxy, s *server.Server, sotw bool) {
	clients := s.Clients()
	if len(clients) != 1 {
		t.Fatalf("the server knows %d clients", len(clients))
	}
	c := clients[0]
	bad := false
	for _, typ := range c.Types {
		if typ.Unanswered {
			t.Errorf("%s is unanswered", resource.Short(typ.TypeURL))
		}
		var want []string
		for _, n := range p.wanted(typ.TypeURL) {
			if isBad(w.content[typ.TypeURL][n]) && !slices.Contains(want, n) {
				want = append(want, n)
			}
		}
		slices.Sort(want)
		bad = bad || len(want) > 0
		whole := sotw && typ.Wildcard
		if !whole && !slices.Equal(want, typ.Rejected) || whole && len(want) > 0 && len(typ.Rejected) == 0 {
			t.Errorf("%s: the server takes %v for rejected, want %v", resource.Short(typ.TypeURL), typ.Rejected, want)
		}
	}
	if !bad && c.Active != w.version {
		t.Errorf("version %d is active, want %d", c.Active, w.version)
	}
	if bad && c.Active >= w.version {
		t.Errorf("version %d is active although something is rejected", c.Active)
	}
	st, _ := p.c.State()
	if !st.Connected || !bad && !st.Synced && !sotw {
		t.Errorf("state of the client: %+v", st)
	}
}
