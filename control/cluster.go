package control

import (
	"io"
	"net/netip"
	"slices"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/mesh"
)

// Cluster is what a control plane in a Kubernetes cluster has instead of files. All comes
// ready made: there is no Kubernetes client in this package.
type Cluster struct {
	// Objects are where configuration comes from, Facts what is really there.
	Objects store.Source
	Facts   store.Facts
	// Plaintext says that PlainGRPC may be reached from other machines: proxies as of Istio
	// 1.0 without TLS, which are given no secrets and no certificates.
	Plaintext bool
	// Why says why a pod is no workload (yet), for people; "" if it is one.
	Why func(namespace, name string) string
	// Awaits says what is missing for the first configuration, for people; "" if nothing.
	Awaits func() string
	// Trouble says that the API server does not answer or is slow, for people; "" if it is well; nil: nobody knows.
	Trouble func() string
	// Findings are of what runs beside the Plane; nil: there are none.
	Findings func() []config.Finding
	// KeysAllowed are addresses at which keys of token issuers may be although they are this machine's or its link's (keys.Fetcher.Guard).
	KeysAllowed []netip.Prefix
	// Metrics writes more metrics as Prometheus text; nil: there are none.
	Metrics func(io.Writer)
}

// clusterFindings are those of the cluster that the objects they are about do not turn off, and about the API server itself: while it is away
// or slow, what people change in the cluster is not what is in force.
func (p *Plane) clusterFindings(u *store.Update) (all []config.Finding) {
	if p.o.Cluster == nil {
		return nil
	}
	if p.o.Cluster.Findings != nil {
		all = slices.DeleteFunc(p.o.Cluster.Findings(), func(f config.Finding) bool {
			o := u.Objects.At(config.IDOf(f.Object).String())
			if o == nil || o.InForce() == nil {
				return false
			}
			return config.Suppresses(o.InForce().Root().Get("metadata").Get("annotations").Get(config.SuppressAnnotation).String(), f.Code)
		})
	}
	if p.o.Cluster.Trouble != nil {
		if trouble := p.o.Cluster.Trouble(); trouble != "" {
			all = append(all, config.New(config.ClusterAway, mesh.Ref{Kind: "Cluster", Name: p.o.Settings.ClusterID}, "", 0, "the API server: "+trouble,
				"look at the API server, and at the network to it; what is known stays in force, and changes are taken when it answers"))
		}
	}
	return all
}
