package state

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/demand"
	"github.com/weirmesh/weir/proxy/dns/names"
	"github.com/weirmesh/weir/proxy/filter/extauthz"
	"github.com/weirmesh/weir/proxy/filter/jwtauthn"
	"github.com/weirmesh/weir/proxy/filter/peermetadata"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/ratelimit"
	"github.com/weirmesh/weir/proxy/rbac"
	"github.com/weirmesh/weir/proxy/route"
	"github.com/weirmesh/weir/proxy/tls"
	"github.com/weirmesh/weir/xds/resource"
)

// Update is what one xDS response says about one type.
type Update struct {
	TypeURL string
	Set     []Resource
	Removed []string
	Absent  []string // of Removed: asked for by name, and there is none
	From    Server   // who says so; of secrets only
}

// Resource is one named resource as received. The Builder does not keep Body.
type Resource struct {
	Name, Version string
	Body          *anypb.Any
}

// Options are a Builder's collaborators.
type Options struct {
	// Identity is the proxy's own key, certificate and trust bundle; nil for a proxy
	// without, which then refuses configuration that needs them.
	Identity identity.Source
	// Plaintext says that the proxy was told to have none: filter chains and transports that
	// need one are left out, beside others, and what has no other is refused.
	Plaintext bool
	// Strange says that the control plane is not of a mesh: no name means the workload's own identity.
	Strange bool
	// Gate limits handshakes under way.
	Gate *tls.Gate
	// StdRecords leaves TLS records to crypto/tls.
	StdRecords bool
	// Metadata is what the metadata exchange tells of this workload; nil: no exchange.
	Metadata *peermetadata.Node
	// Cluster is the one that the proxy says it is of (node.cluster).
	Cluster string
	// Keys are the keys of tokens; nil: the Builder makes its own, and asks nobody for newer ones.
	Keys *jwtauthn.Sets
	// Peers hears of the addresses of workloads with proxies; nil: nobody wants to know.
	Peers Peers
	// Demand is what is asked for by name; nil: nothing ever is, on demand.
	Demand *demand.Demands
	// Loop is where time passes for the health of endpoints; nil: nowhere.
	Loop func() *loop.Loop
	// Checks check endpoints actively, on that loop; nil: nobody does.
	Checks func() *cluster.Checks
	// Aside is told of every change of which endpoints are set aside, on a worker's loop; nil: nobody is.
	Aside func(*cluster.Cluster, *cluster.Aside)
	// MaxResources bounds the resources of each type; 0 means DefaultMaxResources.
	MaxResources int
}

// errNoIdentity is why something of TLS is refused.
var errNoIdentity = errors.New("this proxy runs without an identity")

// leftOut reports whether err is about something that a proxy in plaintext does without.
func (b *Builder) leftOut(err error) bool { return b.opts.Plaintext && errors.Is(err, errNoIdentity) }

// Peers collects the addresses of the mesh's workloads that endpoints name: see
// listener.Peers.
type Peers interface {
	Add(netip.Addr)
	Remove(netip.Addr)
}

// DefaultMaxResources is ten times the largest mesh Weir is measured with (5,000
// services with four subsets each).
const DefaultMaxResources = 250_000

// Builder makes States. It belongs to one goroutine.
type Builder struct {
	opts Options
	cur  *State

	ids       map[string]cluster.ID // every cluster name ever mentioned
	idNames   []string              // by ID
	limitsOf  map[string]*cluster.Limits
	healthOf  map[string]*cluster.Health
	nextEP    int32
	freeEP    []int32
	specs     map[string]*clusterSpec
	endpoints map[string]*assignment     // by EDS name
	resolved  map[string][]cluster.Found // by cluster name, DNS kinds
	came      []*cluster.Endpoint
	gone      []*cluster.Endpoint

	ledger      *rbac.Ledger
	counts      counts
	secrets     map[SecretName]*secret
	noSecret    map[SecretName]bool   // asked for, and there is none
	extensions  map[string]*anypb.Any // by name (ECDS)
	noExtension map[string]bool       // of those asked for there are none
	routes      map[string]*routes
	vhosts      map[string]map[string]*route.VirtualHost // by table and name; nil before the first
	uses        uses                                     // of the listener or cluster being decoded
	files       Files                                    // that were read, as they were when they were first
	formats     map[string]*observe.Format               // of access logs, by their bytes
	live        live
}

