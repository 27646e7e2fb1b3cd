package kube

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/config/istio"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/registry"
)

func (l *lowerer) service(s *corev1.Service) []*registry.Service {
	out := &registry.Service{NotReady: s.Spec.PublishNotReadyAddresses, Mesh: mesh.Service{
		Ref:       l.o.Ref,
		Hostname:  s.Name + "." + s.Namespace + ".svc." + l.suffix,
		Name:      s.Name,
		Namespace: s.Namespace,
		Selector:  labels(s.Spec.Selector),
		Labels:    labels(s.Labels),
		Visible:   l.visible(s),
	}}
	l.Labels(s.Spec.Selector, "spec.selector")
	l.servicePorts(s, &out.Mesh)
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		l.Add(config.FieldNotEnforced, "spec.sessionAffinity", "ClientIP is not enforced in this version", "requests of one client may reach different endpoints")
	}
	l.distribution(s)
	switch s.Spec.Type {
	case "", corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		l.clusterIPs(s, out)
	case corev1.ServiceTypeExternalName:
		out.Mesh.Selector = nil
		out.Mesh.Resolution = mesh.DNS
		out.Mesh.External = true
		name := strings.ToLower(strings.TrimSuffix(s.Spec.ExternalName, "."))
		switch {
		case name == "":
			l.Invalid("spec.externalName", "is missing", "name the host the service stands for")
		case len(validation.IsDNS1123Subdomain(name)) > 0:
			l.Invalid("spec.externalName", fmt.Sprintf("%q is not a host name", s.Spec.ExternalName), "give a DNS name")
		}
		if _, err := netip.ParseAddr(name); err == nil {
			l.Invalid("spec.externalName", "is an IP address", "use a Service without selector, or a ServiceEntry with resolution STATIC")
		}
		out.Listed = []registry.Listed{{Host: name}}
	default:
		l.Invalid("spec.type", fmt.Sprintf("%q is not a type of Service", s.Spec.Type), "use ClusterIP, NodePort, LoadBalancer or ExternalName")
	}
	return []*registry.Service{out}
}

// distribution reports what is asked about which endpoints are preferred.
func (l *lowerer) distribution(s *corev1.Service) {
	const hint = "requests go to all endpoints alike"
	if d := s.Spec.TrafficDistribution; d != nil && *d != "" {
		l.Add(config.FieldNotEnforced, "spec.trafficDistribution", *d+" is not enforced in this version", hint)
	}
	const name = "networking.istio.io/traffic-distribution"
	if v := s.Annotations[name]; v != "" {
		l.Add(config.FieldNotEnforced, document.Key("metadata.annotations", name), v+" is not enforced in this version", hint)
	}
	if p := s.Spec.InternalTrafficPolicy; p != nil && *p == corev1.ServiceInternalTrafficPolicyLocal {
		l.Add(config.FieldNotEnforced, "spec.internalTrafficPolicy", "Local is not enforced in this version", hint)
	}
}

func labels(m map[string]string) mesh.Labels {
	if len(m) == 0 {
		return nil
	}
	return m
}

func (l *lowerer) visible(s *corev1.Service) mesh.Visibility {
	const name = "networking.istio.io/exportTo"
	value := s.Annotations[name]
	if value == "" {
		return mesh.Visibility{}
	}
	names := strings.Split(value, ",")
	for i := range names {
		names[i] = strings.TrimSpace(names[i])
	}
	v, problem, hint := istio.ExportTo(names, s.Namespace, true)
	if problem != "" {
		l.Invalid(document.Key("metadata.annotations", name), problem, hint)
		return mesh.Visibility{Limited: true, Namespaces: []string{s.Namespace}}
	}
	return v
}

