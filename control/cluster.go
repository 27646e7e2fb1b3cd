package control

import (
	"io"

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
	// Metrics writes more metrics as Prometheus text; nil: there are none.
	Metrics func(io.Writer)
}
