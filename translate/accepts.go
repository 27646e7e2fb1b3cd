package translate

import "github.com/weirmesh/weir/mesh"

// Accepts answers what workloads accept, for people: with the same resolution of
// PeerAuthentications that their proxies are configured by.
type Accepts struct{ a *authn }

// NewAccepts resolves the policies of a snapshot.
func NewAccepts(snap *mesh.Snapshot) Accepts {
	return Accepts{newAuthn(snap.Settings.RootNamespace, snap.PeerAuths)}
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
