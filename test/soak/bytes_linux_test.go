package soak_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// noise is what bodies are made of. Its length is a prime number, so that no buffer's size divides it.
var noise = func() []byte {
	b := make([]byte, 1_048_583)
	_, _ = rand.NewChaCha8([32]byte{}).Read(b)
	return b
}()

// pattern is a body: left bytes of noise, again and again, from some position on.
type pattern struct{ at, left int }

// somewhere is a pattern of some length that begins anywhere.
func somewhere(length int) *pattern { return &pattern{rand.IntN(len(noise)), length} }

func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), p.left)], noise[p.at:])
	p.at, p.left = (p.at+n)%len(noise), p.left-n
	return n, nil
}

// piece is the next n bytes of it.
func (p *pattern) piece(n int) []byte {
	b := make([]byte, min(n, p.left))
	_, _ = io.ReadFull(p, b)
	return b
}

// same reads r to its end, which must be where p ends.
func (p *pattern) same(r io.Reader) error { return p.slowly(r, 0, new(atomic.Int64)) }

// slowly is same for a reader that takes rate bytes a second, 0: as they come. What it has taken it adds to passed.
func (p *pattern) slowly(r io.Reader, rate int, passed *atomic.Int64) error {
	const perSecond = 20
	tick := time.NewTicker(time.Second / perSecond)
	defer tick.Stop()
	step := rate / perSecond
	if rate == 0 {
		step = 64 << 10
	}
	buf := make([]byte, step)
	for p.left > 0 {
		n, err := io.ReadFull(r, buf[:min(step, p.left)])
		passed.Add(int64(n))
		if err != nil {
			return fmt.Errorf("%d bytes before the end: %w", p.left-n, err)
		}
		if !bytes.Equal(buf[:n], p.piece(n)) {
			return fmt.Errorf("other bytes came than were sent, up to %d before the end", p.left)
		}
		if rate > 0 {
			<-tick.C
		}
	}
	if n, err := io.ReadFull(r, buf[:1]); n != 0 || !errors.Is(err, io.EOF) {
		return fmt.Errorf("behind the end: %d bytes, %w", n, err)
	}
	return nil
}
