package store

import (
	"reflect"
	"slices"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/legacy"
	"github.com/weirmesh/weir/internal/persist"
	"github.com/weirmesh/weir/mesh"
)

// converting keeps what objects of Istio before 1.5 come to.
type converting struct {
	objects  persist.Map[string, any] // lowered, by config.ID.String()
	of       persist.Map[string, any] // what was converted last
	findings []config.Finding
	out      *legacy.Converted
	// in is what it was converted with.
	in mesh.Snapshot
}

func (x *converting) set(id config.ID, lowered any) {
	if lowered == nil {
		x.objects = x.objects.Delete(id.String())
	} else {
		x.objects = x.objects.Set(id.String(), lowered)
	}
}

// convert brings what old objects come to into the plan that is being built. Meshes without any pay nothing for it; in
// others it is done anew for all when services or workloads change, and what did not change is shared.
func (s *Store) convert() {
	x, n := &s.legacy, &s.next
	if x.objects.Len() == 0 && x.out == nil ||
		x.out != nil && x.objects.Same(x.of) && x.in.Settings == n.Settings && n.Services.Same(x.in.Services) && n.Endpoints.Same(x.in.Endpoints) && n.Workloads.Same(x.in.Workloads) {
		return
	}
	old := x.out
	if old == nil {
		old = &legacy.Converted{}
	}
	now := legacy.Convert(n, x.objects.Values())
	exchange(&n.Authorizations, old.Authorizations, now.Authorizations)
	exchange(&n.PeerAuths, old.PeerAuths, now.PeerAuths)
	exchange(&n.RequestAuths, old.RequestAuths, now.RequestAuths)
	if !slices.Equal(now.Findings, x.findings) {
		x.findings, s.stale = now.Findings, true
	}
	x.of, x.in, x.out = x.objects, *n, now
	if x.objects.Len() == 0 {
		x.out = nil
	}
}

// exchange puts values into m in place of those that were there; equal ones stay the same.
func exchange[T any](m *persist.Map[mesh.Key, *T], old, now map[mesh.Key]*T) {
	for k := range old {
		if now[k] == nil {
			*m = m.Delete(k)
		}
	}
	for k, v := range now {
		if was := old[k]; was != nil && reflect.DeepEqual(was, v) {
			now[k] = was
			continue
		}
		*m = m.Set(k, v)
	}
}
