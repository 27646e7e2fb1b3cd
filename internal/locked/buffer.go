// Package locked is memory that several goroutines write to: for tests, what programs print and log.
//
// Bytes enter, what has come so far leaves, at any time and from any goroutine. Anybody may import it.
package locked

import (
	"bytes"
	"sync"
)

// Buffer keeps what is written to it. The zero value is empty and ready.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write appends p. It never fails.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String is what was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// Tail is the last n bytes of it, or fewer.
func (b *Buffer) Tail(n int) string {
	s := b.String()
	return s[max(0, len(s)-n):]
}
