package control

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/mesh"
)

// given are the certificates of a Snapshot that people put there, whenever they end.
type given struct {
	of  *mesh.Snapshot
	all []apiv1.IdentityGiven
}

// naming is a place in an object that names a Secret or a file, and what breaks if that ends.
type naming struct {
	object, field, breaks string
	gateway               *mesh.Gateway // whose workloads have the Secret beside them; nil: a DestinationRule's
	rule                  *mesh.DestinationRule
	secret, key, file     string
}

// secretsGiven are those in Secrets that Gateways and DestinationRules name.
func (p *Plane) secretsGiven() []apiv1.IdentityGiven {
	u := p.latest.Load()
	if u == nil {
		return nil
	}
	if g := p.given.Load(); g != nil && g.of == u.Snapshot {
		return g.all
	}
	g := &given{of: u.Snapshot, all: inSecrets(u.Snapshot)}
	p.given.Store(g)
	return g.all
}

// inSecrets lists Secrets by who names them, of the namespaces in which somebody uses them.
func inSecrets(snap *mesh.Snapshot) (out []apiv1.IdentityGiven) {
	all := slices.DeleteFunc(places(snap), func(n naming) bool { return n.secret == "" })
	if len(all) == 0 {
		return nil
	}
	at := map[*mesh.Gateway]map[string]bool{} // namespaces of its workloads
	edges := map[string]bool{}
	for w := range snap.Workloads.Values() {
		for g := range snap.Gateways.Values() {
			if g.Selector.Selects(w.Labels) {
				if at[g] == nil {
					at[g] = map[string]bool{}
				}
				at[g][w.Namespace], edges[w.Namespace] = true, true
			}
		}
	}
	for _, n := range all {
		in := at[n.gateway]
		if r := n.rule; r != nil {
			if in = edges; len(r.WorkloadSelector) > 0 {
				in = map[string]bool{r.Ref.Namespace: true}
			}
		}
		for _, ns := range slices.Sorted(maps.Keys(in)) {
			if n.rule != nil && !n.rule.Visible.VisibleTo(ns) {
				continue
			}
			s := snap.Secrets.At(mesh.NewKey(ns, n.secret))
			if n.key == "ca.crt" {
				if own := snap.Secrets.At(mesh.NewKey(ns, n.secret+"-cacert")); own != nil {
					s = own
				}
			}
			if s == nil {
				continue // which is said elsewhere
			}
			text := s.Certificate
			if n.key == "ca.crt" {
				text = s.CA
			}
			if c := identity.Ends(text); c != nil {
				out = append(out, n.given("Secret "+s.Ref.Namespace+"/"+s.Ref.Name+": "+n.key, c))
			}
		}
	}
	return out
}

func (n *naming) given(source string, c *x509.Certificate) apiv1.IdentityGiven {
	return apiv1.IdentityGiven{Object: n.object, Field: n.field, Source: source, Name: c.Subject.String(), From: c.NotBefore, Until: c.NotAfter, Breaks: n.breaks}
}

// inFiles are those that proxies read, by what names them.
func inFiles(snap *mesh.Snapshot, files []heldFile) (out []apiv1.IdentityGiven) {
	if len(files) == 0 {
		return nil
	}
	by := map[string]*naming{}
	if snap != nil {
		for _, n := range places(snap) {
			if n.file != "" && by[n.file] == nil {
				by[n.file] = &n
			}
		}
	}
	slices.SortFunc(files, func(a, b heldFile) int {
		return cmp.Or(cmp.Compare(a.Path, b.Path), a.Until.Compare(b.Until), cmp.Compare(a.Subject, b.Subject), cmp.Compare(a.Workload, b.Workload))
	})
	const most = 5
	for i, f := range files {
		if last := len(out) - 1; i > 0 && files[i-1].Path == f.Path && files[i-1].Until.Equal(f.Until) && files[i-1].Subject == f.Subject {
			if files[i-1].Workload == f.Workload {
				continue // which two control planes know
			}
			if out[last].Readers++; len(out[last].Workloads) < most {
				out[last].Workloads = append(out[last].Workloads, f.Workload)
			}
			continue
		}
		n := by[f.Path]
		if n == nil {
			n = &naming{breaks: "who is shown what is in the file, or judged by it, is refused"}
		}
		x := n.given("file "+f.Path, &x509.Certificate{NotBefore: f.From, NotAfter: f.Until})
		x.Name, x.Workloads, x.Readers = f.Subject, []string{f.Workload}, 1
		out = append(out, x)
	}
	return out
}

