package proxy

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/proxy/admin"
	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/cluster/outlier"
	"github.com/weirmesh/weir/xds/client"
	"github.com/weirmesh/weir/xds/dump"
	"github.com/weirmesh/weir/xds/resource"
)

// Dump answers /config_dump: what a bootstrap has, and what has come. A proxy of a mesh does not keep resources in memory as they came: they
// are read from where the last good state is kept.
func (p *Proxy) Dump() (*dump.Dump, error) {
	d := &dump.Dump{}
	var err error
	if p.o.Static != nil {
		if d, err = staticDump(p.o.Static); err != nil || p.o.Control == nil {
			return d, err
		}
	} else if d.Bootstrap, err = p.bootstrap(); err != nil {
		return nil, err
	}
	if p.keeper == nil {
		return nil, errors.New("this proxy keeps no state (--state): it cannot show its configuration as it came; /state shows what it has made of it")
	}
	held, err := p.keeper.Held()
	if err != nil {
		return nil, err
	}
	refused := p.refused()
	for _, u := range held {
		if u.TypeURL == resource.IndexType {
			continue // hashes: /state says how many
		}
		for _, r := range u.Set {
			x := dump.Resource{TypeURL: u.TypeURL, Name: r.Name, Version: r.Version, Body: r.Body}
			if n := refused[u.TypeURL]; n != nil && slices.Contains(n.Names, r.Name) {
				x.Refused = &dump.Refusal{Version: n.Version, Details: n.Message, Time: n.Time}
			}
			d.Resources = append(d.Resources, x)
		}
	}
	own, err := ownSecrets(p.id)
	if err != nil {
		return nil, err
	}
	d.Resources = append(d.Resources, own...)
	return d, nil
}

// refused are the last rejections by type.
func (p *Proxy) refused() map[string]*client.NACK {
	out := map[string]*client.NACK{}
	st, _ := p.xds.State()
	for _, t := range st.Types {
		if t.LastNACK != nil && len(t.LastNACK.Names) > 0 {
			out[t.TypeURL] = t.LastNACK
		}
	}
	return out
}

// ownSecrets are the secrets that the workload's identity serves, by Istio's names.
func ownSecrets(id *identity.Manager) ([]dump.Resource, error) {
	if id == nil || id.Current() == nil {
		return nil, nil
	}
	held := id.Current()
	inline := func(b []byte) *corev3.DataSource {
		return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
	}
	var out []dump.Resource
	for _, s := range []*tlsv3.Secret{
		{Name: "default", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{
			CertificateChain: inline(identity.EncodeCertificates(held.Chain()...)), PrivateKey: inline(nil)}}},
		{Name: "ROOTCA", Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(held.Bundle().PEM())}}},
	} {
		a, err := anypb.New(s)
		if err != nil {
			return nil, err
		}
		out = append(out, dump.Resource{TypeURL: resource.SecretType, Name: s.GetName(), Version: held.Leaf().SerialNumber.Text(16), Body: a})
	}
	return out, nil
}

// staticDump is the dump of a bootstrap file.
func staticDump(b *bootstrapv3.Bootstrap) (*dump.Dump, error) {
	d := &dump.Dump{Bootstrap: b}
	add := func(name string, m proto.Message) error {
		a, err := anypb.New(m)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		d.Resources = append(d.Resources, dump.Resource{TypeURL: resource.TypeURL(m), Name: name, Body: a, Static: true})
		return nil
	}
	for _, c := range b.GetStaticResources().GetClusters() {
		if err := add(c.GetName(), c); err != nil {
			return nil, err
		}
	}
	for _, l := range b.GetStaticResources().GetListeners() {
		if err := add(l.GetName(), l); err != nil {
			return nil, err
		}
	}
	for _, s := range b.GetStaticResources().GetSecrets() {
		if err := add(s.GetName(), s); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// Clusters answers /clusters.
func (p *Proxy) Clusters() (out []admin.Cluster) {
	totals := p.clusterTotals()
	now := p.now()
	p.state.mu.Lock()
	defer p.state.mu.Unlock()
	static := map[string]bool{}
	for _, c := range p.o.Static.GetStaticResources().GetClusters() {
		static[c.GetName()] = true
	}
	for c := range p.state.builder.State().Clusters() {
		v := admin.Cluster{Name: c.Name, Static: static[c.Name] && c.Version == "", Connections: c.Limits.Connections.Load(), Pending: c.Limits.Pending.Load(), Requests: c.Limits.Requests.Load(), Stats: clusterStats(c, totals.At(c.ID))}
		eds, idle := p.state.builder.Unhealthy(c.Name)
		v.EDSName = eds
		panics := map[string]bool{} // what is chosen although it is unhealthy
		for _, e := range idle {
			panics[e] = true
		}
		for i, e := range c.Endpoints {
			h := admin.Host{Address: e.Addr, Path: e.Path, Name: e.Host, Healthy: !panics[hostKey(e)], Active: e.Active.Load(), Ejected: e.Outlier.Phase() == outlier.Open, Sick: e.Sick.Load(), Unproven: e.Unproven.Load(), Degraded: e.Degraded.Load(), Silent: e.Silent.Load() > now}
			delete(panics, hostKey(e))
			if i < len(c.Weights) {
				h.Weight = c.Weights[i]
			}
			v.Hosts = append(v.Hosts, h)
		}
		for _, e := range idle {
			if panics[e] {
				v.Hosts = append(v.Hosts, unhealthyHost(e))
			}
		}
		out = append(out, v)
	}
	return out
}

func hostKey(e *cluster.Endpoint) string {
	if e.Path != "" {
		return e.Path
	}
	return e.Addr.String()
}

func unhealthyHost(key string) admin.Host {
	if a, err := netip.ParseAddrPort(key); err == nil {
		return admin.Host{Address: a}
	}
	return admin.Host{Path: key}
}

// Listeners answers /listeners: those that are bound, and those that take what others
// have accepted, by the address they stand for.
func (p *Proxy) Listeners() (out []admin.Listener) {
	for l := range p.state.current().Listeners() {
		if l.Config == nil {
			continue
		}
		v := admin.Listener{Name: l.Name}
		for _, b := range l.Config.Binds {
			if at, ok := p.group.Local(b); ok {
				v.Addresses = append(v.Addresses, at.AddrPort)
			}
		}
		if len(v.Addresses) == 0 && l.Config.Address.IsValid() {
			v.Addresses = []netip.AddrPort{l.Config.Address}
		}
		out = append(out, v)
	}
	return out
}

// Certs answers /certs.
func (p *Proxy) Certs() (out []admin.Certificates) {
	if p.id != nil {
		if held := p.id.Current(); held != nil {
			out = append(out, admin.Certificates{Source: "default", Chain: held.Chain(), Roots: held.Bundle().Roots()})
		}
	}
	for l := range p.state.current().Listeners() {
		if l.Config == nil {
			continue
		}
		seen := map[string]bool{}
		for _, c := range append(slices.Clone(l.Config.Chains), l.Config.Default) {
			if c == nil || c.TLS == nil {
				continue
			}
			for _, x := range c.TLS.Leaves() {
				if serial := x.SerialNumber.Text(16); !seen[serial] {
					seen[serial] = true
					out = append(out, admin.Certificates{Source: "listener " + l.Name, Chain: []*x509.Certificate{x}})
				}
			}
		}
	}
	return out
}