// NewBuilder starts from an empty State.
func NewBuilder(o Options) *Builder {
	if o.MaxResources == 0 {
		o.MaxResources = DefaultMaxResources
	}
	if o.Keys == nil {
		o.Keys = jwtauthn.NewSets(nil, nil)
	}
	return &Builder{opts: o, cur: &State{byName: map[string]cluster.ID{}, tables: map[string]*route.Table{}, listeners: map[string]*Listener{}, unheeded: map[string][]Unheeded{}},
		routes: map[string]*routes{}, ids: map[string]cluster.ID{}, limitsOf: map[string]*cluster.Limits{}, healthOf: map[string]*cluster.Health{}, ledger: rbac.NewLedger(), counts: counts{map[string]*extauthz.Counts{}, map[string]*ratelimit.Counts{}}, secrets: map[SecretName]*secret{}, noSecret: map[SecretName]bool{}, extensions: map[string]*anypb.Any{}, noExtension: map[string]bool{}, specs: map[string]*clusterSpec{},
		endpoints: map[string]*assignment{}, resolved: map[string][]cluster.Found{}, files: Files{}}
}

// Ledger counts what authorization decided. It may be read from any goroutine.
func (b *Builder) Ledger() *rbac.Ledger { return b.ledger }

// State is the newest State.
func (b *Builder) State() *State { return b.cur }

// Apply builds the State in which u holds and returns it, with the endpoints that left
// (the caller marks them Gone once the State is live, and gives their numbers back by
// Release when no worker uses them). After an error nothing has changed, but for an
// UnservedError, which comes with the State.
func (b *Builder) Apply(u Update) (*State, []*cluster.Endpoint, error) {
	next := *b.cur
	next.Generation++
	b.came, b.gone = nil, nil
	var err error
	var less error // what is in force of u is not all that it says
	switch u.TypeURL {
	case resource.ClusterType:
		err = b.applyClusters(&next, u)
	case resource.EndpointType:
		err = b.applyEndpoints(&next, u)
	case resource.RouteType:
		err = b.applyRoutes(&next, u)
	case resource.VirtualHostType:
		err = b.applyVirtualHosts(&next, u)
	case resource.ListenerType:
		less, err = b.applyListeners(&next, u)
	case resource.SecretType:
		err = b.applySecrets(&next, u)
	case resource.ExtensionConfigType:
		err = b.applyExtensions(&next, u)
	case resource.NameTableType:
		err = b.applyNames(&next, u)
	case resource.IndexType:
		err = b.applyIndex(&next, u)
	default:
		err = fmt.Errorf("type %s is not one this proxy asks for", u.TypeURL)
	}
	if err != nil {
		return nil, nil, err
	}
	b.note(&next, u)
	b.enliven(&next)
	b.cur = &next
	b.tellPeers()
	if u.TypeURL != resource.EndpointType { // which come often
		b.keepKeys()
	}
	return &next, b.gone, less
}

func (b *Builder) tellPeers() {
	if b.opts.Peers == nil {
		return
	}
	for _, e := range b.came {
		if e.Proxied {
			e.EachAddr(b.opts.Peers.Add)
		}
	}
	for _, e := range b.gone {
		if e.Proxied {
			e.EachAddr(b.opts.Peers.Remove)
		}
	}
}

// Release gives the number of an endpoint back for reuse.
func (b *Builder) Release(e *cluster.Endpoint) { b.freeEP = append(b.freeEP, e.ID) }

func (b *Builder) clusterID(name string) cluster.ID {
	id, ok := b.ids[name]
	if !ok {
		id = cluster.ID(len(b.ids))
		b.ids[name] = id
		b.idNames = append(b.idNames, name)
	}
	return id
}

