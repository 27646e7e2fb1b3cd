package translate

import (
	"maps"
	"slices"
	"strings"

	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

// originates reports whether a rule asks for TLS of its own, and not for the mesh's.
func originates(t *mesh.ClientTLS) bool {
	return t != nil && (t.Mode == "SIMPLE" || t.Mode == "MUTUAL")
}

// credentialsOf are the credentialNames of a rule with the mode each is for, sorted.
func credentialsOf(r *mesh.DestinationRule) []wantedSecret {
	var out []wantedSecret
	policy := func(p *mesh.TrafficPolicy) {
		if t := p.TLS; originates(t) && t.CredentialName != "" {
			if w := (wantedSecret{t.CredentialName, t.Mode == "MUTUAL", !t.SkipVerify}); !slices.Contains(out, w) {
				out = append(out, w)
			}
		}
	}
	ports := func(m map[uint16]mesh.TrafficPolicy) {
		for _, n := range slices.Sorted(maps.Keys(m)) {
			p := m[n]
			policy(&p)
		}
	}
	policy(&r.Policy)
	ports(r.PortPolicies)
	for i := range r.Subsets {
		if p := r.Subsets[i].Policy; p != nil {
			policy(p)
		}
		ports(r.Subsets[i].PortPolicies)
	}
	return out
}

// wantedSecret is a Secret that a client needs: for its certificate, to judge servers, or both.
type wantedSecret struct {
	name       string
	show, know bool
}

// secretSet are the Secrets that clients in a namespace need for what they call, because of
// DestinationRules.
type secretSet struct {
	gen, used uint64
	rules     []*mesh.DestinationRule
	resources []*resource.Resource
	problems  []Problem
	withheld  []Problem // if they are not given
}

func (s *secretSet) of(typeURL string) []*resource.Resource {
	if s == nil || typeURL != resource.SecretType {
		return nil
	}
	return s.resources
}

// clientSecrets are those of n: of the rules that a gateway may go by, or that select a sidecar;
// nil if there are none.
func (c *Cache) clientSecrets(n *Node, labels mesh.Labels) *secretSet {
	if len(c.index.credentialed) == 0 || n.Proxyless {
		return nil
	}
	var rules []*mesh.DestinationRule
	for r := range c.index.credentialed {
		chosen := len(r.WorkloadSelector) > 0 && r.Ref.Namespace == n.Namespace && r.WorkloadSelector.Selects(labels)
		if r.Visible.VisibleTo(n.Namespace) && (chosen || n.Type == Router && len(r.WorkloadSelector) == 0) {
			rules = append(rules, r)
		}
	}
	if rules == nil {
		return nil
	}
	slices.SortFunc(rules, func(a, b *mesh.DestinationRule) int { return mesh.Older(&a.Ref, &b.Ref) })
	var key strings.Builder
	key.WriteString(n.Namespace)
	for _, r := range rules {
		key.WriteString(" " + r.Ref.Namespace + "/" + r.Ref.Name)
	}
	old := c.clients[key.String()]
	if old != nil && old.gen >= c.secretGen && slices.Equal(old.rules, rules) {
		old.used = c.gen
		return old
	}
	s := &secretSet{gen: c.gen, used: c.gen, rules: rules}
	for _, r := range rules {
		for _, w := range credentialsOf(r) {
			c.clientSecret(s, old, n.Namespace, r, w)
		}
	}
	if old != nil && slices.Equal(old.resources, s.resources) && slices.Equal(old.problems, s.problems) {
		old.gen, old.used, old.rules = s.gen, s.used, rules
		return old // the same to whoever has it
	}
	c.clients[key.String()] = s
	return s
}

// clientSecret adds what r asks for. A Secret that does not exist is not sent: the cluster
// waits for it, and calls to it are refused.
func (c *Cache) clientSecret(s, old *secretSet, namespace string, r *mesh.DestinationRule, w wantedSecret) {
	secret := c.snap.Secrets.At(mesh.NewKey(namespace, w.name))
	add := func(sds string, secret *mesh.Secret, m *tlsv3.Secret, why string) {
		if m == nil {
			s.problems = append(s.problems, problem(&r.Ref, 0, "credentialName %q: Secret %s/%s %s: calls to %s are refused until it has", w.name, namespace, w.name, why, r.Host))
			return
		}
		m.Name = sds
		k := mint{origins: []resource.Origin{originOf(&secret.Ref), originOf(&r.Ref)}}
		made := k.resource(sds, m)
		if made == nil || named(s.resources, sds) {
			return
		}
		if old != nil {
			made = kept(made, old.resources)
		}
		s.resources = append(s.resources, made)
		s.withheld = append(s.withheld, problem(&r.Ref, 0, "credentialName %q: Secret %s/%s is not given to a connected proxy: no Pod %s/<its name> is known that runs as the service account it proved to have",
			w.name, namespace, w.name, namespace))
	}
	if w.show {
		m, why := certificate(secret)
		add(credential(w.name), secret, m, why)
	}
	if w.know {
		if own := c.snap.Secrets.At(mesh.NewKey(namespace, w.name+caSuffix)); own != nil {
			secret = own
		}
		m, why := authorities(secret)
		add(credential(w.name)+caSuffix, secret, m, why)
	}
}
