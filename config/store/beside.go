package store

import (
	"slices"
	"strings"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/analyze"
	"github.com/weirmesh/weir/mesh"
)

// Judge judges objects that are not stored yet. It remembers what it saw: judging again costs what
// changed since. The zero value is ready; it is for one goroutine.
type Judge struct{ z analyze.Analyzer }

// Of says what is wrong with an object that is not stored yet: by itself, and beside
// all others as they are.
func (j *Judge) Of(u *Update, o *config.Object) []config.Finding {
	lowered, state, findings := Lower(o, u.Snapshot.Settings)
	next := *u.Snapshot
	k := mesh.NewKey(o.ID.Namespace, o.ID.Name)
	switch v := lowered.(type) {
	case *mesh.VirtualService:
		next.VirtualServices = next.VirtualServices.Set(k, v)
	case *mesh.DestinationRule:
		next.DestinationRules = next.DestinationRules.Set(k, v)
	case *mesh.Gateway:
		next.Gateways = next.Gateways.Set(k, v)
	case *mesh.Sidecar:
		next.Sidecars = next.Sidecars.Set(k, v)
	case *mesh.PeerAuthentication:
		next.PeerAuths = next.PeerAuths.Set(k, v)
	case *mesh.AuthorizationPolicy:
		next.Authorizations = next.Authorizations.Set(k, v)
	case *mesh.RequestAuthentication:
		next.RequestAuths = next.RequestAuths.Set(k, v)
	default: // of no interest to others, or not in force
		return findings
	}
	objects := u.Objects.Set(o.ID.String(), &Object{ID: o.ID, Serving: o, Lowered: lowered, State: state})
	in := analyze.Input{Snapshot: &next, Objects: serving{objects}, Facts: really{}}
	about := slices.DeleteFunc(slices.Clone(j.z.Run(in)), func(f config.Finding) bool {
		// Secrets are not all in an Update.
		return config.IDOf(f.Object) != o.ID || strings.Contains(f.FieldPath, "credentialName")
	})
	return config.Merge(config.Tidy(findings), config.Tidy(about))
}