func (b *Builder) limits(name string) *cluster.Limits {
	l, ok := b.limitsOf[name]
	if !ok {
		l = &cluster.Limits{}
		b.limitsOf[name] = l
	}
	return l
}

func (b *Builder) health(name string) *cluster.Health {
	h, ok := b.healthOf[name]
	if !ok {
		var l *loop.Loop
		var checks *cluster.Checks
		if b.opts.Loop != nil {
			l = b.opts.Loop()
		}
		if b.opts.Checks != nil {
			checks = b.opts.Checks()
		}
		h = cluster.NewHealth(l, checks)
		h.Tell(b.opts.Aside)
		b.healthOf[name] = h
	}
	return h
}

func (b *Builder) endpointID() int32 {
	if n := len(b.freeEP); n > 0 {
		id := b.freeEP[n-1]
		b.freeEP = b.freeEP[:n-1]
		return id
	}
	b.nextEP++
	return b.nextEP - 1
}

// RefusedError is the error of an update in which certain resources are wrong. Without
// them it may be right.
type RefusedError struct {
	names []string
	text  string
}

func (e *RefusedError) Error() string { return e.text }

// Refused are the names of the resources, in the order of the update.
func (e *RefusedError) Refused() []string { return e.names }

// UnservedError says that an update is in force, and that of some listeners chains take nobody because files are missing
// or wrong that their TLS needs. It is a reason to refuse those listeners: whoever wrote them is to hear of it.
type UnservedError struct{ RefusedError }

// InForce is client.InForce.
func (e *UnservedError) InForce() {}

// unserved is that error, nil if all chains serve.
func unserved(why map[string][]error) error {
	if len(why) == 0 {
		return nil
	}
	e := &UnservedError{}
	var texts []string
	for _, name := range slices.Sorted(maps.Keys(why)) {
		e.names = append(e.names, name)
		for _, err := range why[name] {
			texts = append(texts, err.Error())
		}
	}
	e.text = strings.Join(texts, "; ") + ": TLS connections there are refused, and all else is served; make the files readable for the proxy, then apply the object again with a change or start the proxy anew"
	return e
}

// decodeAll unpacks the resources of an update into fresh messages, refusing the whole
// update if one of them is wrong, with a RefusedError.
func decodeAll[M interface {
	*T
	proto.Message
}, T, D any](u Update, decode func(name, version string, m M) (D, error)) (map[string]D, error) {
	return decodeEach(u, func(r Resource) (d D, err error) {
		m := M(new(T))
		if err := r.Body.UnmarshalTo(m); err != nil {
			return d, fmt.Errorf("resource %q: decoding %s: %w", r.Name, u.TypeURL, err)
		}
		return decode(r.Name, r.Version, m)
	})
}

// decodeEach is decodeAll for who needs no message.
func decodeEach[D any](u Update, decode func(Resource) (D, error)) (map[string]D, error) {
	out := make(map[string]D, len(u.Set))
	var errs, wrong []string
	for _, r := range u.Set {
		d, err := decode(r)
		if err != nil {
			errs, wrong = append(errs, err.Error()), append(wrong, r.Name)
			continue
		}
		out[r.Name] = d
	}
	if len(errs) > 0 {
		const most = 5 // a NACK is for a person to read
		if len(errs) > most {
			errs = append(errs[:most], fmt.Sprintf("and %d more", len(errs)-most))
		}
		return nil, &RefusedError{wrong, strings.Join(errs, "; ")}
	}
	return out, nil
}

func (b *Builder) room(have, add int, what string) error {
	if have+add > b.opts.MaxResources {
		return fmt.Errorf("%d %s, at most %d", have+add, what, b.opts.MaxResources)
	}
	return nil
}

