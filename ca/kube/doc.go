// Package kube is the certificate authority's side towards Kubernetes.
//
// An [Authority] takes key and roots from Secrets and is the ca.Source of all replicas; a
// [Publisher] keeps the roots in a ConfigMap of every namespace, for pods to mount; a
// [Reviewer] knows callers by the tokens of their service accounts, which it has the API
// server review ([Uses] remembers those that are good once); [Accounts] know
// whether a service account is still there; a [Signer] has certificates made by a signer of the cluster.
//
// In: a Kubernetes client, Secrets, tokens of callers. Out: a ca.Source, a
// ca/server.Authenticator, ConfigMaps and one Secret. Only cmd/weir-control and tests import
// it. Everything is safe for concurrent use; each Run runs once.
package kube

// Names that Istio gives.
const (
	// PluggedSecret is an organisation's authority, put there by the operator.
	PluggedSecret = "cacerts"
	// OwnSecret is the mesh's own root, made where there is no PluggedSecret.
	OwnSecret = "istio-ca-secret"
	// HandoverSecret says which roots were handed over from, for the next replica. Nothing of it is secret; but who writes it
	// says whom the mesh trusts.
	HandoverSecret = "istio-ca-handover"
	// UsesSecret says which tokens for machines were used, and from where, for all replicas. Nothing of it is secret; but who
	// writes it lets a token be used again.
	UsesSecret = "istio-ca-used-tokens"
	// RootConfigMap has the roots of the mesh at RootKey, in every namespace.
	RootConfigMap = "istio-ca-root-cert"
	RootKey       = "root-cert.pem"

	certKey       = "ca-cert.pem"
	ownSecretType = "istio.io/ca-root"
)

// ServerNames are the DNS names of a control plane of a revision ("" or "default" for none)
// in a namespace.
func ServerNames(namespace, revision string) []string {
	services := []string{"istiod", "istio-pilot", "istio-sidecar-injector"}
	if revision != "" && revision != "default" {
		services = append(services, "istiod-"+revision)
	}
	var out []string
	for _, s := range services {
		out = append(out, s+"."+namespace+".svc", s+"."+namespace+".svc.cluster.local", s+"."+namespace)
	}
	return append(out, "localhost")
}
