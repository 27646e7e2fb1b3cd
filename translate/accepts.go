package translate

import "github.com/weirmesh/weir/mesh"

// Accepts answers what workloads accept, for people: with the same resolution of
// PeerAuthentications that their proxies are configured by.
type Accepts struct{ a *authn }

// NewAccepts resolves the policies of a snapshot.
func NewAccepts(snap *mesh.Snapshot) Accepts {
	return Accepts{newAuthn(snap.Settings.RootNamespace, snap.PeerAuths)}
}

// Policies answers which policies and rules for tokens workloads are given.
type Policies struct{ a *authz }

// NewPolicies resolves the policies of a snapshot.
func NewPolicies(snap *mesh.Snapshot) Policies {
	return Policies{newAuthz(snap.Settings.RootNamespace, snap, 1, nil)}
}

// Of lists those of workloads with the given labels.
func (x Policies) Of(s *mesh.Settings, namespace string, labels mesh.Labels) ([]*mesh.AuthorizationPolicy, []*mesh.RequestAuthentication) {
	got := x.a.of(s, namespace, labels)
	return got.policies, got.identify
}

// Levels of the policies that On names.
const (
	LevelWorkload  = "workload"
	LevelNamespace = "namespace"
	LevelMesh      = "mesh"
)

// Decider is a policy that says something of a workload, and where it stands: that of the workload goes
// before that of its namespace, and on one level the oldest counts alone.
type Decider struct {
	Level string
	Ref   mesh.Ref
}

// On is what workloads with the given labels accept on a port, and the policies that say so.
func (x Accepts) On(namespace string, labels mesh.Labels, port uint16) (mesh.MTLSMode, []Decider) {
	got := x.a.of(namespace, labels)
	var by []Decider
	for i, level := range []string{LevelWorkload, LevelWorkload, LevelNamespace, LevelMesh} {
		if r := got.by[i]; r != nil {
			by = append(by, Decider{level, *r})
		}
	}
	return got.on(port), by
}
