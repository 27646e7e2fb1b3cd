package ratelimit

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
)

// Entry is one entry of a descriptor: of a request, or of a limit for such requests, where no value means any.
type Entry struct {
	Key   string
	Value []byte
}

// AppendKey appends what descriptors with the same entries in the same order have in common, and no others.
func AppendKey(dst []byte, entries []Entry) []byte {
	for _, e := range entries {
		dst = append(binary.AppendUvarint(dst, uint64(len(e.Key))), e.Key...)
		dst = append(binary.AppendUvarint(dst, uint64(len(e.Value))), e.Value...)
	}
	return dst
}

// Share is the limit of requests with one descriptor.
type Share struct {
	*Bucket
	Shadow bool // requests without a token pass
}

// Descriptors are limits by what requests have in common. It is immutable but for the buckets of values that nobody has named.
type Descriptors struct {
	most  int
	named map[string]*Share // by AppendKey
	open  []*open
}

// NewDescriptors makes an empty set that keeps at most most buckets for each limit that names no value.
func NewDescriptors(most int) *Descriptors {
	return &Descriptors{most: most, named: map[string]*Share{}}
}

// Add adds a limit, with a bucket that fresh makes; two for the same descriptor are an error. It is for who makes a set.
func (d *Descriptors) Add(entries []Entry, shadow bool, fresh func() *Bucket) error {
	key := string(AppendKey(nil, entries))
	for _, o := range d.open {
		if string(AppendKey(nil, o.entries)) == key {
			return fmt.Errorf("is there twice")
		}
	}
	for _, e := range entries {
		if len(e.Value) == 0 {
			d.open = append(d.open, &open{entries: entries, fresh: fresh, shadow: shadow, most: d.most, of: map[string]*place{}})
			return nil
		}
	}
	if d.named[key] != nil {
		return fmt.Errorf("is there twice")
	}
	d.named[key] = &Share{fresh(), shadow}
	return nil
}

// Find is the limit of requests with these entries, nil if there is none: one that names all values comes before one that does not.
// scratch is room for their AppendKey.
func (d *Descriptors) Find(entries []Entry, scratch []byte) *Share {
	key := AppendKey(scratch, entries)
	if s := d.named[string(key)]; s != nil {
		return s
	}
	for _, o := range d.open {
		if o.wants(entries) {
			return o.share(key)
		}
	}
	return nil
}

// open is a limit with entries that have any value: each combination has a bucket, and who was longest away loses his.
type open struct {
	entries []Entry
	fresh   func() *Bucket
	shadow  bool
	most    int

	mu          sync.Mutex
	of          map[string]*place
	first, last *place // by how recently they were used
}

type place struct {
	share      Share
	key        string
	prev, next *place
}

func (o *open) wants(entries []Entry) bool {
	if len(entries) != len(o.entries) {
		return false
	}
	for i, e := range o.entries {
		if e.Key != entries[i].Key || len(e.Value) > 0 && string(e.Value) != string(entries[i].Value) {
			return false
		}
	}
	return true
}

// longest is how long a key is kept as it is: values are as long as clients like.
const longest = 256

func (o *open) share(key []byte) *Share {
	if len(key) > longest {
		hashed := sha256.Sum256(key)
		key = append(key[:0], hashed[:]...) // nobody finds a value whose hash is the key of another
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	p := o.of[string(key)]
	switch p {
	case nil:
		if len(o.of) == o.most {
			delete(o.of, o.last.key)
			o.unlink(o.last)
		}
		p = &place{share: Share{o.fresh(), o.shadow}, key: string(key)}
		o.of[p.key] = p
	case o.first:
		return &p.share
	default:
		o.unlink(p)
	}
	if p.prev, p.next = nil, o.first; o.first != nil {
		o.first.prev = p
	} else {
		o.last = p
	}
	o.first = p
	return &p.share
}

func (o *open) unlink(p *place) {
	if p.prev != nil {
		p.prev.next = p.next
	} else {
		o.first = p.next
	}
	if p.next != nil {
		p.next.prev = p.prev
	} else {
		o.last = p.prev
	}
}
