package restore

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/proxy/state"
	"github.com/weirmesh/weir/xds/resource"
)

var me = Binding{TrustDomain: "cluster.local", Identity: "spiffe://cluster.local/ns/default/sa/a", Node: "a-0.default"}

func res(t *testing.T, name, content string) state.Resource {
	t.Helper()
	a, err := anypb.New(wrapperspb.String(content))
	if err != nil {
		t.Fatal(err)
	}
	return state.Resource{Name: name, Version: content, Body: a}
}

// keep runs a keeper over changes and lets it write.
func keep(t *testing.T, dir string, continues bool, change func(k *Keeper)) {
	t.Helper()
	k := NewKeeper(dir, me, continues, slog.New(slog.DiscardHandler))
	change(k)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := k.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

func contents(s *Saved) map[string][]string {
	out := map[string][]string{}
	for _, u := range s.Updates {
		for _, r := range u.Set {
			out[resource.Short(u.TypeURL)] = append(out[resource.Short(u.TypeURL)], r.Name+"="+r.Version)
		}
	}
	return out
}

// What was accepted is there after a restart, changes on top of it, in an order in
// which it can be applied; the file is its owner's alone.
func TestRoundTrip(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	keep(t, dir, false, func(k *Keeper) {
		k.Changed(state.Update{TypeURL: resource.RouteType, Set: []state.Resource{res(t, "80", "r1")}})
		k.Changed(state.Update{TypeURL: resource.ClusterType, Set: []state.Resource{res(t, "a", "1"), res(t, "b", "1")}})
		k.Material([]byte("key and certificate"))
	})
	keep(t, dir, true, func(k *Keeper) {
		k.Changed(state.Update{TypeURL: resource.ClusterType, Set: []state.Resource{res(t, "b", "2")}, Removed: []string{"a"}})
		k.Changed(state.Update{TypeURL: resource.ClusterType, Set: []state.Resource{res(t, "c", "2")}})
	})
	s, err := Load(dir, me, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string][]string{"CDS": {"b=2", "c=2"}, "RDS": {"80=r1"}}, contents(s)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if s.Updates[0].TypeURL != resource.ClusterType || string(s.Material) != "key and certificate" {
		t.Errorf("order or material: %s %q", s.Updates[0].TypeURL, s.Material)
	}
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, fileName): 0o600} {
		if st, err := os.Stat(path); err != nil || st.Mode().Perm() != want {
			t.Errorf("%s: %v %v, want mode %v", path, st.Mode().Perm(), err, want)
		}
	}
	if s.OnDemand() || s.Demanded != nil {
		t.Errorf("on demand: %v, %v", s.OnDemand(), s.Demanded)
	}
	// On demand, the index is what comes first, and the names that are asked for are kept until there are others.
	names := map[string][]string{resource.VirtualHostType: {"80/a"}}
	keep(t, dir, true, func(k *Keeper) {
		k.Changed(state.Update{TypeURL: resource.IndexType, Set: []state.Resource{res(t, "00", "1")}})
		k.Demanded(names)
	})
	keep(t, dir, true, func(k *Keeper) {
		k.Changed(state.Update{TypeURL: resource.ClusterType, Set: []state.Resource{res(t, "d", "1")}})
	})
	if s, err = Load(dir, me, time.Now()); err != nil || !s.OnDemand() || s.Updates[0].TypeURL != resource.IndexType || string(s.Material) != "key and certificate" {
		t.Errorf("on demand: %v", err)
	}
	if d := cmp.Diff(names, s.Demanded); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	keep(t, dir, true, func(k *Keeper) { k.Forget(resource.IndexType); k.Demanded(map[string][]string{}) })
	if s, err = Load(dir, me, time.Now()); err != nil || s.OnDemand() || len(s.Demanded) > 0 {
		t.Errorf("forgotten: %v, %v, %v", err, s.OnDemand(), s.Demanded)
	}
	// A process that began empty does not build on what it did not use.
	keep(t, dir, false, func(k *Keeper) {
		k.Changed(state.Update{TypeURL: resource.ClusterType, Set: []state.Resource{res(t, "new", "1")}})
	})
	if s, err = Load(dir, me, time.Now()); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string][]string{"CDS": {"new=1"}}, contents(s)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

