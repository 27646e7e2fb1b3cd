package tls

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"time"

	"github.com/weirmesh/weir/identity"
)

// verified remembers certificate chains that identity.VerifyPeer found good, because
// workloads meet the same few peers over and over and checking the authority's signature
// is a quarter of a handshake. That a peer holds the key of its certificate is proved in
// every handshake anew; remembered is only what the same bytes under the same bundle
// must say again, while every certificate involved is within its time. Who is accepted
// is asked each time. Refusals are not remembered.
type verified struct {
	mu     sync.Mutex
	bundle *identity.Bundle // by which all of good were judged
	good   map[[sha256.Size]byte]goodChain
}

type goodChain struct {
	id          identity.ID
	from, until time.Time
}

// maxVerified bounds the memory: 1024 chains are about 150 KB.
const maxVerified = 1024

func (v *verified) verify(chain []*x509.Certificate, bundle *identity.Bundle, now time.Time, role identity.Role, accept identity.Accept) (identity.ID, error) {
	raw := make([][]byte, len(chain))
	h := sha256.New()
	h.Write([]byte{byte(role)})
	for i, c := range chain {
		raw[i] = c.Raw
		h.Write([]byte{byte(len(c.Raw) >> 16), byte(len(c.Raw) >> 8), byte(len(c.Raw))})
		h.Write(c.Raw)
	}
	key := [sha256.Size]byte(h.Sum(nil))
	v.mu.Lock()
	g, ok := v.good[key]
	ok = ok && v.bundle == bundle
	v.mu.Unlock()
	if ok && now.After(g.from) && now.Before(g.until) && accept.Accepts(g.id) {
		return g.id, nil
	}
	id, err := identity.VerifyPeer(raw, bundle, now, role, accept)
	if err != nil {
		return id, err
	}
	g = goodChain{id: id, from: chain[0].NotBefore, until: chain[0].NotAfter}
	for _, c := range append(bundle.Roots(), chain...) { // roots that did not count make it only shorter
		if c.NotBefore.After(g.from) {
			g.from = c.NotBefore
		}
		if c.NotAfter.Before(g.until) {
			g.until = c.NotAfter
		}
	}
	v.mu.Lock()
	if v.bundle != bundle || len(v.good) >= maxVerified {
		v.bundle, v.good = bundle, map[[sha256.Size]byte]goodChain{}
	}
	v.good[key] = g
	v.mu.Unlock()
	return id, nil
}
