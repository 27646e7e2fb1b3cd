package istio

import (
	"fmt"
	"net/netip"
	"strings"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/registry"
)

// Limits of the CRD.
const (
	maxHosts     = 256
	maxEndpoints = 4096
)

func (l *lowerer) serviceEntry(spec *networkingv1alpha3.ServiceEntry) []*registry.Service {
	base := registry.Service{Mesh: mesh.Service{
		Ref:             l.o.Ref,
		Namespace:       l.ns,
		External:        spec.Location == networkingv1alpha3.ServiceEntry_MESH_EXTERNAL,
		Visible:         l.exportTo(spec.ExportTo, true),
		Labels:          meshLabels(l.meta.Labels),
		ServiceAccounts: spec.SubjectAltNames,
	}}
	switch spec.Resolution {
	case networkingv1alpha3.ServiceEntry_NONE:
		base.Mesh.Resolution = mesh.Passthrough
	case networkingv1alpha3.ServiceEntry_STATIC:
		base.Mesh.Resolution = mesh.Static
	case networkingv1alpha3.ServiceEntry_DNS:
		base.Mesh.Resolution = mesh.DNS
	case networkingv1alpha3.ServiceEntry_DNS_ROUND_ROBIN:
		base.Mesh.Resolution = mesh.DNSRoundRobin
	case networkingv1alpha3.ServiceEntry_DYNAMIC_DNS:
		base.Mesh.Resolution = mesh.DynamicDNS
	default:
		l.Add(config.FieldNotEnforcedUnsafe, "spec.resolution", spec.Resolution.String()+" is not enforced in this version", "use DNS and one host for each name")
	}
	l.entryPorts(spec, &base.Mesh)
	l.entryAddresses(spec, &base)
	l.entryEndpoints(spec, &base)
	if spec.WorkloadSelector != nil {
		base.Mesh.Selector = l.selector("spec.workloadSelector.labels", spec.WorkloadSelector.Labels)
		if base.Mesh.Selector == nil {
			l.Invalid("spec.workloadSelector.labels", "is empty and would select every workload of the namespace", "give at least one label")
		}
	}
	if len(spec.Hosts) == 0 {
		l.Invalid("spec.hosts", "is missing", "name the hosts of the service")
	}
	if len(spec.Hosts) > maxHosts {
		l.Invalid("spec.hosts", fmt.Sprintf("there are %d hosts, at most %d are allowed", len(spec.Hosts), maxHosts), "split the ServiceEntry")
	}
	var out []*registry.Service
	seen := map[string]bool{}
	for i, h := range spec.Hosts {
		at := document.Index("spec.hosts", i)
		if h == "*" {
			l.Invalid(at, `"*" is not allowed`, "name the hosts; calls to unknown hosts follow outboundTrafficPolicy")
			continue
		}
		if !l.host(at, h, true, false) {
			continue
		}
		host := strings.ToLower(strings.TrimSuffix(h, "."))
		if seen[host] {
			l.Invalid(at, fmt.Sprintf("%q is named twice", h), "keep one of the two")
			continue
		}
		seen[host] = true
		out = append(out, l.entryHost(at, spec, base, host))
	}
	return out
}

// entryHost makes the service of one host.
func (l *lowerer) entryHost(path string, spec *networkingv1alpha3.ServiceEntry, base registry.Service, host string) *registry.Service {
	s := base
	s.Mesh.Hostname, s.Mesh.Name = host, host
	wild := strings.HasPrefix(host, "*")
	byName := s.Mesh.Resolution == mesh.DNS || s.Mesh.Resolution == mesh.DNSRoundRobin
	if wild && byName {
		l.Invalid(path, fmt.Sprintf("%q cannot be resolved", host), "name each host, or use resolution NONE")
	}
	if byName && len(spec.Endpoints) == 0 && spec.WorkloadSelector == nil {
		s.Listed = []registry.Listed{{Host: host}}
	}
	if !wild && s.Mesh.Resolution == mesh.DynamicDNS {
		l.Invalid(path, fmt.Sprintf("%q has no wildcard, and resolution DYNAMIC_DNS is for names that only their clients know", host), "use resolution DNS")
	}
	auto := l.meta.Labels["networking.istio.io/enable-autoallocate-ip"] != "false"
	if len(s.Mesh.Addresses) == 0 && len(spec.Addresses) == 0 && !wild && s.Mesh.Resolution != mesh.Passthrough && auto {
		s.Allocate = registry.FromExternal
	}
	return &s
}

