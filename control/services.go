package control

import (
	"cmp"
	"net"
	"strconv"
	"strings"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/mesh"
)

var resolutions = map[mesh.Resolution]string{mesh.Static: "static", mesh.DNS: "dns", mesh.DNSRoundRobin: "dnsRoundRobin", mesh.Passthrough: "passthrough", mesh.DynamicDNS: "dynamicDns"}

// services is what the mesh knows by host name, with everyone who serves it.
func services(s *mesh.Snapshot) []apiv1.Service {
	out := []apiv1.Service{}
	for key, svc := range s.Services.All() {
		x := apiv1.Service{
			Namespace: svc.Namespace, Name: svc.Name, Hostname: svc.Hostname, Index: svc.Index, Ports: []apiv1.ServicePort{},
			Kind: svc.Ref.Kind, File: svc.Ref.File, Line: svc.Ref.Line, External: svc.External, Resolution: resolutions[svc.Resolution], Selector: svc.Selector,
		}
		for _, a := range svc.Addresses {
			x.Addresses = append(x.Addresses, a.String())
		}
		eps := s.Endpoints.At(key)
		for _, port := range svc.Ports {
			sp := apiv1.ServicePort{Number: port.Number, Name: port.Name, Protocol: string(port.Protocol), Endpoints: []string{}, Backends: []apiv1.Backend{}}
			if eps != nil {
				for i := range eps.Ports[port.Number] {
					b := backend(&eps.Ports[port.Number][i], s.Settings.TrustDomain)
					if wl := eps.Ports[port.Number][i].Workload; wl != nil {
						b.Port, _ = wl.Serves(&port)
					}
					sp.Backends = append(sp.Backends, b)
					if b.Health == healthy {
						sp.Endpoints = append(sp.Endpoints, b.Address)
					}
				}
			}
			x.Ports = append(x.Ports, sp)
		}
		out = append(out, x)
	}
	return out
}

func backend(e *mesh.Endpoint, trustDomain string) apiv1.Backend {
	b := apiv1.Backend{Address: e.Addr.String(), Health: health(e.Health), Identity: e.Identity, Proxied: e.TLS, Weight: max(e.Weight, 1), Locality: locality(e.Locality)}
	if e.Host != "" {
		b.Address = net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port)))
	}
	labels := e.Labels
	if w := e.Workload; w != nil {
		b.Workload = string(w.Key())
		if labels == nil {
			labels = w.Labels
		}
		if b.Identity == "" && w.ServiceAccount != "" {
			b.Identity = w.SPIFFE(trustDomain)
		}
	}
	b.Version = cmp.Or(labels["service.istio.io/canonical-revision"], labels["app.kubernetes.io/version"], labels["version"])
	return b
}

// locality is region/zone/subzone, as far as it goes.
func locality(l mesh.Locality) string {
	return strings.TrimRight(l.Region+"/"+l.Zone+"/"+l.SubZone, "/")
}
