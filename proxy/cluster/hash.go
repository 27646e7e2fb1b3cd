package cluster

import (
	"cmp"
	"math/bits"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
)

// HashKey is a part of requests that is hashed (RouteAction.HashPolicy); one of the first four fields says which.
type HashKey struct {
	Header, Query, Cookie string
	Source                bool // the client's address
	// Generate makes a cookie for clients that have none. SetCookie is what follows its value: path, age and attributes.
	Generate  bool
	SetCookie string
	// Terminal ends the list if the request has this one.
	Terminal bool
}

// CookieSuffix is what follows the value of a cookie, as HashKey.SetCookie has it.
func CookieSuffix(path string, ttl time.Duration, attributes [][2]string) string {
	var s strings.Builder
	if ttl > 0 {
		s.WriteString("; Max-Age=" + strconv.FormatInt(int64(ttl/time.Second), 10))
	}
	if path != "" {
		s.WriteString("; Path=" + path)
	}
	for _, a := range attributes {
		if s.WriteString("; " + a[0]); a[1] != "" {
			s.WriteString("=" + a[1])
		}
	}
	s.WriteString("; HttpOnly")
	return s.String()
}

// Hash is that of a value, the same in every proxy: FNV-1a, whose bits are then mixed.
func Hash[T string | []byte](value T) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(value) {
		h = (h ^ uint64(value[i])) * 1099511628211
	}
	return mix(h)
}

// Also is the hash of a list with one more.
func Also(list, h uint64) uint64 { return bits.RotateLeft64(list, 1) ^ h }

// mix is splitmix64's finaliser.
func mix(z uint64) uint64 {
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb
	return z ^ (z >> 31)
}

// hashing finds an endpoint by a hash.
type hashing struct {
	points []uint64 // of a ring, ascending; nil: owners is a Maglev table
	owners []int32
}

// maxPoints bounds the points of a ring: 12 MB.
const maxPoints = 1 << 20

// name is what an endpoint is placed by: the same in every proxy, and as long as it lives.
func (e *Endpoint) name() string {
	if e.Path != "" {
		return e.Path
	}
	return e.Addr.String()
}

// newRing places each endpoint at a number of points that depends on nothing but its weight: so one that comes or goes
// moves no key between others. (Envoy divides a number of points among the endpoints there are, and moves some.)
func newRing(g *Group, weights []uint64, perWeight uint32) *hashing {
	// The weight that gets perWeight points is a power of two, so that it rarely changes.
	unit := uint64(1)
	for unit < slices.Max(weights) {
		unit *= 2
	}
	each := min(uint64(perWeight), max(1, uint64(maxPoints/len(g.Endpoints))))
	type point struct {
		at    uint64
		owner int32
	}
	var all []point
	for i, e := range g.Endpoints {
		h := Hash(e.name())
		for n := range max(1, weights[i]*each/unit) {
			all = append(all, point{mix(h + n*0x9e3779b97f4a7c15), int32(i)})
		}
	}
	slices.SortFunc(all, func(a, b point) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.owner, b.owner)) })
	r := &hashing{points: make([]uint64, len(all)), owners: make([]int32, len(all))}
	for i, p := range all {
		r.points[i], r.owners[i] = p.at, p.owner
	}
	return r
}

// newTable fills a Maglev table ("Maglev: A Fast and Reliable Software Network Load Balancer", section 3.4): endpoints take
// turns, as often as their weights say, at places each in an order of its own.
func newTable(g *Group, weights []uint64, size uint32) *hashing {
	// The order of turns must not depend on that of the endpoints.
	order := make([]int, len(g.Endpoints))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return cmp.Compare(g.Endpoints[a].name(), g.Endpoints[b].name()) })
	offset, skip, next := make([]uint64, len(order)), make([]uint64, len(order)), make([]uint64, len(order))
	owed := make([]float64, len(order))
	heaviest := float64(slices.Max(weights))
	for i, e := range g.Endpoints {
		h := Hash(e.name())
		offset[i], skip[i] = h%uint64(size), mix(h+1)%uint64(size-1)+1
	}
	t := &hashing{owners: make([]int32, size)}
	for i := range t.owners {
		t.owners[i] = -1
	}
	for left := size; left > 0; {
		for _, i := range order {
			if owed[i] += float64(weights[i]) / heaviest; owed[i] < 1 || left == 0 {
				continue
			}
			owed[i]--
			at := (offset[i] + skip[i]*next[i]) % uint64(size)
			for t.owners[at] >= 0 {
				next[i]++
				at = (offset[i] + skip[i]*next[i]) % uint64(size)
			}
			t.owners[at] = int32(i)
			next[i]++
			left--
		}
	}
	return t
}

// At returns the n-th choice for a hash; those of different n may be the same.
func (g *Group) At(hash uint64, n int) *Endpoint {
	t := g.hashing
	if t.points == nil {
		if n > 0 {
			hash = mix(hash + uint64(n)*0x9e3779b97f4a7c15)
		}
		return g.Endpoints[t.owners[hash%uint64(len(t.owners))]]
	}
	i := sort.Search(len(t.points), func(i int) bool { return t.points[i] >= hash })
	return g.Endpoints[t.owners[(i+n)%len(t.owners)]]
}
