package istio

import (
	"fmt"
	"net/netip"
	"strings"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

func (l *lowerer) sidecar(spec *networkingv1alpha3.Sidecar) *mesh.Sidecar {
	sc := &mesh.Sidecar{Ref: l.o.Ref}
	if s := spec.WorkloadSelector; s != nil {
		sc.Selector = l.selector("spec.workloadSelector.labels", s.Labels)
		if sc.Selector == nil {
			l.Invalid("spec.workloadSelector.labels", "is empty", "give at least one label; for all workloads of the namespace remove workloadSelector")
		}
	}
	if len(spec.Egress) == 0 && len(spec.Ingress) == 0 && spec.OutboundTrafficPolicy == nil && spec.InboundConnectionPool == nil {
		l.Invalid("spec", "asks for nothing", "add egress with hosts, ingress or outboundTrafficPolicy")
	}
	l.egress(sc, spec.Egress)
	ports := map[uint16]int{}
	for i, in := range spec.Ingress {
		at := document.Index("spec.ingress", i)
		if in.Port == nil {
			l.Invalid(at+".port", "is missing", "say which port of the workload is meant: number, protocol and name")
			continue
		}
		out := mesh.Ingress{Port: l.sidecarPort(at+".port", in.Port)}
		if in.Port.Protocol != "" {
			out.Protocol = l.protocol(at+".port.protocol", in.Port.Protocol)
		} else if p, ok := protocols[strings.ToLower(portPrefix(in.Port.Name))]; ok {
			out.Protocol = p
		}
		out.Uncaptured = in.CaptureMode == networkingv1alpha3.CaptureMode_NONE
		if in.Bind != "" {
			addr, err := netip.ParseAddr(in.Bind)
			if err != nil {
				l.Invalid(at+".bind", fmt.Sprintf("%q is not an IP address", in.Bind), "give one of the workload's addresses, or remove it: then all of them are meant")
			} else if !addr.IsUnspecified() || out.Uncaptured {
				out.Bind = addr.Unmap()
			}
		}
		out.TLS = l.ingressTLS(at+".tls", in.Tls)
		if first, ok := ports[out.Port]; ok {
			l.Invalid(at+".port.number", fmt.Sprintf("port %d is that of %s, too", out.Port, document.Index("ingress", first)), "keep one of the two")
		}
		ports[out.Port] = i
		if path := at + ".defaultEndpoint"; strings.HasPrefix(in.DefaultEndpoint, "unix://") {
			l.socket(path, in.DefaultEndpoint)
			out.Socket = strings.TrimPrefix(in.DefaultEndpoint, "unix://")
		} else {
			out.App = l.defaultEndpoint(path, in.DefaultEndpoint)
		}
		out.Pool = l.connectionPool(at+".connectionPool", in.ConnectionPool)
		sc.Ingress = append(sc.Ingress, out)
	}
	sc.Pool = l.connectionPool("spec.inboundConnectionPool", spec.InboundConnectionPool)
	if p := spec.OutboundTrafficPolicy; p != nil {
		sc.Strangers = mesh.StrangersRefused
		if p.Mode == networkingv1alpha3.OutboundTrafficPolicy_ALLOW_ANY {
			sc.Strangers = mesh.StrangersPass
		}
		if e := p.EgressProxy; e != nil {
			const at = "spec.outboundTrafficPolicy.egressProxy"
			if p.Mode != networkingv1alpha3.OutboundTrafficPolicy_ALLOW_ANY {
				l.Invalid(at, "cannot be given with mode "+p.Mode.String()+", which lets nothing pass", "set mode: ALLOW_ANY")
			}
			if e.Subset != "" {
				l.name(at+".subset", "subset name", e.Subset)
			}
			if l.host(at+".host", e.Host, false, false) {
				sc.Proxy = &mesh.Destination{Host: l.fqdn(e.Host), Subset: e.Subset, Port: l.port(at+".port.number", e.GetPort().GetNumber(), false)}
			}
		}
	}
	return sc
}

func (l *lowerer) egress(sc *mesh.Sidecar, list []*networkingv1alpha3.IstioEgressListener) {
	type spot struct {
		port uint16
		bind string
	}
	seen := map[spot]int{}
	for i, e := range list {
		at := document.Index("spec.egress", i)
		out := mesh.Egress{Uncaptured: e.CaptureMode == networkingv1alpha3.CaptureMode_NONE, Bind: l.egressBind(at, e)}
		if p := e.Port; p != nil {
			out.Port = l.port(at+".port.number", p.Number, out.Socket() != "")
			if p.Protocol != "" && out.Apart() {
				out.Protocol = protocols[strings.ToLower(p.Protocol)]
			}
		}
		key := spot{out.Port, out.Bind}
		if out.Bind == "" && out.Uncaptured {
			key.bind = "127.0.0.1"
		}
		if first, ok := seen[key]; ok {
			what := "has no port, and neither has "
			switch {
			case out.Port != 0:
				what = fmt.Sprintf("is for port %d, as is ", out.Port)
			case out.Bind != "":
				what = "is for " + out.Bind + ", as is "
			}
			l.Invalid(at, what+document.Index("egress", first), "join the hosts of the two")
		}
		seen[key] = i
		if len(e.Hosts) == 0 {
			l.Invalid(at+".hosts", "is missing", `name hosts as namespace/host, for example "./*"; "~/*" for none`)
		}
		for j, h := range e.Hosts {
			if m, ok := l.importOf(document.Index(at+".hosts", j), h); ok {
				out.Hosts = append(out.Hosts, m)
			}
		}
		sc.Egress = append(sc.Egress, out)
	}
}

// egressBind is where an egress is served if not at the addresses of its hosts.
func (l *lowerer) egressBind(at string, e *networkingv1alpha3.IstioEgressListener) string {
	path := at + ".bind"
	if e.Bind == "" {
		return ""
	}
	if strings.HasPrefix(e.Bind, "unix://") {
		l.socket(path, e.Bind)
		if e.Port.GetNumber() != 0 {
			l.Invalid(at+".port.number", "a Unix socket has no port", "write number: 0")
		}
		if e.CaptureMode == networkingv1alpha3.CaptureMode_IPTABLES {
			l.Invalid(at+".captureMode", "nothing can redirect to a Unix socket", "use NONE")
		}
		return e.Bind
	}
	addr, err := netip.ParseAddr(e.Bind)
	switch {
	case err != nil:
		l.Invalid(path, fmt.Sprintf("%q is not an IP address", e.Bind), "give an IP address, or unix:///path")
		return ""
	case e.Port == nil:
		l.Invalid(at+".port", "is missing: bind says where it is served", "give number, protocol and name")
	case addr.IsUnspecified() && e.CaptureMode != networkingv1alpha3.CaptureMode_NONE:
		return "" // wherever they go: as without it
	}
	return addr.Unmap().String()
}

// socket checks "unix://" with the path of a socket.
func (l *lowerer) socket(path, s string) {
	switch socket := strings.TrimPrefix(s, "unix://"); {
	case !strings.HasPrefix(socket, "/") && !strings.HasPrefix(socket, "@"):
		l.Invalid(path, fmt.Sprintf("%q does not name a Unix socket by its whole path", s), "use unix:///path, or unix://@name for an abstract one")
	case len(socket) > maxSocketPath:
		l.Invalid(path, fmt.Sprintf("the path of a Unix socket has %d bytes, at most %d are possible", len(socket), maxSocketPath), "use a shorter path")
	}
}

func (l *lowerer) sidecarPort(path string, p *networkingv1alpha3.SidecarPort) uint16 {
	return l.port(path+".number", p.Number, false)
}

// ingressTLS is the TLS of clients outside the mesh that ends at a sidecar.
func (l *lowerer) ingressTLS(path string, t *networkingv1alpha3.ServerTLSSettings) *mesh.ServerTLS {
	if t == nil {
		return nil
	}
	if t.Mode != networkingv1alpha3.ServerTLSSettings_SIMPLE && t.Mode != networkingv1alpha3.ServerTLSSettings_MUTUAL {
		l.Invalid(path+".mode", t.Mode.String()+" is not for sidecars", "use SIMPLE or MUTUAL; what the mesh's own clients must do is said by a PeerAuthentication")
		return nil
	}
	l.noneOf(path, "a sidecar has its certificates in files", field{"credentialName", t.CredentialName}, field{"credentialNames", strings.Join(t.CredentialNames, ",")},
		field{"caCertCredentialName", t.CaCertCredentialName})
	if t.HttpsRedirect {
		l.Invalid(path+".httpsRedirect", "is for gateways", "remove it")
	}
	if t.CredentialName+t.CaCertCredentialName != "" || len(t.CredentialNames) > 0 {
		return nil
	}
	return l.serverTLS(path, t, mesh.HTTPS)
}

// importOf reads "namespace/host", where namespace may be ".", "*", or with "~" before it
// exclude; "~" alone is "~*".
func (l *lowerer) importOf(path, s string) (m mesh.Import, ok bool) {
	ns, host, ok := strings.Cut(s, "/")
	if !ok {
		l.Invalid(path, fmt.Sprintf("%q is not of the form namespace/host", s), fmt.Sprintf(`write "./%s" for the workload's own namespace, or "*/%s"`, s, s))
		return m, false
	}
	ns, m.Exclude = strings.CutPrefix(ns, "~")
	switch {
	case ns == "" && m.Exclude:
		ns = "*"
	case ns == "*", ns == ".":
	case len(validation.IsDNS1123Label(ns)) > 0:
		l.Invalid(path, fmt.Sprintf("%q is not a namespace", ns), `use ".", "*", "~" or the name of one`)
		return m, false
	}
	if !l.host(path, host, true, false) {
		return m, false
	}
	m.Namespace, m.Host = ns, strings.ToLower(strings.TrimSuffix(host, "."))
	return m, true
}

// defaultEndpoint is where the application listens; nothing given is not valid.
func (l *lowerer) defaultEndpoint(path, s string) netip.AddrPort {
	const hint = "give 127.0.0.1:PORT, [::1]:PORT, unix:///PATH, or 0.0.0.0:PORT or [::]:PORT for the workload's own address"
	if s == "" {
		return netip.AddrPort{}
	}
	at, err := netip.ParseAddrPort(s)
	if a := at.Addr(); err != nil || at.Port() == 0 || a != netip.IPv6Loopback() && !a.IsUnspecified() && a != netip.AddrFrom4([4]byte{127, 0, 0, 1}) {
		l.Invalid(path, fmt.Sprintf("%q is no place of the workload", s), hint)
		return netip.AddrPort{}
	}
	return at
}
