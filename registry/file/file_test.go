package file

import (
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/registry"
)

func TestSaveAndLoad(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "registry")
	if got, err := Load(dir); got != nil || err != nil {
		t.Errorf("without a file: %v, %v", got, err)
	}
	want := map[mesh.Key]registry.Allocation{
		"ns/a.ns.svc.cluster.local": {Index: 256, Addresses: []netip.Addr{netip.MustParseAddr("10.96.0.1"), netip.MustParseAddr("fd00:10:96::1")}},
		"ns/headless":               {Index: 257},
	}
	for range 2 {
		if err := Save(dir, want); err != nil {
			t.Fatal(err)
		}
	}
	got, err := Load(dir)
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || err != nil {
		t.Error(err, diff)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left in the folder: %v %v", entries, err)
	}
	if err := os.WriteFile(filepath.Join(dir, Name), []byte(`{"services": 1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err = Load(dir)
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" || err == nil {
		t.Error("a damaged file:", err, diff)
	}
	if err := os.Remove(filepath.Join(dir, before)); err != nil {
		t.Fatal(err)
	}
	if got, err := Load(dir); got != nil || err == nil {
		t.Errorf("a damaged file, and nothing before: %v, %v", got, err)
	}
}