func (l *lowerer) entryPorts(spec *networkingv1alpha3.ServiceEntry, s *mesh.Service) {
	if len(spec.Ports) == 0 && spec.WorkloadSelector == nil {
		l.Add(config.SchemaWarning, "spec.ports", "there are no ports: the entry has no effect", "add number, name and protocol")
	}
	names, numbers := map[string]bool{}, map[uint32]bool{}
	for i, p := range spec.Ports {
		at := document.Index("spec.ports", i)
		port := mesh.Port{Number: l.port(at+".number", p.Number, false), Name: p.Name, Target: l.port(at+".targetPort", p.TargetPort, true)}
		if p.Protocol != "" {
			port.Protocol = l.protocol(at+".protocol", p.Protocol)
		} else if proto, ok := protocols[strings.ToLower(portPrefix(p.Name))]; ok {
			port.Protocol = proto
		}
		switch {
		case p.Name == "":
			l.Invalid(at+".name", "is missing", "name the port, for example http")
		case names[p.Name]:
			l.Invalid(at+".name", fmt.Sprintf("%q is the name of another port, too", p.Name), "rename one of the two")
		}
		if numbers[p.Number] {
			l.Invalid(at+".number", fmt.Sprintf("port %d is defined twice", p.Number), "keep one of the two")
		}
		names[p.Name], numbers[p.Number] = true, true
		if base := port.Protocol; spec.Resolution == networkingv1alpha3.ServiceEntry_DYNAMIC_DNS && !base.IsHTTP() && !base.IsTLS() {
			l.Invalid(at+".protocol", "of other connections than HTTP and TLS nobody knows the name that resolution DYNAMIC_DNS needs", "use HTTP, HTTP2, GRPC, HTTPS or TLS")
		}
		if port.Protocol == mesh.TCP && len(spec.Addresses) == 0 && spec.Resolution == networkingv1alpha3.ServiceEntry_NONE {
			l.Add(config.AddressesRequired, at, "a TCP port without spec.addresses takes the traffic of every address on that port", "add the addresses of the service")
		}
		s.Ports = append(s.Ports, port)
	}
}

func portPrefix(name string) string {
	if strings.HasPrefix(strings.ToLower(name), "grpc-web") {
		return "grpc-web"
	}
	p, _, _ := strings.Cut(name, "-")
	return p
}

func (l *lowerer) entryAddresses(spec *networkingv1alpha3.ServiceEntry, s *registry.Service) {
	for i, p := range l.subnets("spec.addresses", spec.Addresses) {
		at := document.Index("spec.addresses", i)
		switch {
		case p.IsSingleIP():
			s.Mesh.Addresses = append(s.Mesh.Addresses, p.Addr())
		case spec.Resolution != networkingv1alpha3.ServiceEntry_NONE && spec.Resolution != networkingv1alpha3.ServiceEntry_STATIC:
			l.Invalid(at, "a CIDR block needs resolution NONE or STATIC", "give single addresses")
		default:
			s.Mesh.Prefixes = append(s.Mesh.Prefixes, p)
		}
	}
}

func (l *lowerer) entryEndpoints(spec *networkingv1alpha3.ServiceEntry, s *registry.Service) {
	if spec.Resolution == networkingv1alpha3.ServiceEntry_DYNAMIC_DNS {
		if len(spec.Endpoints) > 0 {
			l.Invalid("spec.endpoints", "must not be given with resolution DYNAMIC_DNS, which goes where the client's name leads", "use resolution DNS or STATIC")
		}
		if spec.WorkloadSelector != nil {
			l.Invalid("spec.workloadSelector", "must not be given with resolution DYNAMIC_DNS, which goes where the client's name leads", "use resolution STATIC")
		}
		return
	}
	if len(spec.Endpoints) == 0 {
		if spec.Resolution == networkingv1alpha3.ServiceEntry_STATIC && spec.WorkloadSelector == nil {
			l.Invalid("spec.endpoints", "is missing: resolution STATIC needs endpoints", "add endpoints or workloadSelector, or use resolution DNS")
		}
		return
	}
	switch {
	case spec.WorkloadSelector != nil:
		l.Invalid("spec.workloadSelector", "cannot be given together with endpoints", "keep one of the two")
	case spec.Resolution == networkingv1alpha3.ServiceEntry_NONE:
		l.Invalid("spec.endpoints", "must not be given with resolution NONE, which keeps the address the client dialled", "use resolution STATIC or DNS")
	case spec.Resolution == networkingv1alpha3.ServiceEntry_DNS_ROUND_ROBIN && len(spec.Endpoints) > 1:
		l.Invalid("spec.endpoints", "must be one with resolution DNS_ROUND_ROBIN", "use resolution DNS")
	case len(spec.Endpoints) > maxEndpoints:
		l.Invalid("spec.endpoints", fmt.Sprintf("there are %d endpoints, at most %d are allowed", len(spec.Endpoints), maxEndpoints), "split the ServiceEntry")
	}
	byName := spec.Resolution == networkingv1alpha3.ServiceEntry_DNS || spec.Resolution == networkingv1alpha3.ServiceEntry_DNS_ROUND_ROBIN
	names := map[string]bool{}
	for _, p := range spec.Ports {
		names[p.Name] = true
	}
	for i, e := range spec.Endpoints {
		at := document.Index("spec.endpoints", i)
		listed := l.endpoint(at, e, byName)
		for _, name := range sortedKeys(e.Ports) {
			if !names[name] {
				l.Invalid(document.Key(at+".ports", name), fmt.Sprintf("the service has no port named %q", name), "use a name of spec.ports")
			}
		}
		s.Listed = append(s.Listed, listed)
	}
}

