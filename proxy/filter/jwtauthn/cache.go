package jwtauthn

import (
	"sync"
	"unsafe"
)

const (
	// maxRemembered is how much memory the tokens that are remembered may take: those of 2,700 users, if they are of 800 bytes.
	maxRemembered = 12 << 20
	// maxCached bounds the tokens that are kept: a client with a valid one must not make a proxy keep
	// much more than others do.
	maxCached = 8 << 10
)

// cache keeps tokens. When it is full, those go that nobody has brought since the last time it was. Which of these go first is
// left to chance: so that of more users that call in turn than it has room for, some find their tokens.
type cache struct {
	mu     sync.RWMutex
	m      map[string]*token
	weight int
}

// weight is about what a token takes: itself, and what it says. One of 533 bytes and twelve claims takes 3.4 KB (2026-11).
func (t *token) weight() int { return 3*len(t.text) + 2048 }

func (c *cache) get(text []byte) *token {
	c.mu.RLock()
	t := c.m[string(text)]
	c.mu.RUnlock()
	if t != nil && !t.used.Load() {
		t.used.Store(true)
	}
	return t
}

func (c *cache) put(t *token) {
	if len(t.text) > maxCached {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(c.m[t.text])
	for c.weight+t.weight() > maxRemembered {
		for _, other := range c.m { // begins anywhere
			if other.used.Swap(false) {
				continue
			}
			if c.drop(other); c.weight+t.weight() <= maxRemembered {
				break
			}
		}
	}
	if c.m == nil {
		c.m = map[string]*token{}
	}
	c.m[t.text] = t
	c.weight += t.weight()
}

func (c *cache) drop(t *token) {
	if t != nil {
		delete(c.m, t.text)
		c.weight -= t.weight()
	}
}

// unsafeBytes are the bytes of s, which nobody changes.
func unsafeBytes(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
