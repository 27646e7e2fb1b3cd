package analyze

import (
	"fmt"
	"slices"
	"strings"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/config/kube"
	"github.com/weirmesh/weir/mesh"
)

// gateways checks who serves Gateways, on which ports and with which certificates.
func (a *analysis) gateways() {
	for gw := range a.Snapshot.Gateways.Values() {
		if gw.Selector == nil {
			continue
		}
		picked := a.selected("", gw.Selector)
		if len(picked) == 0 {
			a.add(config.ReferenceNotFound, gw.Ref, "spec.selector", fmt.Sprintf("no gateway has the labels %s", pairs(gw.Selector)), a.gatewayHint())
			continue
		}
		for i, s := range gw.Servers {
			at := document.Index("spec.servers", i)
			a.gatewayPort(gw, at+".port.number", s.Port, picked)
			if s.TLS != nil && s.TLS.CredentialName != "" {
				a.credential(gw, at+".tls.credentialName", s.TLS, picked)
			}
		}
	}
}

func (a *analysis) gatewayHint() string {
	for _, w := range a.Assume {
		return "the gateway that runs here has " + pairs(w.Labels)
	}
	return "deploy a gateway with these labels"
}

// gatewayPort checks that a Service of the gateway offers a port, where there is one.
func (a *analysis) gatewayPort(gw *mesh.Gateway, path string, port uint16, picked []*instance) {
	var offered []string
	for s := range a.Snapshot.Services.Values() {
		if s.Selector == nil || !slices.ContainsFunc(picked, func(in *instance) bool { return in.namespace == s.Namespace && s.Selector.Selects(in.labels) }) {
			continue
		}
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

// credential checks the Secret of a server, which lies beside the gateway's workloads.
func (a *analysis) credential(gw *mesh.Gateway, path string, t *mesh.ServerTLS, picked []*instance) {
	var places []string
	for _, in := range picked {
		if s := a.Secrets[mesh.NewKey(in.namespace, t.CredentialName)]; s != nil {
			if problem := keyPair(s, t.Mode); problem != "" {
				a.add(config.InvalidCredential, gw.Ref, path, fmt.Sprintf("Secret %s/%s %s", s.Namespace, s.Name, problem), "it needs tls.crt and tls.key, and for client certificates ca.crt")
			}
			return
		}
		if !slices.Contains(places, in.namespace) {
			places = append(places, in.namespace)
		}
	}
	slices.Sort(places)
	a.add(config.ReferenceNotFound, gw.Ref, path, fmt.Sprintf("Secret %s does not exist in namespace %s, where the gateway runs", t.CredentialName, strings.Join(places, ", ")), "apply it there")
}

func keyPair(s *kube.Secret, mode string) string {
	has := func(names ...string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return !s.Data[n].IsZero() })
	}
	switch {
	case !has("tls.crt", "cert"):
		return "has no certificate (tls.crt)"
	case !has("tls.key", "key"):
		return "has no key (tls.key)"
	case strings.HasSuffix(mode, "MUTUAL") && !has("ca.crt", "cacert"):
		return "has no CA certificate (ca.crt), which mode " + mode + " needs"
	}
	return ""
}

// gatewayConflicts finds servers that cannot share a port: one encrypted and the other
// not, or two certificates for one host. Plain HTTP servers are merged.
func (a *analysis) gatewayConflicts() {
	all := slices.Collect(a.Snapshot.Gateways.Values())
	slices.SortStableFunc(all, func(x, y *mesh.Gateway) int { return int(x.Ref.Created - y.Ref.Created) })
	type server struct {
		gw *mesh.Gateway
		s  *mesh.Server
		i  int
	}
	byPort := map[uint16][]server{}
	for _, gw := range all {
		for i := range gw.Servers {
			s := &gw.Servers[i]
			for _, o := range byPort[s.Port] {
				if o.s.Bind != s.Bind || pairs(o.gw.Selector) != pairs(gw.Selector) {
					continue
				}
				if why := conflict(o.s, s); why != "" {
					a.shadowed(config.ConflictingGateways, gw.Ref, document.Index("spec.servers", i), fmt.Sprintf("port %d is also opened by Gateway %s/%s (server %s): %s", s.Port, o.gw.Ref.Namespace, o.gw.Ref.Name, o.s.PortName, why),
						"use another port or other hosts", o.gw.Ref, document.Index("spec.servers", o.i))
					break
				}
			}
			byPort[s.Port] = append(byPort[s.Port], server{gw, s, i})
		}
	}
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
