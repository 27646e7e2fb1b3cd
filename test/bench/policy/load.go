package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Users: few, as many as a proxy remembers, and more than that.
const (
	few  = 100
	some = 2000
	many = 4000
	// callers share the calls of rows that are paced.
	callers = 32
)

func (m *mesh) rows() []*row {
	const (
		saturated, paced, gb = "µs/request, saturated", "µs/request, paced", "ms/GB"
		posted, large, two   = "µs/POST of 1 KB", "µs/POST of 64 KB", "µs/request of HTTP/2"
		turn, connection     = "µs/1 KB to and fro", "µs/connection"
		through, call        = "µs/request of HTTP/2 all the way", "µs/call of gRPC"
		message              = "µs/1 KB in a stream of gRPC, to and fro"
	)
	return []*row{
		{name: "plain", service: plain, load: wrk, tokens: 1, unit: saturated},
		{name: "mtls", service: mutual, load: wrk, tokens: 1, unit: saturated},
		{name: "mtls-50", service: policies, load: wrk, tokens: 1, unit: saturated},
		{name: "mtls-jwt", service: token, load: wrk, tokens: 1, unit: saturated},
		{name: "mtls-jwt-50", service: all, load: wrk, tokens: 1, unit: saturated},
		{name: "mtls-jwt-50-100", service: all, load: wrk, tokens: few, unit: saturated},
		{name: "mtls-jwt-50-2000", service: all, load: wrk, tokens: some, unit: saturated},
		{name: "mtls-jwt-50-4000", service: crowd, load: wrk, tokens: many, unit: saturated},
		{name: "post-plain", service: plain, load: wrk, tokens: 1, body: 1 << 10, unit: posted},
		{name: "post-mtls", service: mutual, load: wrk, tokens: 1, body: 1 << 10, unit: posted},
		{name: "post-mtls-jwt-50", service: all, load: wrk, tokens: few, body: 1 << 10, unit: posted},
		{name: "large-plain", service: plain, load: wrk, tokens: 1, body: 64 << 10, unit: large},
		{name: "large-mtls", service: mutual, load: wrk, tokens: 1, body: 64 << 10, unit: large},
		{name: "large-mtls-jwt-50", service: all, load: wrk, tokens: few, body: 64 << 10, unit: large},
		{name: "http2-plain", service: plain, load: h2load, tokens: 1, unit: two},
		{name: "http2-mtls", service: mutual, load: h2load, tokens: 1, unit: two},
		{name: "http2-mtls-jwt-50", service: all, load: h2load, tokens: 1, unit: two},
		{name: "through-plain", service: plain, load: multiplex, unit: through},
		{name: "through-mtls", service: mutual, load: multiplex, unit: through},
		{name: "through-mtls-jwt-50", service: all, load: multiplex, unit: through},
		{name: "grpc-plain", service: plain, load: unary, unit: call},
		{name: "grpc-mtls", service: mutual, load: unary, unit: call},
		{name: "grpc-mtls-jwt-50", service: all, load: unary, unit: call},
		{name: "stream-plain", service: plain, load: stream, unit: message},
		{name: "stream-mtls", service: mutual, load: stream, unit: message},
		{name: "stream-mtls-jwt-50", service: all, load: stream, unit: message},
		{name: "paced-plain", service: plain, load: pace, tokens: 1, unit: paced},
		{name: "paced-mtls", service: mutual, load: pace, tokens: 1, unit: paced},
		{name: "paced-mtls-jwt-50", service: all, load: pace, tokens: few, unit: paced},
		{name: "echo-plain", service: plain, load: echo, unit: turn},
		{name: "echo-mtls", service: mutual, load: echo, unit: turn},
		{name: "connect-plain", service: plain, load: connect, unit: connection},
		{name: "connect-mtls", service: mutual, load: connect, unit: connection},
		{name: "connect-mtls-50", service: policies, load: connect, unit: connection},
		{name: "bulk-plain", service: plain, load: bulk, unit: gb},
		{name: "bulk-mtls", service: mutual, load: bulk, unit: gb},
	}
}

