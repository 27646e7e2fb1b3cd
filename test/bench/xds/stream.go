package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// editing is edits one after the other: edit i is of object i modulo objects. What it brings
// is found by its number: in an address 10.251.x.y, or in a name.
type editing struct {
	objects int
	since   []atomic.Int64 // when edit i was made, in Unix nanoseconds
	// took counts clients and edits by the time it took in milliseconds.
	took    [60_000]atomic.Int64
	skipped atomic.Int64 // edits that a client did not see because a later one came
}

// services that are edited, each in the three ways.
const (
	editedServices = 20
	address, name  = "10.251.", "mark-stream-"
)

// received looks for edits in a resource that a client got.
func (s *editing) received(c *proxy, body []byte) {
	for rest := body; ; {
		at := bytes.Index(rest, []byte(name))
		if at < 0 {
			break
		}
		rest = rest[at+len(name):]
		s.saw(c, number(rest))
	}
	for rest := body; ; {
		at := bytes.Index(rest, []byte(address))
		if at < 0 {
			break
		}
		rest = rest[at+len(address):]
		hi := number(rest)
		if _, after, ok := bytes.Cut(rest, []byte(".")); ok {
			s.saw(c, hi*250+number(after))
		}
	}
}

func number(b []byte) int {
	n := 0
	for n < len(b) && n < 9 && b[n] >= '0' && b[n] <= '9' {
		n++
	}
	i, _ := strconv.Atoi(string(b[:n])) // digits
	return i
}

func (s *editing) saw(c *proxy, i int) {
	if i >= len(s.since) || s.since[i].Load() == 0 {
		return
	}
	for len(c.newest) < s.objects {
		c.newest = append(c.newest, -1)
	}
	object := i % s.objects
	was := c.newest[object]
	if was >= i {
		return
	}
	c.newest[object] = i
	if was >= 0 {
		s.skipped.Add(int64((i-was)/s.objects - 1))
	} else {
		s.skipped.Add(int64(i / s.objects))
	}
	took := time.Duration(time.Now().UnixNano() - s.since[i].Load())
	s.took[min(max(took.Milliseconds(), 0), int64(len(s.took)-1))].Add(1)
}

// quantile is in milliseconds.
func (s *editing) quantile(q float64) int {
	var all, sum int64
	for i := range s.took {
		all += s.took[i].Load()
	}
	for i := range s.took {
		if sum += s.took[i].Load(); float64(sum) > q*float64(all-1) {
			return i
		}
	}
	return 0
}

func (b *bench) streams(ctx context.Context) error {
	kinds := []string{"eds", "vs", "dr"}
	templates := map[string]string{}
	for _, k := range kinds {
		text, err := os.ReadFile(filepath.Join(b.o.mesh, "templates", k+".yaml"))
		if err != nil {
			return err
		}
		templates[k] = string(text)
	}
	object := func(n int, marker, ip string) error {
		kind, service := kinds[n%len(kinds)], n/len(kinds)
		text := strings.NewReplacer("@@MARKER@@", marker, "@@IP@@", ip, "172.31.255.1", fmt.Sprintf("172.31.252.%d", service+1),
			"probe.probe-ns", fmt.Sprintf("edited-%d.probe-ns", service), "name: probe,", fmt.Sprintf("name: edited-%d,", service),
			"name: probe\n", fmt.Sprintf("name: edited-%d\n", service)).Replace(templates[kind])
		beside := filepath.Join(b.o.mesh, ".edited")
		if err := os.WriteFile(beside, []byte(text), 0o600); err != nil {
			return err
		}
		return os.Rename(beside, filepath.Join(b.o.mesh, "config", fmt.Sprintf("edited-%s-%d.yaml", kind, service)))
	}
	s := &editing{objects: len(kinds) * editedServices, since: make([]atomic.Int64, int(b.o.stream.Seconds()*b.o.rate)+1)}
	for n := range s.objects {
		if err := object(n, "mark-none", "10.250.0.2"); err != nil {
			return err
		}
	}
	time.Sleep(time.Second) // the files are looked at
	b.quiet(ctx)
	b.stream.Store(s)
	was := usageOf(b.o.pid)
	began, last, lastAt := time.Now(), was, time.Now()
	fmt.Printf("edits: %.3g a second for %v, of %d objects; at first RSS %.0f MB, %s\n", b.o.rate, b.o.stream, s.objects, was.rss, b.plane.growth())
	tick := time.NewTicker(time.Duration(float64(time.Second) / b.o.rate))
	defer tick.Stop()
	step := max(b.o.stream/10, 5*time.Second)
	i := 0
	for ; i < len(s.since) && time.Since(began) < b.o.stream; i++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		s.since[i].Store(time.Now().UnixNano())
		if err := object(i%s.objects, name+strconv.Itoa(i)+"x", fmt.Sprintf(address+"%d.%d", i/250, i%250)); err != nil {
			return err
		}
		if since := time.Since(lastAt); since >= step {
			now := usageOf(b.o.pid)
			fmt.Printf("  after %v: %d edits; %.3f of a core, RSS %.0f MB, %s\n", time.Since(began).Round(time.Second), i+1, (now.cpu-last.cpu).Seconds()/since.Seconds(), now.rss, b.plane.growth())
			last, lastAt = now, time.Now()
		}
	}
	took := time.Since(began)
	b.quiet(ctx)
	now := usageOf(b.o.pid)
	missing := 0
	for _, c := range b.proxies {
		for n := range s.objects {
			if !c.concerned {
				break
			}
			if len(c.newest) <= n || c.newest[n]+s.objects < i {
				missing++
			}
		}
	}
	concerned := 0
	for _, c := range b.proxies {
		if c.concerned {
			concerned++
		}
	}
	fmt.Printf("edits: %d to %d clients, of which %d use what is edited: p50 %d ms, p99 %d ms, max %d ms; %.4f s CPU an edit, %.3f of a core; RSS %.0f MB, at most %.0f MB; %d merged with later ones, %d not seen\n", i, len(b.proxies), concerned,
		s.quantile(.5), s.quantile(.99), s.quantile(1), (now.cpu-was.cpu).Seconds()/float64(i), (now.cpu-was.cpu).Seconds()/took.Seconds(), now.rss, now.most, s.skipped.Load(), missing)
	return nil
}
