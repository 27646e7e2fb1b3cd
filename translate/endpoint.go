package translate

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

// endpoint is a mesh.Endpoint with what policy makes of it.
type endpoint struct {
	*mesh.Endpoint
	mtls bool // its proxy speaks mesh mTLS and accepts it on this port
	// disables is the PeerAuthentication because of which its proxy takes mesh mTLS, on a port without HTTP, for the
	// application's own bytes; nil: there is none.
	disables *mesh.Ref
}

// crew is who serves one port of a service, as far as clients must know.
type crew struct {
	endpoints []endpoint // sorted by address
	ids       []string   // SPIFFE IDs, sorted
	allMTLS   bool       // there are endpoints, and each speaks mTLS
	demanded  bool       // some endpoint accepts nothing but mTLS

	workloads, policies []resource.Origin // that it is made of
}

func newCrew(list []mesh.Endpoint, a *authn, trustDomain string) crew {
	c := crew{allMTLS: len(list) > 0, endpoints: make([]endpoint, 0, len(list))}
	var policies []*mesh.Ref
	for i := range list {
		e := endpoint{Endpoint: &list[i], mtls: list[i].TLS}
		id := e.Identity
		if w := e.Workload; w != nil {
			accepts := a.of(w.Namespace, w.Labels)
			c.workloads = append(c.workloads, originOf(&w.Ref))
			for _, p := range accepts.by {
				if p != nil && !slices.Contains(policies, p) {
					policies = append(policies, p)
					c.policies = append(c.policies, originOf(p))
				}
			}
			switch accepts.on(e.targetPort()) {
			case mesh.MTLSDisable:
				if e.mtls {
					e.mtls, e.disables = false, accepts.decider(e.targetPort())
				}
			case mesh.MTLSStrict:
				c.demanded = c.demanded || e.mtls
			case mesh.MTLSUnset, mesh.MTLSPermissive:
			}
			if id == "" && w.ServiceAccount != "" {
				id = w.SPIFFE(trustDomain)
			}
		}
		c.allMTLS = c.allMTLS && e.mtls
		if id != "" {
			c.ids = append(c.ids, id)
		}
		c.endpoints = append(c.endpoints, e)
	}
	slices.Sort(c.ids)
	c.ids = slices.Compact(c.ids)
	slices.SortStableFunc(c.endpoints, compareEndpoints)
	return c
}

// contradicted is a PeerAuthentication because of which endpoints of a subset (nil: of all) take mesh mTLS for the
// application's own bytes, and the crew without those; nil, and the crew, if there is none. whole says that nobody else is left.
func (c *crew) contradicted(subset *mesh.Subset) (by *mesh.Ref, rest *crew, whole bool) {
	out := *c
	out.endpoints, whole = nil, true
	for i := range c.endpoints {
		e := &c.endpoints[i]
		switch {
		case subset != nil && !subset.Labels.Selects(e.labelsFor()):
		case e.disables == nil:
			out.endpoints, whole = append(out.endpoints, *e), false
		case by == nil:
			by = e.disables
		}
	}
	if by == nil {
		return nil, c, false
	}
	return by, &out, whole
}

// addresses are where the endpoints are, each once, in order.
func (c *crew) addresses() []netip.Addr {
	var out []netip.Addr
	for _, e := range c.endpoints {
		if e.Addr.IsValid() {
			out = append(out, e.Addr.Addr())
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out)
}

func (e *endpoint) targetPort() uint16 { return cmp.Or(e.Port, e.Addr.Port()) }

func (e *endpoint) isName() bool {
	_, err := netip.ParseAddr(e.Host)
	return e.Host != "" && err != nil && e.socket() == ""
}

// socket is the path of a Unix socket, "" if the endpoint is none.
func (e *endpoint) socket() string {
	path, _ := strings.CutPrefix(e.Host, "unix://")
	if path == e.Host {
		return ""
	}
	return path
}

func compareEndpoints(a, b endpoint) int {
	return cmp.Or(
		strings.Compare(a.Host, b.Host),
		a.Addr.Compare(b.Addr),
		cmp.Compare(a.Port, b.Port),
		strings.Compare(a.workload(""), b.workload("")),
	)
}

// labelsFor are what subsets select by.
func (e *endpoint) labelsFor() mesh.Labels {
	if e.Labels == nil && e.Workload != nil {
		return e.Workload.Labels
	}
	return e.Labels
}

// workload is Istio's "<name>;<namespace>;<canonical service>;<canonical revision>;<cluster>".
func (e *endpoint) workload(cluster string) string {
	w := e.Workload
	if w == nil {
		return ""
	}
	name := cmp.Or(w.Owner, w.Name)
	l := w.Labels
	service := cmp.Or(l["service.istio.io/canonical-name"], l["app.kubernetes.io/name"], l["app"], name)
	revision := cmp.Or(l["service.istio.io/canonical-revision"], l["app.kubernetes.io/version"], l["version"], "latest")
	return strings.Join([]string{name, w.Namespace, service, revision, cluster}, ";")
}

// maxWeight keeps the sum of 40,000 endpoints within the 32 bits xDS has for it.
const maxWeight = 100_000

// message is the endpoint as xDS has it; nil if it has no address.
func (e *endpoint) message(cluster string) *endpointv3.LbEndpoint {
	var addr *corev3.Address
	switch {
	case e.socket() != "":
		addr = &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: e.socket()}}}
	case e.Host != "" && e.Port != 0:
		addr = socketAddress(e.Host, e.Port)
	case e.Addr.IsValid() && e.Addr.Port() != 0:
		addr = socketAddress(e.Addr.Addr().String(), e.Addr.Port())
	default:
		return nil
	}
	m := map[string]*structpb.Struct{}
	if e.mtls {
		m["envoy.transport_socket_match"] = fields(map[string]*structpb.Value{"tlsMode": text("istio")})
	}
	if w := e.workload(cluster); w != "" {
		m["istio"] = fields(map[string]*structpb.Value{"workload": text(w)})
	}
	out := &endpointv3.LbEndpoint{
		HostIdentifier:      &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: addr}},
		HealthStatus:        healthStatus[e.Health],
		LoadBalancingWeight: u32(min(max(e.Weight, 1), maxWeight)),
	}
	if len(m) > 0 {
		out.Metadata = &corev3.Metadata{FilterMetadata: m}
	}
	return out
}

