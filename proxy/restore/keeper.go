package restore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/weirmesh/weir/proxy/state"
	"github.com/weirmesh/weir/xds/resource"
)

// settle is how long after a change the file is written: a burst of updates is one
// write, and what a crash may lose is a second old.
const settle = time.Second

// order of types when a state is applied: what is used before what uses it.
func order(typeURL string) int {
	i := slices.Index([]string{resource.IndexType, resource.ClusterType, resource.EndpointType, resource.ListenerType, resource.VirtualHostType, resource.RouteType}, typeURL)
	if i < 0 {
		return 100
	}
	return i
}

// Keeper gathers changes and writes them down, or only remembers them.
type Keeper struct {
	dir string // "": nothing is written
	b   Binding
	log *slog.Logger

	mu       sync.Mutex
	fresh    bool // the old file must not be built on
	material []byte
	demanded map[string][]string                         // nil: as before
	changes  map[string]map[string]*discoveryv3.Resource // type → name → nil: removed
	saving   map[string]map[string]*discoveryv3.Resource // the same, being written now
	wake     chan struct{}
}

// NewKeeper makes a Keeper for dir; "" remembers what is held as long as the process lives. continues says that the process began with the
// state that is in dir, so that changes are on top of it; otherwise the file begins anew.
func NewKeeper(dir string, b Binding, continues bool, log *slog.Logger) *Keeper {
	return &Keeper{dir: dir, b: b, fresh: !continues, log: log, changes: map[string]map[string]*discoveryv3.Resource{}, wake: make(chan struct{}, 1)}
}

// Changed notes an accepted update.
func (k *Keeper) Changed(u state.Update) {
	k.mu.Lock()
	m := k.changes[u.TypeURL]
	if m == nil {
		m = map[string]*discoveryv3.Resource{}
		k.changes[u.TypeURL] = m
	}
	for _, r := range u.Set {
		m[r.Name] = &discoveryv3.Resource{Name: r.Name, Version: r.Version, Resource: r.Body}
	}
	for _, name := range u.Removed {
		if m[name] = nil; k.dir == "" { // there is nothing below that it would be missing from
			delete(m, name)
		}
	}
	k.mu.Unlock()
	k.poke()
}

// Material notes the key and certificate to begin with next time.
func (k *Keeper) Material(marshalled []byte) {
	k.mu.Lock()
	k.material = marshalled
	k.mu.Unlock()
	k.poke()
}

// Demanded notes the names that are asked for on demand, by type URL; not nil.
func (k *Keeper) Demanded(names map[string][]string) {
	k.mu.Lock()
	k.demanded = names
	k.mu.Unlock()
	k.poke()
}

// Forget notes that nothing of a type is held any more.
func (k *Keeper) Forget(typeURL string) {
	held, err := k.Held()
	if err != nil {
		return // there is nothing then, or it will be said when it is written
	}
	for _, u := range held {
		if u.TypeURL != typeURL {
			continue
		}
		for _, r := range u.Set {
			u.Removed = append(u.Removed, r.Name)
		}
		u.Set = nil
		k.Changed(u)
	}
}

func (k *Keeper) poke() {
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Run writes changes down until ctx ends, and once more then. An error to write is
// logged and tried again with the next change: the proxy goes on without.
func (k *Keeper) Run(ctx context.Context) error {
	if k.dir == "" {
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			k.save()
			return nil
		case <-k.wake:
		}
		t := time.NewTimer(settle)
		select {
		case <-ctx.Done():
			t.Stop()
			k.save()
			return nil
		case <-t.C:
			k.save()
		}
	}
}

