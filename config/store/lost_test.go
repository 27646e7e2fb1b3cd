package store_test

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/mesh"
)

// A state folder of which nothing is left to read but the names of files: what must stay
// closed stays closed, in this process and the next, until the file is repaired or removed.
func TestLostPolicyStaysClosed(t *testing.T) {
	dir := t.TempDir()
	applied := filepath.Join(dir, "applied")
	name := func(kind, group, ns string) string {
		return filepath.Join(applied, config.ID{Group: group, Kind: kind, Namespace: ns, Name: "default"}.FileName()+".yaml")
	}
	policy := name("PeerAuthentication", "security.istio.io", "shop")
	damaged := config.Unit{Name: policy, Incomplete: true}
	others := []config.Unit{
		{Name: name("VirtualService", "networking.istio.io", "shop"), Incomplete: true},
		{Name: filepath.Join(applied, "mine.yaml"), Incomplete: true},
		{Name: filepath.Join(applied, "PeerAuthentication.security.istio.io_sh op_default.yaml"), Incomplete: true},
		{Name: filepath.Join(dir, filepath.Base(policy)), Incomplete: true}, // an operator's, who may call it what he likes
	}
	open := func() *store.Store {
		t.Helper()
		s, err := store.New(store.Options{Settings: mesh.Settings{TrustDomain: "cluster.local", DomainSuffix: "cluster.local", RootNamespace: "istio-system"}, State: dir, Applied: applied})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	closed := func(when string, u *store.Update) {
		t.Helper()
		pa := u.Snapshot.PeerAuths.At("shop/default")
		if u.Snapshot.PeerAuths.Len() != 1 || pa == nil || pa.Mode != mesh.MTLSStrict {
			t.Errorf("%s: %+v", when, pa)
		}
		if !slices.ContainsFunc(u.Findings, func(f config.Finding) bool { return f.Code == config.FailClosed && f.Object.File == policy }) {
			t.Errorf("%s: findings %v", when, u.Findings)
		}
	}
	for _, when := range []string{"first", "the next process"} {
		s := open()
		closed(when, s.Step(append(others, damaged)...))
		closed(when+", later", s.Step(unit("a.yaml", routeTo("reviews", "reviews", 100))))
		if err := s.Save(); err != nil {
			t.Fatal(err)
		}
	}
	s := open()
	closed("before the repair", s.Step(damaged))
	u := s.Step(file.Parse(policy, []byte("{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default, namespace: shop}, spec: {mtls: {mode: PERMISSIVE}}}"), "default"))
	if pa := u.Snapshot.PeerAuths.At("shop/default"); pa == nil || pa.Mode != mesh.MTLSPermissive {
		t.Errorf("after the repair: %+v", pa)
	}
	s = open()
	closed("before the removal", s.Step(damaged))
	if u := s.Step(config.Unit{Name: policy, Gone: true}); u.Snapshot.PeerAuths.Len() != 0 {
		t.Error("what was removed is in force")
	}
}

func TestParseFileName(t *testing.T) {
	for _, id := range []config.ID{{Group: "a.b.io", Kind: "K", Namespace: "ns", Name: "n_m.o"}, {Kind: "Service", Namespace: "ns", Name: "n"}, {Kind: "Namespace", Name: "n"}} {
		if got, ok := config.ParseFileName(id.FileName()); got != id || !ok {
			t.Errorf("%q: %v, %v", id.FileName(), got, ok)
		}
	}
	for _, name := range []string{"", "mesh", "K.g_ns", "K.g_ns_", ".g_ns_n", config.ID{Kind: "K", Name: strings.Repeat("n", 253)}.FileName()} {
		if got, ok := config.ParseFileName(name); ok {
			t.Errorf("%q: %v", name, got)
		}
	}
}
