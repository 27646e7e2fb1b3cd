package control

import (
	"io"
	"slices"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/store"
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
	// Findings are of what runs beside the Plane; nil: there are none.
	Findings func() []config.Finding
	// Metrics writes more metrics as Prometheus text; nil: there are none.
	Metrics func(io.Writer)
}

// clusterFindings are those of the cluster that the objects they are about do not turn off.
func (p *Plane) clusterFindings(u *store.Update) []config.Finding {
	if p.o.Cluster == nil || p.o.Cluster.Findings == nil {
		return nil
	}
	return slices.DeleteFunc(p.o.Cluster.Findings(), func(f config.Finding) bool {
		o := u.Objects.At(config.IDOf(f.Object).String())
		if o == nil || o.InForce() == nil {
			return false
		}
		return config.Suppresses(o.InForce().Root().Get("metadata").Get("annotations").Get(config.SuppressAnnotation).String(), f.Code)
	})
}
