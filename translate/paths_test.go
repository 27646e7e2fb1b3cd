package translate

import (
	"testing"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/state"
)

// Sidecars, on both sides, and gateways read paths in the one way that the mesh is told to.
func TestPathNormalization(t *testing.T) {
	for paths, want := range map[mesh.PathNormalization]message.PathOptions{
		mesh.PathsAsTheyCome: {},
		mesh.PathsBase:       {Normalize: true},
		mesh.PathsMerged:     {Normalize: true, MergeSlashes: true},
		mesh.PathsDecoded:    {Normalize: true, MergeSlashes: true, Slashes: message.UnescapeSlashes},
	} {
		f := newFilters(&mesh.Settings{Paths: paths}, false)
		for _, d := range []direction{outbound, inbound, edge} {
			if got, err := state.PathOptions(f.httpManager(d, "x"), "x"); err != nil || got != want {
				t.Errorf("%v, direction %v: %+v, %v, want %+v", paths, d, got, err, want)
			}
		}
	}
}
