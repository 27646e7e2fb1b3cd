package ondemand

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strconv"

	"github.com/cespare/xxhash/v2"
	"google.golang.org/protobuf/proto"

	"github.com/weirmesh/weir/api/ondemand"
)

// Token is the word of control_plane.identifier that announces this protocol.
const Token = "weir-ondemand/1"

// Shards is how many parts the index has: so many that a change of one service in a mesh of
// 5,000 costs 2 to 5 KB, so few that those of a small mesh cost little more than their names.
const Shards = 64

// hashSize is the size of a hash on the wire.
const hashSize = 8

// maxShard bounds the hashes of a shard: ten times the largest mesh Weir is measured with.
const maxShard = 1 << 15

// Hash is the hash of a resource's name by which the index knows it.
func Hash(name string) uint64 { return xxhash.Sum64String(name) }

// ShardOf is the shard that a hash is in.
func ShardOf(hash uint64) int { return int(hash >> 58) }

// ShardName is the name of a shard's resource.
func ShardName(shard int) string { return fmt.Sprintf("%02x", shard) }

// shardNumber is the reverse of ShardName.
func shardNumber(name string) (int, error) {
	n, err := strconv.ParseUint(name, 16, 8)
	if err != nil || n >= Shards || ShardName(int(n)) != name {
		return 0, fmt.Errorf("shard %q: its name is not one of 00 to %s", name, ShardName(Shards-1))
	}
	return int(n), nil
}

// Shard is the message of a shard's hashes, which ascend.
func Shard(hashes []uint64) *ondemand.IndexShard {
	b := make([]byte, 0, hashSize*len(hashes))
	for _, h := range hashes {
		b = binary.BigEndian.AppendUint64(b, h)
	}
	return &ondemand.IndexShard{Hashes: b}
}

// decode reads the message IndexShard of a shard.
func decode(shard int, body []byte) ([]uint64, error) {
	m := &ondemand.IndexShard{}
	if err := proto.Unmarshal(body, m); err != nil {
		return nil, err
	}
	b := m.GetHashes()
	if len(b)%hashSize != 0 || len(b) > hashSize*maxShard {
		return nil, fmt.Errorf("%d bytes of hashes: not a multiple of %d, or more than %d hashes", len(b), hashSize, maxShard)
	}
	hashes := make([]uint64, 0, len(b)/hashSize)
	for ; len(b) > 0; b = b[hashSize:] {
		h := binary.BigEndian.Uint64(b)
		if ShardOf(h) != shard {
			return nil, errors.New("a hash belongs into another shard")
		}
		if k := len(hashes); k > 0 && h < hashes[k-1] {
			return nil, errors.New("the hashes do not ascend")
		}
		hashes = append(hashes, h)
	}
	return hashes, nil
}

// Index is the set of names, by hash, of what a proxy may ask for. The zero value is empty.
type Index struct {
	shards [Shards][]uint64
}

// Of is the index of these names.
func Of(names ...string) *Index {
	x := &Index{}
	for _, n := range names {
		h := Hash(n)
		s := &x.shards[ShardOf(h)]
		*s = Insert(*s, h)
	}
	return x
}

// Has reports whether a name with this hash is in the index.
func (x *Index) Has(hash uint64) bool {
	s := x.shards[ShardOf(hash)]
	i := sort.Search(len(s), func(i int) bool { return s[i] >= hash })
	return i < len(s) && s[i] == hash
}

// Len is how many names there are.
func (x *Index) Len() int {
	n := 0
	for _, s := range x.shards {
		n += len(s)
	}
	return n
}

// With is the index in which the shard of that name (of a resource) is what body, the message
// IndexShard, says; a nil body empties it.
func (x *Index) With(name string, body []byte) (*Index, error) {
	i, err := shardNumber(name)
	if err != nil {
		return nil, err
	}
	hashes, err := decode(i, body)
	if err != nil {
		return nil, fmt.Errorf("shard %s: %w", name, err)
	}
	next := *x
	next.shards[i] = hashes
	return &next, nil
}

// Insert puts a hash into a shard's hashes, of which there may be two alike: two names. The
// slice it is given does not change.
func Insert(hashes []uint64, h uint64) []uint64 {
	i, _ := slices.BinarySearch(hashes, h)
	out := make([]uint64, 0, len(hashes)+1)
	return append(append(append(out, hashes[:i]...), h), hashes[i:]...)
}

// Remove takes a hash out again.
func Remove(hashes []uint64, h uint64) []uint64 {
	i, ok := slices.BinarySearch(hashes, h)
	if !ok {
		return hashes
	}
	out := make([]uint64, 0, len(hashes)-1)
	return append(append(out, hashes[:i]...), hashes[i+1:]...)
}