func (b *Builder) applyClusters(next *State, u Update) error {
	if err := b.room(len(b.specs), len(u.Set), "clusters"); err != nil {
		return err
	}
	specs, err := decodeAll(u, func(_, version string, m *clusterv3.Cluster) (*clusterSpec, error) {
		s, err := b.decodeCluster(m)
		if err == nil {
			s.Version = version
			if s.static != nil && s.Kind == cluster.Static {
				_, err = decodeEndpoints(withName(s.static, s.Name))
			} else {
				err = new(assignment).decodePolicy(s.static.GetPolicy(), "cluster "+s.Name+".load_assignment.policy")
			}
		}
		return s, err
	})
	if err != nil {
		return err
	}
	told := map[string][]Unheeded{}
	for name, s := range specs {
		if len(s.unheeded) > 0 {
			told[name] = s.unheeded
		}
	}
	next.unheeded = merged(next.unheeded, told, slices.AppendSeq(slices.Clone(u.Removed), maps.Keys(specs)))
	next.clusters, next.byName = slices.Clone(next.clusters), maps.Clone(next.byName)
	for _, name := range u.Removed {
		if id, ok := next.byName[name]; ok {
			b.gone = append(b.gone, next.clusters[id].Endpoints...)
			next.clusters[id] = nil
			delete(next.byName, name)
			delete(b.specs, name)
			delete(b.resolved, name)
			// Limits stay while requests hold them; a cluster that comes back starts afresh.
			delete(b.limitsOf, name)
			b.healthOf[name].End()
			delete(b.healthOf, name)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(specs)) {
		if old := b.specs[name]; old != nil { // until what it gets its endpoints by now has come
			specs[name].before = b.endpointsOf(old)
		}
		b.specs[name] = specs[name]
		b.publish(next, specs[name])
		next.byName[name] = b.clusterID(name)
	}
	return nil
}

// publish puts the Cluster of a spec, with the endpoints known now, into next, whose slice of clusters is its own. Its map
// of names is not, but where clusters come and go: workers read that of the State before.
func (b *Builder) publish(next *State, s *clusterSpec) {
	id := b.clusterID(s.Name)
	for int(id) >= len(next.clusters) {
		next.clusters = append(next.clusters, nil)
	}
	next.clusters[id] = b.assemble(s, b.endpointsOf(s), next.clusters[id])
}

func (b *Builder) endpointsOf(s *clusterSpec) *assignment {
	switch {
	case s.edsName != "":
		if a := b.endpoints[s.edsName]; a != nil {
			return a
		}
		if s.before != nil {
			return s.before
		}
	case s.Kind == cluster.Static && s.static != nil:
		a, _ := decodeEndpoints(withName(s.static, s.Name)) // was checked when the cluster came
		return a
	case s.Kind == cluster.StrictDNS, s.Kind == cluster.LogicalDNS:
		if _, known := b.resolved[s.Name]; !known && s.before != nil {
			return s.before
		}
		out := &assignment{}
		_ = out.decodePolicy(s.static.GetPolicy(), "") // likewise
		for _, a := range b.resolved[s.Name] {
			e := endpointSpec{addr: a.AddrPort, healthy: true}
			if a.Name < len(s.Names) { // which may be others by now
				n := &s.Names[a.Name]
				e.host, e.weight, e.priority, e.locality = n.Shown, n.Weight, n.Priority, n.Locality
			}
			out.endpoints = append(out.endpoints, e)
		}
		return out
	}
	return &assignment{}
}

func withName(la *endpointv3.ClusterLoadAssignment, name string) *endpointv3.ClusterLoadAssignment {
	if la.GetClusterName() == "" {
		la.ClusterName = name
	}
	return la
}

func (b *Builder) applyEndpoints(next *State, u Update) error {
	if err := b.room(len(b.endpoints), len(u.Set), "load assignments"); err != nil {
		return err
	}
	sets, err := decodeAll(u, func(_, _ string, m *endpointv3.ClusterLoadAssignment) (*assignment, error) {
		return decodeEndpoints(m)
	})
	if err != nil {
		return err
	}
	touched := map[string]bool{}
	for name, a := range sets {
		b.endpoints[name] = a
		touched[name] = true
	}
	for _, name := range u.Removed {
		delete(b.endpoints, name)
		touched[name] = true
	}
	for _, name := range u.Absent {
		b.endpoints[name] = &assignment{} // it has been asked for, and has an answer
	}
	next.clusters = slices.Clone(next.clusters)
	for _, s := range b.specs {
		if s.edsName != "" && touched[s.edsName] {
			b.publish(next, s)
		}
	}
	return nil
}

// Unresolved says that the names of a DNS cluster cannot be resolved. What they resolved to
// before stays.
func (b *Builder) Unresolved(name string) (*State, []*cluster.Endpoint) {
	if _, known := b.resolved[name]; known {
		return b.cur, nil
	}
	return b.Resolved(name, nil)
}

// Resolved says to what addresses the names of a DNS cluster resolve now. It is an
// update like any other, made by the proxy's resolver.
func (b *Builder) Resolved(name string, addrs []cluster.Found) (*State, []*cluster.Endpoint) {
	b.came, b.gone = nil, nil
	s, ok := b.specs[name]
	before, known := b.resolved[name]
	if !ok || known && slices.Equal(before, addrs) {
		return b.cur, nil
	}
	b.resolved[name] = addrs
	next := *b.cur
	next.Generation++
	next.clusters = slices.Clone(next.clusters)
	b.publish(&next, s)
	b.enliven(&next)
	b.cur = &next
	b.tellPeers()
	return &next, b.gone
}

func (b *Builder) applyRoutes(next *State, u Update) error {
	if err := b.room(len(b.routes), len(u.Set), "route configurations"); err != nil {
		return err
	}
	tables := map[string]*route.Table{}
	came, err := decodeAll(u, func(name, version string, m *routev3.RouteConfiguration) (*routes, error) {
		r, err := decodeRoutes(m, version, b.clusterID)
		if err != nil || r.vhds && b.vhosts == nil { // it waits for its virtual hosts
			return r, err
		}
		tables[name], err = r.table(b.vhosts[name])
		return r, err
	})
	if err != nil {
		return err
	}
	b.routes = merged(b.routes, came, u.Removed)
	next.tables = merged(next.tables, nil, u.Removed)
	b.dead(u.Removed)
	b.serve(next, tables)
	return nil
}

// applyVirtualHosts takes virtual hosts, named <route configuration>/<host> (VHDS). The
// table they are for may come later.
func (b *Builder) applyVirtualHosts(next *State, u Update) error {
	have := 0
	for _, m := range b.vhosts {
		have += len(m)
	}
	if err := b.room(have, len(u.Set), "virtual hosts"); err != nil {
		return err
	}
	came, err := decodeAll(u, func(name, _ string, m *routev3.VirtualHost) (*route.VirtualHost, error) {
		if tableOf(name) == "" {
			return nil, fmt.Errorf("virtual host %q: its name is not <route configuration>/<host>", name)
		}
		path := "virtual host " + name
		if err := check(m, path); err != nil {
			return nil, err
		}
		return decodeVirtualHost(m, path, b.clusterID)
	})
	if err != nil {
		return err
	}
	first := b.vhosts == nil
	vhosts := map[string]map[string]*route.VirtualHost{}
	touch := func(name string) map[string]*route.VirtualHost {
		t := tableOf(name)
		if vhosts[t] == nil {
			vhosts[t] = maps.Clone(b.vhosts[t])
			if vhosts[t] == nil {
				vhosts[t] = map[string]*route.VirtualHost{}
			}
		}
		return vhosts[t]
	}
	for _, name := range u.Removed {
		delete(touch(name), name)
	}
	for name, h := range came {
		m := touch(name)
		if was := m[name]; was != nil {
			h.Use = was.Use
		}
		b.account(&h.Use, resource.VirtualHostType, name)
		m[name] = h
	}
	tables := map[string]*route.Table{}
	for name, r := range b.routes {
		if more, ok := vhosts[name]; r.vhds && (ok || first) {
			if tables[name], err = r.table(more); err != nil {
				return b.refuseHosts(u, name, err)
			}
		}
	}
	if b.vhosts == nil {
		b.vhosts = map[string]map[string]*route.VirtualHost{}
	}
	for name, m := range vhosts {
		if b.vhosts[name] = m; len(m) == 0 {
			delete(b.vhosts, name)
		}
	}
	b.serve(next, tables)
	return nil
}

// refuseHosts is the error of a table that its new virtual hosts made wrong.
func (b *Builder) refuseHosts(u Update, table string, err error) error {
	var names []string
	for _, r := range u.Set {
		if tableOf(r.Name) == table {
			names = append(names, r.Name)
		}
	}
	return &RefusedError{names, err.Error()}
}

// tableOf is the route configuration that a virtual host is for.
func tableOf(name string) string {
	if i := strings.LastIndexByte(name, '/'); i > 0 {
		return name[:i]
	}
	return ""
}

func (b *Builder) applyListeners(next *State, u Update) (less, err error) {
	if err := b.room(len(next.listeners), len(u.Set), "listeners"); err != nil {
		return nil, err
	}
	why := map[string][]error{}
	ls, err := decodeAll(u, func(name, version string, m *listenerv3.Listener) (*Listener, error) {
		l, err := b.decodeListener(m, version)
		if len(b.uses.unserved) > 0 {
			why[name] = b.uses.unserved
		}
		return l, err
	})
	if err != nil {
		return nil, err
	}
	for name, l := range ls {
		if c := l.Config; c != nil && len(c.Binds) == 0 { // those that are bound are there always
			if was := next.listeners[name]; was != nil && was.Config != nil {
				c.Use = was.Config.Use
			}
			b.account(&c.Use, resource.ListenerType, name)
		}
	}
	next.listeners = merged(next.listeners, ls, u.Removed)
	return unserved(why), nil
}

func (b *Builder) applyNames(next *State, u Update) error {
	tables, err := decodeEach(u, func(r Resource) (*names.Table, error) {
		if t := r.Body.GetTypeUrl(); t != u.TypeURL {
			return nil, fmt.Errorf("resource %q is of type %q", r.Name, t)
		}
		t, err := names.Parse(r.Body.GetValue())
		if err != nil {
			return nil, fmt.Errorf("resource %q: name table: %w", r.Name, err)
		}
		return t, nil
	})
	if err != nil {
		return err
	}
	if len(u.Removed) > 0 {
		next.names = nil
	}
	for _, t := range tables {
		next.names = t
	}
	return nil
}

func merged[V any](old, set map[string]V, removed []string) map[string]V {
	m := maps.Clone(old)
	for _, name := range removed {
		delete(m, name)
	}
	maps.Copy(m, set)
	return m
}

// WantsVirtualHosts reports whether some table has its virtual hosts by VHDS.
func (b *Builder) WantsVirtualHosts() bool {
	for _, r := range b.routes {
		if r.vhds {
			return true
		}
	}
	return false
}

// Unhealthy is the EDS name of a cluster, "" if it has none, and the endpoints that the
// control plane says take no requests: "address:port", or the path of a Unix socket.
func (b *Builder) Unhealthy(name string) (eds string, endpoints []string) {
	s := b.specs[name]
	if s == nil {
		return "", nil
	}
	for _, e := range b.endpointsOf(s).endpoints {
		switch {
		case e.healthy:
		case e.pipe != "":
			endpoints = append(endpoints, e.pipe)
		default:
			endpoints = append(endpoints, e.addr.String())
		}
	}
	return s.edsName, endpoints
}

// DNSNames lists the clusters whose names the proxy must resolve. Those that are fresh never
// were.
func (b *Builder) DNSNames() (names map[string][]cluster.Name, fresh map[string]bool) {
	names, fresh = map[string][]cluster.Name{}, map[string]bool{}
	for name, s := range b.specs {
		if len(s.Names) > 0 {
			names[name] = s.Names
			if _, ok := b.resolved[name]; !ok {
				fresh[name] = true
			}
		}
	}
	return names, fresh
}