func (k *Keeper) save() {
	k.mu.Lock()
	changes, fresh := k.changes, k.fresh
	h := &Header{Material: k.material, Demanded: k.demanded}
	k.changes, k.material, k.demanded = map[string]map[string]*discoveryv3.Resource{}, nil, nil
	k.saving = changes
	k.mu.Unlock()
	if len(changes) == 0 && h.Material == nil && h.Demanded == nil {
		return
	}
	err := k.merge(changes, h, fresh)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.saving = nil
	if err == nil {
		k.fresh = false
		return
	}
	k.log.Warn("keeping the last good state", "dir", k.dir, "err", err)
	// Put the changes back under those that came meanwhile.
	for typeURL, m := range changes {
		m = maps.Clone(m) // Held may be reading it
		maps.Copy(m, k.changes[typeURL])
		k.changes[typeURL] = m
	}
	if k.material == nil {
		k.material = h.Material
	}
	if k.demanded == nil {
		k.demanded = h.Demanded
	}
}

// Held are the resources kept, those that are not in the file yet included: one Update a
// type, in order of type and name. It reads the file.
func (k *Keeper) Held() ([]state.Update, error) {
	k.mu.Lock()
	fresh := k.fresh
	var changes []map[string]map[string]*discoveryv3.Resource
	for _, c := range []map[string]map[string]*discoveryv3.Resource{k.saving, k.changes} {
		copied := map[string]map[string]*discoveryv3.Resource{}
		for typeURL, m := range c {
			copied[typeURL] = maps.Clone(m)
		}
		changes = append(changes, copied)
	}
	k.mu.Unlock()
	// The file may be newer by now, which is not worse: the changes are put on top again.
	var old []*discoveryv3.DeltaDiscoveryResponse
	if !fresh {
		var err error
		if _, old, err = read(filepath.Join(k.dir, fileName)); err != nil {
			return nil, err
		}
	}
	byType := sorted(old)
	for _, c := range changes {
		overlay(byType, c)
	}
	var out []state.Update
	for _, typeURL := range slices.Sorted(maps.Keys(byType)) {
		u := state.Update{TypeURL: typeURL}
		for _, name := range slices.Sorted(maps.Keys(byType[typeURL])) {
			r := byType[typeURL][name]
			u.Set = append(u.Set, state.Resource{Name: name, Version: r.GetVersion(), Body: r.GetResource()})
		}
		out = append(out, u)
	}
	return out, nil
}

// sorted are resources by type and name.
func sorted(types []*discoveryv3.DeltaDiscoveryResponse) map[string]map[string]*discoveryv3.Resource {
	byType := map[string]map[string]*discoveryv3.Resource{}
	for _, r := range types {
		m := map[string]*discoveryv3.Resource{}
		for _, x := range r.GetResources() {
			m[x.GetName()] = x
		}
		byType[r.GetTypeUrl()] = m
	}
	return byType
}

// overlay puts changes on top.
func overlay(byType, changes map[string]map[string]*discoveryv3.Resource) {
	for typeURL, m := range changes {
		to := byType[typeURL]
		if to == nil {
			to = map[string]*discoveryv3.Resource{}
			byType[typeURL] = to
		}
		for name, r := range m {
			if r == nil {
				delete(to, name)
			} else {
				to[name] = r
			}
		}
	}
}

// merge writes the old file's contents with the changes on top. now is what has changed of the
// header.
func (k *Keeper) merge(changes map[string]map[string]*discoveryv3.Resource, now *Header, fresh bool) error {
	h := &Header{}
	var old []*discoveryv3.DeltaDiscoveryResponse
	if !fresh {
		var err error
		if h, old, err = read(filepath.Join(k.dir, fileName)); err != nil {
			if errors.Is(err, ErrNone) {
				err = errors.New("the file vanished")
			}
			return fmt.Errorf("building on what was kept: %w", err)
		}
	}
	byType := sorted(old)
	overlay(byType, changes)
	var types []*discoveryv3.DeltaDiscoveryResponse
	for _, typeURL := range slices.Sorted(maps.Keys(byType)) {
		r := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL}
		for _, name := range slices.Sorted(maps.Keys(byType[typeURL])) {
			r.Resources = append(r.Resources, byType[typeURL][name])
		}
		types = append(types, r)
	}
	if now.Material != nil {
		h.Material = now.Material
	}
	if now.Demanded != nil {
		h.Demanded = now.Demanded
	}
	h.Binding, h.Saved = k.b, time.Now().UTC()
	return write(k.dir, h, types)
}
