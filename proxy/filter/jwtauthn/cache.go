package jwtauthn

import (
	"sync"
	"unsafe"
)

const (
	// generation is how many tokens a generation of the cache has, of two: a sidecar sees some hundred
	// users at a time, and of larger tokens (see MaxToken) 512 are 8 MiB.
	generation = 256
	// maxCached bounds the tokens that are kept: a client with a valid one must not make a proxy keep
	// much more than others do.
	maxCached = 8 << 10
)

// cache keeps the tokens that were used last. When a generation is full the older one goes.
type cache struct {
	mu         sync.RWMutex
	young, old map[string]*token
}

func (c *cache) get(text []byte) *token {
	c.mu.RLock()
	t, ok := c.young[string(text)]
	if !ok {
		t, ok = c.old[string(text)]
		c.mu.RUnlock()
		if ok {
			c.put(t)
		}
		return t
	}
	c.mu.RUnlock()
	return t
}

func (c *cache) put(t *token) {
	if len(t.text) > maxCached {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.young) >= generation {
		c.old, c.young = c.young, nil
	}
	if c.young == nil {
		c.young = make(map[string]*token, generation)
	}
	c.young[t.text] = t
}

// unsafeBytes are the bytes of s, which nobody changes.
func unsafeBytes(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }
