package analyze

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/config/kube"
	"github.com/weirmesh/weir/mesh"
)

// gateway checks who serves a Gateway, on which ports and with which certificates.
func (a *analysis) gateway(x subject) bool {
	gw, ok := a.Snapshot.Gateways.Get(mesh.Key(x.name))
	if !ok || gw.Selector == nil {
		return ok
	}
	picked := a.selected("", gw.Selector)
	if len(picked) == 0 {
		a.add(config.ReferenceNotFound, gw.Ref, "spec.selector", fmt.Sprintf("no gateway has the labels %s", pairs(gw.Selector)), a.gatewayHint())
		return true
	}
	serving := a.servicesOfAny(picked)
	for i, s := range gw.Servers {
		at := document.Index("spec.servers", i)
		if !strings.HasPrefix(s.Bind, "unix://") { // to which no Service leads
			a.gatewayPort(gw, at+".port.number", s.Port, serving)
		}
		if s.TLS != nil {
			a.credentials(gw, at+".tls", s.TLS, picked)
		}
	}
	return true
}

// servicesOfAny are the services that select one of picked, in order of keys.
func (a *analysis) servicesOfAny(picked []*instance) []*mesh.Service {
	in := map[string][]*instance{}
	for _, i := range picked {
		in[i.namespace] = append(in[i.namespace], i)
	}
	var out []*mesh.Service
	for namespace, here := range in {
		a.look(thing{kind: servicesIn, a: namespace})
		for _, s := range a.services[namespace] {
			if s.Selector != nil && slices.ContainsFunc(here, func(i *instance) bool { return s.Selector.Selects(i.labels) }) {
				out = append(out, s)
			}
		}
	}
	slices.SortFunc(out, byKey)
	return out
}

func (a *analysis) gatewayHint() string {
	for _, w := range a.Assume {
		return "the gateway that runs here has " + pairs(w.Labels)
	}
	return "deploy a gateway with these labels"
}

// gatewayPort checks that a Service of the gateway offers a port, where there is one.
func (a *analysis) gatewayPort(gw *mesh.Gateway, path string, port uint16, serving []*mesh.Service) {
	var offered []string
	for _, s := range serving {
		for _, p := range s.Ports {
			if p.Number == port || p.Target == port {
				return
			}
			offered = append(offered, fmt.Sprint(p.Number))
		}
	}
	if len(offered) > 0 {
		a.add(config.GatewayPortNotOnService, gw.Ref, path, fmt.Sprintf("the Service of the gateway has no port %d", port), "it has "+strings.Join(offered, ", "))
	}
}

// credentials checks the Secrets of a server, which lie beside the gateway's workloads.
func (a *analysis) credentials(gw *mesh.Gateway, path string, t *mesh.ServerTLS, picked []*instance) {
	mutual := strings.HasSuffix(t.Mode, "MUTUAL")
	for i, name := range t.Credentials {
		at := path + ".credentialName"
		if len(t.Credentials) > 1 {
			at = document.Index(path+".credentialNames", i)
		}
		a.credential(gw, at, name, picked, func(s *kube.Secret) string {
			elsewhere := i > 0 || t.CACredential != "" || t.CACertificates != "" || named[*kube.Secret](a, "Secret", s.Namespace, name+"-cacert") != nil
			return keyPair(s, t.Mode, mutual && !elsewhere)
		})
	}
	if t.CACredential != "" && mutual {
		a.credential(gw, path+".caCertCredentialName", t.CACredential, picked, func(s *kube.Secret) string {
			if !has(s, "ca.crt", "cacert") {
				return "has no CA certificate (ca.crt)"
			}
			return ""
		})
	}
}

// credential checks one Secret.
func (a *analysis) credential(gw *mesh.Gateway, path, name string, picked []*instance, check func(*kube.Secret) string) {
	var places []string
	for _, in := range picked {
		if s := named[*kube.Secret](a, "Secret", in.namespace, name); s != nil {
			if problem := check(s); problem != "" {
				a.add(config.InvalidCredential, gw.Ref, path, fmt.Sprintf("Secret %s/%s %s", s.Namespace, s.Name, problem), "it needs tls.crt and tls.key, and for client certificates ca.crt")
			}
			return
		}
		if !slices.Contains(places, in.namespace) {
			places = append(places, in.namespace)
		}
	}
	slices.Sort(places)
	a.add(config.ReferenceNotFound, gw.Ref, path, fmt.Sprintf("Secret %s does not exist in namespace %s, where the gateway runs", name, strings.Join(places, ", ")), "apply it there")
}

func has(s *kube.Secret, names ...string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return !s.Data[n].IsZero() })
}

func keyPair(s *kube.Secret, mode string, authorities bool) string {
	switch {
	case !has(s, "tls.crt", "cert"):
		return "has no certificate (tls.crt)"
	case !has(s, "tls.key", "key"):
		return "has no key (tls.key)"
	case authorities && !has(s, "ca.crt", "cacert"):
		return "has no CA certificate (ca.crt), which mode " + mode + " needs"
	}
	return ""
}

// gatewayConflicts finds servers that cannot share their port: one encrypted and the other
// not, or two certificates for one host. Plain HTTP servers are merged.
func (a *analysis) gatewayConflicts(x subject) bool {
	port, err := strconv.ParseUint(x.name, 10, 16)
	if err != nil {
		return false
	}
	type server struct {
		gw *mesh.Gateway
		s  *mesh.Server
		i  int
	}
	var earlier []server
	for _, gw := range a.ports[uint16(port)] {
		for i := range gw.Servers {
			s := &gw.Servers[i]
			if s.Port != uint16(port) {
				continue
			}
			told := false
			for _, o := range earlier {
				if o.s.Bind != s.Bind || pairs(o.gw.Selector) != pairs(gw.Selector) {
					continue
				}
				if name := a.sharedCertificate(o.gw, gw, o.s, s); name != "" && !told && conflict(o.s, s) == "" {
					told = true
					a.add(config.DuplicateCertificate, gw.Ref, document.Index("spec.servers", i)+".tls", fmt.Sprintf("certificate %s is also that of Gateway %s/%s (server %s): requests for the hosts of both come on one HTTP/2 connection, and those of one get a 404",
						name, o.gw.Ref.Namespace, o.gw.Ref.Name, o.s.PortName), "put the hosts of both into one server of one Gateway, or give each a certificate for its own hosts only")
				}
				if why := conflict(o.s, s); why != "" {
					a.shadowed(config.ConflictingGateways, gw.Ref, document.Index("spec.servers", i), fmt.Sprintf("port %d is also opened by Gateway %s/%s (server %s): %s", s.Port, o.gw.Ref.Namespace, o.gw.Ref.Name, o.s.PortName, why),
						"use another port or other hosts", o.gw.Ref, document.Index("spec.servers", o.i))
					break
				}
			}
			earlier = append(earlier, server{gw, s, i})
		}
	}
	return len(earlier) > 0
}

// sharedCertificate is the name of what servers of two Gateways both show to clients that speak HTTP, for different hosts; "" if there is none.
func (a *analysis) sharedCertificate(g, h *mesh.Gateway, x, y *mesh.Server) string {
	if g == h || x.TLS == nil || y.TLS == nil || x.Protocol != y.Protocol {
		return ""
	}
	for _, name := range x.TLS.Credentials {
		if slices.Contains(y.TLS.Credentials, name) {
			return name
		}
	}
	if x.TLS.Certificate != "" && x.TLS.Certificate == y.TLS.Certificate {
		return x.TLS.Certificate
	}
	return ""
}

func conflict(a, b *mesh.Server) string {
	if a.Protocol.IsHTTP() && b.Protocol.IsHTTP() {
		return ""
	}
	if a.Protocol.IsTLS() != b.Protocol.IsTLS() || !a.Protocol.IsTLS() {
		return fmt.Sprintf("%s and %s cannot share a port", strings.ToUpper(string(a.Protocol)), strings.ToUpper(string(b.Protocol)))
	}
	for _, x := range a.Hosts {
		for _, y := range b.Hosts {
			if x.Host == y.Host {
				return "both serve host " + x.Host
			}
		}
	}
	return ""
}