// endpoint lowers what WorkloadEntries and inline endpoints have in common.
func (l *lowerer) endpoint(path string, e *networkingv1alpha3.WorkloadEntry, byName bool) registry.Listed {
	out := registry.Listed{
		Labels: l.labels(path+".labels", e.Labels), Weight: e.Weight, Locality: slashedLocality(e.Locality), Account: e.ServiceAccount,
	}
	// As Istio: the label decides, otherwise an identity means mesh mTLS.
	switch mode, ok := e.Labels["security.istio.io/tlsMode"]; {
	case ok:
		out.TLS = mode == "istio"
	default:
		out.TLS = e.ServiceAccount != ""
	}
	if e.ServiceAccount != "" && len(validation.IsDNS1123Subdomain(e.ServiceAccount)) > 0 {
		l.Invalid(path+".serviceAccount", fmt.Sprintf("%q is not the name of a service account", e.ServiceAccount), "give its name only")
	}
	for _, name := range sortedKeys(e.Ports) {
		if out.Ports == nil {
			out.Ports = map[string]uint16{}
		}
		out.Ports[name] = l.port(document.Key(path+".ports", name), e.Ports[name], false)
	}
	addr, err := netip.ParseAddr(e.Address)
	switch {
	case err == nil:
		out.Addr = addr.Unmap()
	case e.Address == "":
		l.Invalid(path+".address", "is missing", "give an IP address or a DNS name")
	case strings.HasPrefix(e.Address, "unix://"):
		l.socket(path+".address", e.Address)
		switch {
		case len(e.Ports) > 0:
			l.Invalid(path+".ports", "a Unix socket has no ports", "remove ports")
		case byName:
			l.Invalid(path+".address", "a Unix socket is no name to resolve", "use resolution STATIC")
		}
		out.Host = e.Address
	case !byName:
		l.Invalid(path+".address", fmt.Sprintf("%q is not an IP address", e.Address), "use resolution DNS for names")
	default:
		l.host(path+".address", e.Address, false, false)
		out.Host = strings.ToLower(strings.TrimSuffix(e.Address, "."))
	}
	return out
}

// maxSocketPath is the longest path of a Unix socket (unix(7), sun_path with its NUL).
const maxSocketPath = 107

func slashedLocality(s string) mesh.Locality {
	var parts [3]string
	copy(parts[:], strings.SplitN(s, "/", 3))
	return mesh.Locality{Region: parts[0], Zone: parts[1], SubZone: parts[2]}
}

func (l *lowerer) workloadEntry(spec *networkingv1alpha3.WorkloadEntry) *mesh.Workload {
	e := l.endpoint("spec", spec, true)
	account := e.Account
	if account == "" {
		account = "default"
	}
	w := &mesh.Workload{
		Ref: l.o.Ref, Name: l.o.ID.Name, Namespace: l.ns, Owner: l.o.ID.Name, OwnerKind: "WorkloadEntry", Host: e.Host,
		Labels: e.Labels, Annotations: l.meta.Annotations, ServiceAccount: account, Ports: e.Ports, Proxied: e.TLS, Locality: e.Locality, Weight: e.Weight,
	}
	if e.Addr.IsValid() {
		w.Addresses = []netip.Addr{e.Addr}
	}
	return w
}