func (l *lowerer) servicePorts(s *corev1.Service, out *mesh.Service) {
	if len(s.Spec.Ports) == 0 && s.Spec.Type != corev1.ServiceTypeExternalName && s.Spec.ClusterIP != corev1.ClusterIPNone {
		l.Invalid("spec.ports", "is missing", "add at least one port")
	}
	names := map[string]bool{}
	for i, p := range s.Spec.Ports {
		at := document.Index("spec.ports", i)
		port := mesh.Port{Number: l.number(at+".port", p.Port), Name: p.Name}
		switch {
		case p.Name == "" && len(s.Spec.Ports) > 1:
			l.Invalid(at+".name", "is missing: a Service with several ports names each", "for example name: http")
		case p.Name != "" && len(validation.IsDNS1123Label(p.Name)) > 0:
			l.Invalid(at+".name", fmt.Sprintf("%q is not a port name", p.Name), "use lower-case letters, digits and '-', at most 63")
		case p.Name != "" && names[p.Name]:
			l.Invalid(at+".name", fmt.Sprintf("%q is the name of another port, too", p.Name), "rename one of the two")
		}
		names[p.Name] = true
		switch p.TargetPort.Type {
		case intstr.Int:
			if p.TargetPort.IntVal != 0 {
				port.Target = l.number(at+".targetPort", p.TargetPort.IntVal)
			}
		default:
			port.TargetName = p.TargetPort.StrVal
			if len(validation.IsValidPortName(port.TargetName)) > 0 {
				l.Invalid(at+".targetPort", fmt.Sprintf("%q is not the name of a container port", port.TargetName), "use at most 15 lower-case letters, digits and '-'; remove the quotes of a number")
			}
		}
		switch p.Protocol {
		case "", corev1.ProtocolTCP:
			port.Protocol = Protocol(p.AppProtocol, p.Name, port.Number)
		case corev1.ProtocolUDP:
			port.Protocol = mesh.UDP
		case corev1.ProtocolSCTP:
			l.Add(config.FieldNotEnforced, at+".protocol", "SCTP is not carried by the mesh", "call such a port outside the mesh, by its address")
			continue
		default:
			l.Invalid(at+".protocol", fmt.Sprintf("%q is not a protocol", p.Protocol), "use TCP or UDP; what TCP carries is said by appProtocol")
		}
		// DNS is served on one number by TCP and UDP: the mesh carries the TCP side.
		if j := slices.IndexFunc(out.Ports, func(o mesh.Port) bool { return o.Number == port.Number }); j >= 0 {
			switch {
			case port.Protocol == mesh.UDP && out.Ports[j].Protocol != mesh.UDP:
			case port.Protocol != mesh.UDP && out.Ports[j].Protocol == mesh.UDP:
				out.Ports[j] = port
			default:
				l.Invalid(at+".port", fmt.Sprintf("port %d is defined twice", port.Number), "keep one of the two")
			}
			continue
		}
		out.Ports = append(out.Ports, port)
	}
}

func (l *lowerer) clusterIPs(s *corev1.Service, out *registry.Service) {
	asked := s.Spec.ClusterIPs
	path := func(i int) string { return document.Index("spec.clusterIPs", i) }
	if len(asked) == 0 && s.Spec.ClusterIP != "" {
		asked = []string{s.Spec.ClusterIP}
		path = func(int) string { return "spec.clusterIP" }
	}
	for i, ip := range asked {
		if ip == corev1.ClusterIPNone {
			out.Mesh.Resolution = mesh.Passthrough
			return
		}
		addr, err := netip.ParseAddr(ip)
		if err != nil {
			l.Invalid(path(i), fmt.Sprintf("%q is not an IP address", ip), `leave it out to get one, or write "None" for a headless Service`)
			continue
		}
		out.Mesh.Addresses = append(out.Mesh.Addresses, addr.Unmap())
		out.Mesh.Led = s.UID != "" // an API server has it, and so a kube-proxy
	}
	if len(asked) > 0 {
		return
	}
	out.Allocate = registry.FromCluster
	dual := s.Spec.IPFamilyPolicy != nil && *s.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack
	out.IPv6 = dual || slices.Contains(s.Spec.IPFamilies, corev1.IPv6Protocol)
	out.IPv6Only = !dual && len(s.Spec.IPFamilies) == 1 && s.Spec.IPFamilies[0] == corev1.IPv6Protocol
}

// appProtocols are the values of appProtocol and the prefixes of port names.
var appProtocols = map[string]mesh.Protocol{
	"http": mesh.HTTP, "https": mesh.HTTPS, "grpc": mesh.GRPC, "grpc-web": mesh.GRPCWeb, "http2": mesh.HTTP2, "tcp": mesh.TCP, "tls": mesh.TLS,
	"mongo": mesh.Mongo, "mysql": mesh.MySQL, "redis": mesh.Redis, "udp": mesh.UDP,
	"kubernetes.io/h2c": mesh.HTTP2, "kubernetes.io/ws": mesh.HTTP, "kubernetes.io/wss": mesh.HTTPS,
}

// wellKnown ports belong to protocols in which the server speaks first, so that sniffing
// would only cost time (Istio: SMTP, DNS, MySQL, MongoDB).
var wellKnown = []uint16{25, 53, 3306, 27017}

// Protocol selects what a TCP port speaks, as Istio: appProtocol, then the port's name
// "<protocol>[-suffix]", then well-known numbers.
func Protocol(appProtocol *string, name string, number uint16) mesh.Protocol {
	if appProtocol != nil {
		name = *appProtocol
		if p, ok := appProtocols[strings.ToLower(name)]; ok {
			return p
		}
	}
	name = strings.ToLower(name)
	prefix, _, _ := strings.Cut(name, "-")
	if strings.HasPrefix(name, "grpc-web") {
		prefix = "grpc-web"
	}
	if p, ok := appProtocols[prefix]; ok {
		return p
	}
	if slices.Contains(wellKnown, number) {
		return mesh.TCP
	}
	return mesh.Auto
}
