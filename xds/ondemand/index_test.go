package ondemand

import (
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"
)

// The index of a proxy has the names that the control plane put in, whatever the order in
// which they came and went, and no others.
func TestIndexHasTheNamesThatAreThere(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var shards [Shards][]uint64
		there := map[string]int{}
		for range rapid.IntRange(0, 200).Draw(t, "steps") {
			name := rapid.StringMatching(`[0-9]{1,2}/[a-c]{1,2}\.(x|y)`).Draw(t, "name")
			h := Hash(name)
			if there[name] > 0 && rapid.Bool().Draw(t, "remove") {
				there[name]--
				shards[ShardOf(h)] = Remove(shards[ShardOf(h)], h)
			} else {
				there[name]++
				shards[ShardOf(h)] = Insert(shards[ShardOf(h)], h)
			}
		}
		x := &Index{}
		for i, s := range shards {
			var err error
			if x, err = x.With(ShardName(i), encode(t, s)); err != nil {
				t.Fatal(err)
			}
		}
		n := 0
		for name, count := range there {
			n += count
			if got := x.Has(Hash(name)); got != (count > 0) {
				t.Errorf("%s: in the index %v, there %d times", name, got, count)
			}
		}
		if x.Len() != n || x.Has(Hash("stranger")) {
			t.Errorf("%d names in the index, want %d and no stranger", x.Len(), n)
		}
	})
}

// A shard that is not one is refused, and says why.
func TestShardsAreChecked(t *testing.T) {
	for _, c := range []struct {
		name string
		body []byte
		want string
	}{
		{"0", nil, `shard "0": its name is not one of 00 to 3f`},
		{"40", nil, `shard "40": its name is not one of 00 to 3f`},
		{"0A", nil, `shard "0A"`},
		{"00", encode(t, []uint64{3, 2}), "the hashes do not ascend"},
		{"01", encode(t, []uint64{3}), "a hash belongs into another shard"},
		{"00", []byte{1<<3 | 2, 3, 0, 0, 0}, "3 bytes of hashes"},
		{"00", []byte{1<<3 | 2, 200}, "cannot parse"},
	} {
		if _, err := new(Index).With(c.name, c.body); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("shard %q, body %x: error %v, want one with %q", c.name, c.body, err, c.want)
		}
	}
	x, err := new(Index).With("00", append(encode(t, []uint64{2, 2}), 2<<3, 7)) // a field of a later version
	if err != nil || x.Len() != 2 {
		t.Errorf("a shard with a field that is not known: %d hashes, error %v", x.Len(), err)
	}
}

func encode(t interface{ Fatal(...any) }, hashes []uint64) []byte {
	b, err := proto.Marshal(Shard(hashes))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func FuzzShard(f *testing.F) {
	f.Add(encode(f, nil))
	f.Add(encode(f, []uint64{1, 1, 1 << 57}))
	f.Add([]byte{1<<3 | 2, 3, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := new(Index).With("00", b)
		if err != nil {
			return
		}
		if !slices.IsSorted(x.shards[0]) {
			t.Error("accepted hashes that do not ascend")
		}
	})
}
