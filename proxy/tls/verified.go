package tls

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"time"

	"github.com/weirmesh/weir/identity"
)

// verified remembers certificate chains that were found good, because peers are mostly
// the same few and checking an authority's signature is a quarter of a handshake. That a
// peer holds the key of its certificate is proved in every handshake anew; remembered is
// only what the same bytes under the same roots must say again, while every certificate
// involved is within its time. Whether the peer is expected is asked each time. Refusals
// are not remembered.
type verified struct {
	mu     sync.Mutex
	bundle *identity.Bundle // by which all of good were judged; nil: the context's own roots
	good   map[chainKey]goodChain
}

type chainKey [sha256.Size]byte

type goodChain struct {
	id          identity.ID
	from, until time.Time
}

// maxVerified bounds the memory: 1024 chains are about 150 KB.
const maxVerified = 1024

func keyOf(chain []*x509.Certificate, role identity.Role) chainKey {
	h := sha256.New()
	h.Write([]byte{byte(role)})
	for _, c := range chain {
		n := len(c.Raw)
		h.Write([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
		h.Write(c.Raw)
	}
	return chainKey(h.Sum(nil))
}

func (v *verified) recall(key chainKey, bundle *identity.Bundle, now time.Time) (identity.ID, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	g, ok := v.good[key]
	return g.id, ok && v.bundle == bundle && now.After(g.from) && now.Before(g.until)
}

// remember notes a chain that was verified now by the given certificates, until the given time
// at most. Listing some that played no part only makes it forget sooner; those that are out of
// time now (a root of yesterday that is still listed, or one of tomorrow) played none.
func (v *verified) remember(key chainKey, bundle *identity.Bundle, id identity.ID, now, until time.Time, by ...*x509.Certificate) {
	g := goodChain{id: id, until: until}
	for _, c := range by {
		if now.Before(c.NotBefore) || now.After(c.NotAfter) {
			continue
		}
		if c.NotBefore.After(g.from) {
			g.from = c.NotBefore
		}
		if c.NotAfter.Before(g.until) {
			g.until = c.NotAfter
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.good == nil || v.bundle != bundle || len(v.good) >= maxVerified {
		v.bundle, v.good = bundle, map[chainKey]goodChain{}
	}
	v.good[key] = g
}