// A state that is damaged, too old, or somebody else's is refused with the cause.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	if _, err := Load(dir, me, time.Now()); !errors.Is(err, ErrNone) {
		t.Errorf("nothing kept: %v", err)
	}
	keep(t, dir, false, func(k *Keeper) {
		k.Changed(state.Update{TypeURL: resource.ClusterType, Set: []state.Resource{res(t, "a", "1")}})
	})
	good, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		t.Fatal(err)
	}
	flipped := append([]byte(nil), good...)
	flipped[len(magic)+20] ^= 1
	other := me
	other.Identity = "spiffe://cluster.local/ns/default/sa/b"
	for _, c := range []struct {
		name string
		file []byte
		b    Binding
		now  time.Time
		want string
	}{
		{"a flipped bit", flipped, me, time.Now(), "kept state is damaged: the checksum is wrong"},
		{"a cut file", good[:len(good)-1], me, time.Now(), "kept state is damaged: the checksum is wrong"},
		{"an empty file", nil, me, time.Now(), "kept state is damaged: it does not begin with weir-state 1"},
		{"a later format", []byte("weir-state 2\n" + strings.Repeat("x", 100)), me, time.Now(), "kept state is damaged: it does not begin with weir-state 1"},
		{"another workload's", good, other, time.Now(), "kept state is of a-0.default (spiffe://cluster.local/ns/default/sa/a) in cluster.local, this is a-0.default (spiffe://cluster.local/ns/default/sa/b) in cluster.local"},
		{"an old one", good, me, time.Now().Add(25 * time.Hour), "kept state is 25h0m0s old, at most 24h0m0s"},
	} {
		if err := os.WriteFile(filepath.Join(dir, fileName), c.file, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dir, c.b, c.now); err == nil || err.Error() != c.want {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}

// When the disk fails the changes are not lost: they are written with the next ones.
func TestWriteFails(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(dir, nil, 0o600); err != nil { // a file where the folder should be
		t.Fatal(err)
	}
	k := NewKeeper(dir, me, false, slog.New(slog.DiscardHandler))
	k.Changed(state.Update{TypeURL: resource.ClusterType, Set: []state.Resource{res(t, "a", "1")}})
	k.save()
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	k.Changed(state.Update{TypeURL: resource.ClusterType, Set: []state.Resource{res(t, "b", "1")}})
	k.save()
	s, err := Load(dir, me, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string][]string{"CDS": {"a=1", "b=1"}}, contents(s)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(magic))
	f.Add([]byte(magic + "{}\n"))
	f.Fuzz(func(_ *testing.T, b []byte) { _, _, _ = decode(b) })
}

// What is held can be looked at, from the file and from what is not written yet.
func TestHeld(t *testing.T) {
	dir := t.TempDir()
	keep(t, dir, false, func(k *Keeper) {
		k.Changed(state.Update{TypeURL: resource.ClusterType, Set: []state.Resource{res(t, "a", "1"), res(t, "b", "1")}})
	})
	k := NewKeeper(dir, me, true, slog.New(slog.DiscardHandler))
	k.Changed(state.Update{TypeURL: resource.ClusterType, Set: []state.Resource{res(t, "b", "2")}, Removed: []string{"a"}})
	k.Changed(state.Update{TypeURL: resource.RouteType, Set: []state.Resource{res(t, "80", "1")}})
	for range 2 { // before and after it is written
		held, err := k.Held()
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(map[string][]string{"CDS": {"b=2"}, "RDS": {"80=1"}}, contents(&Saved{Updates: held})); d != "" {
			t.Errorf("(-want +got):\n%s", d)
		}
		k.save()
	}
	empty := NewKeeper(dir, me, false, slog.New(slog.DiscardHandler)) // the process began without the file
	if held, err := empty.Held(); err != nil || len(held) != 0 {
		t.Errorf("%v, %v", held, err)
	}
}

// Without a folder what is held is remembered, and what went away leaves nothing behind.
func TestRemembered(t *testing.T) {
	k := NewKeeper("", Binding{}, false, slog.New(slog.DiscardHandler))
	k.Changed(state.Update{TypeURL: resource.ClusterType, Set: []state.Resource{res(t, "b", "1"), res(t, "a", "1")}})
	k.Changed(state.Update{TypeURL: resource.ClusterType, Set: []state.Resource{res(t, "a", "2")}, Removed: []string{"b", "c"}})
	if err := k.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	held, err := k.Held()
	if err != nil || len(held) != 1 || len(held[0].Set) != 1 || held[0].Set[0].Version != "2" || len(k.changes[resource.ClusterType]) != 1 {
		t.Errorf("%v, %v", held, err)
	}
}
