// Package authorization holds a test: random AuthorizationPolicies and requests, decided by
// the proxy's rules as the control plane makes them, by `weir can`, by a proxy that runs (for some of them), and by an evaluator that
// reads the objects as Istio documents them. It exports nothing.
package authorization