var healthStatus = map[mesh.Health]corev3.HealthStatus{
	mesh.Healthy:   corev3.HealthStatus_HEALTHY,
	mesh.Unhealthy: corev3.HealthStatus_UNHEALTHY,
	mesh.Draining:  corev3.HealthStatus_DRAINING,
}

// resort has endpoints that drain serve where nobody else does: as long as they are there they do, and in a rollout the news
// that a pod ends may come before the news that its successor is ready. (kube-proxy does so too: KEP-1669.) They are marked as
// leaving, so that a proxy of ours that finds nobody there any more waits for that news.
func resort(groups []*endpointv3.LocalityLbEndpoints) {
	var draining []*endpointv3.LbEndpoint
	for _, g := range groups {
		for _, e := range g.GetLbEndpoints() {
			switch e.GetHealthStatus() {
			case corev3.HealthStatus_HEALTHY:
				return
			case corev3.HealthStatus_DRAINING:
				draining = append(draining, e)
			}
		}
	}
	for _, e := range draining {
		e.HealthStatus = corev3.HealthStatus_HEALTHY
		if e.Metadata == nil {
			e.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{}}
		}
		ours(e.Metadata)["leaving"] = structpb.NewBoolValue(true)
	}
}

// assignment is the load assignment of a crew, or of the part of it a subset selects, in
// an order of preference; prefer is nil if there is none. Localities of a priority are in
// order of name, endpoints in order of address. Endpoints that are names need a cluster
// that resolves them.
func (c *crew) assignment(name string, subset *mesh.Subset, clusterID string, resolves bool, prefer *preference) *endpointv3.ClusterLoadAssignment {
	type at struct {
		rank int
		mesh.Locality
	}
	groups := map[at]*endpointv3.LocalityLbEndpoints{}
	out := &endpointv3.ClusterLoadAssignment{ClusterName: name}
	for i := range c.endpoints {
		e := &c.endpoints[i]
		if subset != nil && !subset.Labels.Selects(e.labelsFor()) || !resolves && e.isName() {
			continue
		}
		m := e.message(clusterID)
		if m == nil {
			continue
		}
		where := at{prefer.rank(e), e.Locality}
		group := groups[where]
		if group == nil {
			group = &endpointv3.LocalityLbEndpoints{LoadBalancingWeight: u32(0), Priority: uint32(where.rank)}
			if l := e.Locality; l != (mesh.Locality{}) {
				group.Locality = &corev3.Locality{Region: l.Region, Zone: l.Zone, SubZone: l.SubZone}
			}
			groups[where] = group
			out.Endpoints = append(out.Endpoints, group)
		}
		group.LbEndpoints = append(group.LbEndpoints, m)
		group.LoadBalancingWeight.Value += m.GetLoadBalancingWeight().GetValue()
	}
	resort(out.Endpoints)
	prefer.divide(out.Endpoints)
	slices.SortFunc(out.Endpoints, func(a, b *endpointv3.LocalityLbEndpoints) int {
		return cmp.Or(cmp.Compare(a.Priority, b.Priority), compareLocalities(a.GetLocality(), b.GetLocality()))
	})
	withoutGaps(out.Endpoints)
	out.Endpoints = prefer.distribute(out.Endpoints)
	return out
}
