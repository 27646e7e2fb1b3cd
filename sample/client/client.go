// Package client is a workload that calls others: at a rate, for a time or a number of
// calls, and says what failed. As a Job it has the exit status that it is told to have.
//
// Options enter Run, lines for people and machines leave on Out: one for each failure, up to a
// limit, and a summary in JSON at the end. Calls run at once; Run returns after the last.
package client

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/weirmesh/weir/sample/health"
)

// Options say what to call.
type Options struct {
	// URLs are called in turn. grpc://HOST:PORT asks for gRPC's health; tcp://HOST:PORT
	// waits for the first line that the server sends.
	URLs    []string
	Count   int           // calls until it ends; 0: until ctx ends
	Rate    float64       // calls a second, begun whatever became of earlier ones; 0: one after another
	Timeout time.Duration // of a call
	Linger  time.Duration // how long to go on calling after ctx has ended
	Idle    int           // HTTP connections to the first URL that stay open, unused, when the program ends
	Quit    string        // URL that is told, by POST, when all is done; "": nobody
	Out     io.Writer
}

// Summary is the last line.
type Summary struct {
	Calls  int     `json:"calls"`
	Failed int     `json:"failed"`
	P50    float64 `json:"p50ms"`
	P99    float64 `json:"p99ms"`
	Max    float64 `json:"maxms"`
	First  string  `json:"first,omitempty"` // line of the first TCP answer, or host of the first gRPC one
}

// shown is how much of the body of a failure is written: a proxy's fits.
const shown = 200

// told is how many failures are written: what is wrong shows in the first few.
const told = 50

type run struct {
	o          Options
	http, grpc *http.Client

	mu    sync.Mutex
	took  []time.Duration
	fails int
	first string
}

// Run calls until Count calls are done or ctx has ended, and Linger is over. It returns an
// error if it cannot begin, or Quit is not done; calls that failed are in the summary.
func Run(ctx context.Context, o Options) (Summary, error) {
	if len(o.URLs) == 0 {
		return Summary{}, fmt.Errorf("there is no URL to call")
	}
	var targets []*url.URL
	for _, s := range o.URLs {
		u, err := url.Parse(s)
		if err != nil {
			return Summary{}, err
		}
		if !slices.Contains([]string{"http", "grpc", "tcp"}, u.Scheme) {
			return Summary{}, fmt.Errorf("%s: the scheme is none of http, grpc, tcp", s)
		}
		targets = append(targets, u)
	}
	two := &http.Transport{Protocols: new(http.Protocols)}
	two.Protocols.SetUnencryptedHTTP2(true)
	r := &run{o: o, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 100}}, grpc: &http.Client{Transport: two}}
	for range o.Idle { // a transport each, so that none shares
		r.call(ctx, &http.Client{Transport: &http.Transport{}}, targets[0])
	}
	// Calls go on after ctx has ended, for Linger.
	calling, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		select {
		case <-time.After(o.Linger):
			cancel()
		case <-calling.Done():
		}
	})()
	r.calls(calling, targets)
	s := r.summary()
	if err := json.NewEncoder(o.Out).Encode(s); err != nil || o.Quit == "" {
		return s, err
	}
	return s, quit(context.WithoutCancel(ctx), o.Quit, o.Timeout)
}

// quit tells a sidecar that is an ordinary container that its application has done its work.
func quit(ctx context.Context, at string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at, nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: status %d", at, resp.StatusCode)
	}
	return nil
}

// calls makes them until ctx ends; what is under way then is waited for.
func (r *run) calls(ctx context.Context, targets []*url.URL) {
	var all sync.WaitGroup
	defer all.Wait()
	var ticks <-chan time.Time
	if r.o.Rate > 0 {
		t := time.NewTicker(time.Duration(float64(time.Second) / r.o.Rate))
		defer t.Stop()
		ticks = t.C
	}
	late := context.WithoutCancel(ctx)
	for i := 0; (r.o.Count == 0 || i < r.o.Count) && ctx.Err() == nil; i++ {
		u := targets[i%len(targets)]
		if ticks == nil {
			r.call(late, r.http, u)
			continue
		}
		select {
		case <-ticks:
			all.Go(func() { r.call(late, r.http, u) })
		case <-ctx.Done():
		}
	}
}

func (r *run) call(ctx context.Context, c *http.Client, u *url.URL) {
	ctx, cancel := context.WithTimeout(ctx, r.o.Timeout)
	defer cancel()
	began := time.Now()
	var first string
	var err error
	switch u.Scheme {
	case "grpc":
		first, err = health.Ask(ctx, r.grpc, u.Host)
	case "tcp":
		first, err = greeting(ctx, u.Host)
	default:
		err = get(ctx, c, u)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.took = append(r.took, time.Since(began))
	if r.first == "" {
		r.first = first
	}
	if err == nil {
		return
	}
	if r.fails++; r.fails <= told {
		fmt.Fprintf(r.o.Out, "%s failed after %v: %s: %v\n", began.UTC().Format("15:04:05.000"), time.Since(began).Round(time.Millisecond), u, err)
	}
}

func get(ctx context.Context, c *http.Client, u *url.URL) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	begin, err := io.ReadAll(io.LimitReader(resp.Body, shown))
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
	}
	if err != nil {
		return fmt.Errorf("in the body of a %d: %w", resp.StatusCode, err)
	}
	if resp.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("status %d: %q", resp.StatusCode, begin)
	}
	return nil
}

// greeting is the first line a server sends to a client that says nothing.
func greeting(ctx context.Context, addr string) (string, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("waiting for the server's first line: %w", err)
	}
	return line[:len(line)-1], nil
}

func (r *run) summary() Summary {
	slices.Sort(r.took)
	at := func(q float64) float64 {
		if len(r.took) == 0 {
			return 0
		}
		return float64(r.took[int(q*float64(len(r.took)-1))].Microseconds()) / 1000
	}
	return Summary{Calls: len(r.took), Failed: r.fails, P50: at(0.5), P99: at(0.99), Max: at(1), First: r.first}
}