// places are all that name a certificate, in the order of their objects.
func places(snap *mesh.Snapshot) (out []naming) {
	for g := range snap.Gateways.Values() {
		object := "Gateway " + g.Ref.Namespace + "/" + g.Ref.Name
		for i := range g.Servers {
			s := &g.Servers[i]
			for _, n := range ofServer(s.TLS, fmt.Sprintf("spec.servers[%d].tls", i), fmt.Sprintf("port %d of %s", s.Port, object)) {
				n.object, n.gateway = object, g
				out = append(out, n)
			}
		}
	}
	for s := range snap.Sidecars.Values() {
		object := "Sidecar " + s.Ref.Namespace + "/" + s.Ref.Name
		for i := range s.Ingress {
			for _, n := range ofServer(s.Ingress[i].TLS, fmt.Sprintf("spec.ingress[%d].tls", i), fmt.Sprintf("port %d of workloads of %s", s.Ingress[i].Port, object)) {
				n.object = object
				out = append(out, n)
			}
		}
	}
	for r := range snap.DestinationRules.Values() {
		object := "DestinationRule " + r.Ref.Namespace + "/" + r.Ref.Name
		policy := func(p *mesh.TrafficPolicy, path string) {
			t := p.TLS
			if t == nil || t.Mode != "SIMPLE" && t.Mode != "MUTUAL" {
				return
			}
			add := func(field, secret, key, file, breaks string) {
				if secret+file != "" {
					out = append(out, naming{object: object, field: path + ".tls." + field, rule: r, secret: secret, key: key, file: file, breaks: breaks})
				}
			}
			mine, theirs := "calls to "+r.Host+" are refused by who looks at the certificate", "calls to "+r.Host+" fail: its certificate is not accepted any more"
			if t.Mode == "MUTUAL" {
				add("credentialName", t.CredentialName, "tls.crt", "", mine)
				add("clientCertificate", "", "", t.Certificate, mine)
			}
			if !t.SkipVerify {
				add("credentialName", t.CredentialName, "ca.crt", "", theirs)
				add("caCertificates", "", "", t.CACertificates, theirs)
			}
		}
		ports := func(m map[uint16]mesh.TrafficPolicy, path string) {
			for _, port := range slices.Sorted(maps.Keys(m)) {
				p := m[port]
				policy(&p, fmt.Sprintf("%s.portLevelSettings (port %d)", path, port))
			}
		}
		policy(&r.Policy, "spec.trafficPolicy")
		ports(r.PortPolicies, "spec.trafficPolicy")
		for i := range r.Subsets {
			path := fmt.Sprintf("spec.subsets[%d].trafficPolicy", i)
			if p := r.Subsets[i].Policy; p != nil {
				policy(p, path)
			}
			ports(r.Subsets[i].PortPolicies, path)
		}
	}
	slices.SortStableFunc(out, func(a, b naming) int { return cmp.Compare(a.object, b.object) })
	return out
}

// ofServer are those of one server.
func ofServer(t *mesh.ServerTLS, path, where string) (out []naming) {
	if t == nil || t.Mode == "PASSTHROUGH" || t.Mode == "AUTO_PASSTHROUGH" || t.Mode == "ISTIO_MUTUAL" {
		return nil
	}
	shown, judged := "clients refuse the certificate of "+where, "certificates of clients are refused at "+where
	add := func(field, secret, key, file, breaks string) {
		if secret+file != "" {
			out = append(out, naming{field: path + "." + field, secret: secret, key: key, file: file, breaks: breaks})
		}
	}
	credential := func(i int) string {
		if len(t.Credentials) == 1 {
			return "credentialName"
		}
		return fmt.Sprintf("credentialNames[%d]", i)
	}
	for i, name := range t.Credentials {
		add(credential(i), name, "tls.crt", "", shown)
	}
	add("serverCertificate", "", "", t.Certificate, shown)
	for i, pair := range t.More {
		add(fmt.Sprintf("tlsCertificates[%d].serverCertificate", i), "", "", pair.Certificate, shown)
	}
	if strings.HasSuffix(t.Mode, "MUTUAL") {
		switch {
		case t.CACredential != "":
			add("caCertCredentialName", t.CACredential, "ca.crt", "", judged)
		case t.CACertificates == "" && len(t.Credentials) > 0:
			add(credential(0), t.Credentials[0], "ca.crt", "", judged)
		}
		add("caCertificates", "", "", t.CACertificates, judged)
	}
	return out
}

// remedy says what to do about what somebody put there.
func remedy(g *apiv1.IdentityGiven) string {
	out := "put a new one into " + g.Source
	if len(g.Workloads) > 0 {
		out += " of " + strings.Join(g.Workloads, ", ")
		if more := g.Readers - len(g.Workloads); more > 0 {
			out += fmt.Sprintf(" and %d more", more)
		}
	}
	return out + ": it is used at once, and connections stay"
}

// endsSoon reports whether somebody has to be told of what only people renew: a month before, of what lives for less than four months for the
// last quarter of its life.
func endsSoon(now, from, until time.Time) bool { return until.Sub(now) < min(until.Sub(from)/4, soon) }

// ending is the finding about what ends soon for what it is.
func ending(g *apiv1.IdentityGiven) config.Finding {
	object := g.Object
	if object == "" {
		object = "Pod " + g.Workloads[0] // files alone are named by no object
	}
	kind, name, _ := strings.Cut(object, " ")
	namespace, name, _ := strings.Cut(name, "/")
	return config.New(config.CertificateEnds, mesh.Ref{Kind: kind, Namespace: namespace, Name: name}, g.Field, 0,
		fmt.Sprintf("%s (%s) ends %s: then %s", g.Source, g.Name, g.Until.UTC().Format(time.RFC3339), g.Breaks), remedy(g))
}