var (
	requests = regexp.MustCompile(`(\d+) requests in`)
	failures = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)`)
)

// wrk keeps all connections busy. All rows are by the same script, whose cost is the generator's.
func wrk(ctx context.Context, m *mesh, r *row) (float64, error) {
	script := filepath.Join(m.dir, r.name+".lua")
	var b strings.Builder
	method, body := http.MethodGet, "nil"
	if r.body > 0 {
		method, body = http.MethodPost, fmt.Sprintf("string.rep(\"y\", %d)", r.body)
	}
	fmt.Fprintf(&b, "local body = %s\n", body)
	b.WriteString("local t, i = {}, 0\nrequest = function() i = i % #t + 1; return t[i] end\ninit = function()\n")
	for _, text := range m.tokens[:r.tokens] {
		fmt.Fprintf(&b, "t[#t+1] = wrk.format(%q, %q, {[\"Host\"]=%q, [\"Accept\"]=\"*/*\", [\"User-Agent\"]=\"wrk/4\", [\"Authorization\"]=\"Bearer %s\"}, body)\n", method, path, r.service+".shop", text)
	}
	b.WriteString("end\n")
	if err := os.WriteFile(script, []byte(b.String()), 0o600); err != nil {
		return 0, err
	}
	c := exec.CommandContext(ctx, "taskset", "-c", strconv.Itoa(loadCore), "wrk", "-t1", "-c", strconv.Itoa(m.o.connections), "-d", fmt.Sprintf("%.0fs", m.o.length.Seconds()),
		"-s", script, "http://"+m.address[r.service]+path)
	out, err := c.CombinedOutput()
	found := requests.FindSubmatch(out)
	if err != nil || found == nil {
		return 0, fmt.Errorf("wrk: %w: %s", err, out)
	}
	if bad := failures.Find(out); bad != nil {
		return 0, fmt.Errorf("wrk: %s", bad)
	}
	return strconv.ParseFloat(string(found[1]), 64)
}

var (
	succeeded = regexp.MustCompile(`[1-9]\d* succeeded, 0 failed, 0 errored`)
	requests2 = regexp.MustCompile(`status codes: (\d+) 2xx, 0 3xx, 0 4xx, 0 5xx`)
)

// h2load asks by HTTP/2, ten streams at a time on each of ten connections. The application speaks HTTP/1.1, and so do the sidecars to each other.
func h2load(ctx context.Context, m *mesh, r *row) (float64, error) {
	return m.h2load(ctx, m.address[r.service], path, "-H", ":authority: "+r.service+".shop", "-H", "authorization: Bearer "+m.tokens[0])
}

// pace sends so many requests a second, at random times, as many callers do.
func pace(ctx context.Context, m *mesh, r *row) (float64, error) {
	var wg sync.WaitGroup
	var done atomic.Int64
	var failed atomic.Pointer[error]
	type call struct {
		token string
		at    time.Time // when it should be made: who waits for a caller waits, too
	}
	due := make(chan call, 1<<16)
	took := make([][]time.Duration, callers)
	for i := range callers {
		wg.Go(func() {
			for c := range due {
				if err := m.call(ctx, r, path, c.token, http.StatusOK); err != nil {
					failed.Store(&err)
				}
				took[i] = append(took[i], time.Since(c.at))
				done.Add(1)
			}
		})
	}
	for at, end := time.Now(), time.Now().Add(m.o.length); at.Before(end) && ctx.Err() == nil; {
		time.Sleep(time.Until(at))
		due <- call{m.tokens[rand.IntN(r.tokens)], at}
		at = at.Add(time.Duration(rand.ExpFloat64() / float64(m.o.rate) * 1e9))
	}
	close(due)
	wg.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	r.took = slices.Concat(took...)
	slices.Sort(r.took)
	return float64(done.Load()), nil
}

// echo sends 1 KB on each of as many TCP connections as there are callers, again when it has come back, and returns how often it did.
func echo(ctx context.Context, m *mesh, r *row) (float64, error) {
	return m.turns(ctx, func(ctx context.Context, count func()) error {
		c, err := m.dial(ctx, r)
		if err != nil {
			return err
		}
		defer c.Close()
		for message := make([]byte, 1<<10); ctx.Err() == nil; count() {
			if err := turn(c, message); err != nil {
				return err
			}
		}
		return nil
	})
}

// connect opens a TCP connection for each byte that it has sent back: a handshake each, where there is mutual TLS.
func connect(ctx context.Context, m *mesh, r *row) (float64, error) {
	return m.turns(ctx, func(ctx context.Context, count func()) error {
		for ; ctx.Err() == nil; count() {
			c, err := m.dial(ctx, r)
			if err != nil {
				return err
			}
			err = turn(c, make([]byte, 1))
			if c.Close(); err != nil {
				return err
			}
		}
		return nil
	})
}

// turns runs do for each caller until the time is over, and returns how often they counted.
func (m *mesh) turns(ctx context.Context, do func(ctx context.Context, count func()) error) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, m.o.length)
	defer cancel()
	var wg sync.WaitGroup
	var n atomic.Int64
	errs := make([]error, callers)
	for i := range errs {
		wg.Go(func() {
			errs[i] = do(ctx, func() { n.Add(1) })
		})
	}
	wg.Wait()
	return float64(n.Load()), errors.Join(errs...)
}

// dial is not ended by the end of a round, which is no failure.
func (m *mesh) dial(ctx context.Context, r *row) (net.Conn, error) {
	d := net.Dialer{Timeout: patience}
	c, err := d.DialContext(context.WithoutCancel(ctx), "tcp", m.echo[r.service])
	if err == nil {
		err = c.SetDeadline(time.Now().Add(m.o.length + patience))
	}
	return c, err
}

// turn sends a message, and waits until it has come back.
func turn(c net.Conn, message []byte) error {
	if _, err := c.Write(message); err != nil {
		return err
	}
	_, err := io.ReadFull(c, message)
	return err
}

// bulk writes to four connections as fast as they take it, and returns GB.
func bulk(ctx context.Context, m *mesh, r *row) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, m.o.length)
	defer cancel()
	var sent atomic.Int64
	var wg sync.WaitGroup
	buffer := make([]byte, 256<<10)
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() {
			var d net.Dialer
			c, err := d.DialContext(ctx, "tcp", m.bulk[r.service])
			if err != nil {
				errs[i] = err
				return
			}
			defer context.AfterFunc(ctx, func() { _ = c.Close() })()
			for ctx.Err() == nil {
				n, err := c.Write(buffer)
				sent.Add(int64(n))
				if err != nil && ctx.Err() == nil {
					errs[i] = err
					return
				}
			}
		})
	}
	wg.Wait()
	return float64(sent.Load()) / 1e9, errors.Join(errs...)
}
