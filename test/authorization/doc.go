// Package authorization holds a test: random AuthorizationPolicies and requests, decided by
// the proxy's rules as the control plane makes them and by an evaluator that reads the
// objects as Istio documents them. It exports nothing.
package authorization
