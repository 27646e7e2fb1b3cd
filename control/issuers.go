package control

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/control/keys"
)

// newest answers proxies that met a token which is newer than their keys.
type newest struct{ p *Plane }

// Admit is keys.Server. Workloads of the mesh may ask.
func (n newest) Admit(ctx context.Context) error {
	if who, ok := peer.FromContext(ctx); ok {
		if t, ok := who.AuthInfo.(credentials.TLSInfo); ok && t.SPIFFEID != nil {
			return nil
		}
	}
	if _, _, err := n.p.authenticate(ctx); err != nil {
		return status.Error(codes.Unauthenticated, "keys are only given to workloads of the mesh")
	}
	return nil
}

// Newest is keys.Server. Only what the configuration names is answered: nobody makes the control plane fetch anything else.
func (n newest) Newest(ctx context.Context, uri string) (string, error) {
	return n.p.keys.Newest(ctx, uri)
}

// KeptKeys are the keys of issuers that are to be kept for control planes that start; changed is closed when they are others.
func (p *Plane) KeptKeys() (all []*keys.Kept, changed <-chan struct{}) { return p.keys.Kept() }

// issuerFindings name the issuers of tokens whose keys cannot be fetched.
func (p *Plane) issuerFindings() (out []config.Finding) {
	for _, x := range p.keys.Problems() {
		message := fmt.Sprintf("keys at %s cannot be fetched since %s: %v; those that were fetched before stay in force (last at %s%s)", x.URI, x.Since.UTC().Format(time.RFC3339), x.Err,
			x.Last.UTC().Format(time.RFC3339), map[bool]string{true: ", before the control plane began anew"}[x.Early])
		if x.Never {
			message = fmt.Sprintf("keys at %s could never be fetched, the first time at %s: %v; all tokens that need them are refused", x.URI, x.Since.UTC().Format(time.RFC3339), x.Err)
		}
		for _, ref := range x.Refs {
			out = append(out, config.New(config.KeysUnreachable, ref, "spec.jwtRules", ref.Line, message, "the control plane fetches them: it has to reach the address; it tries again by itself"))
		}
	}
	return out
}
