package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/internal/backoff"
	"github.com/weirmesh/weir/internal/kubeconfig"
)

const (
	// patience is how long an API server may be away that has answered before: it restarts in
	// some 20 s, another replica takes over sooner.
	patience = time.Minute
	// slow is how long an answer may take before people are told that it is waited for.
	slow = 10 * time.Second
)

// patient asks again when the API server does not answer that has answered before. All that
// this package asks for may be asked twice.
type patient struct {
	next http.RoundTripper
	say  func(string)
	met  atomic.Bool
}

// away is why the API server was given up.
type away struct{ why string }

func (a *away) Error() string { return "the cluster does not answer any more: " + a.why }

// RoundTrip implements http.RoundTripper.
func (p *patient) RoundTrip(r *http.Request) (*http.Response, error) {
	waits := backoff.Backoff{Min: 200 * time.Millisecond, Max: 3 * time.Second}
	var since time.Time
	for {
		waiting := time.AfterFunc(slow, func() { p.say("the cluster takes its time to answer") })
		resp, err := p.next.RoundTrip(r)
		waiting.Stop()
		why := absent(r, resp, err)
		switch {
		case r.Context().Err() != nil || !p.met.Load() && err != nil:
			return resp, err
		case why == "":
			p.met.Store(true)
			if !since.IsZero() {
				p.say(fmt.Sprintf("the cluster answers again, after %v", time.Since(since).Round(time.Second)))
			}
			return resp, err
		case since.IsZero():
			since = time.Now()
			p.say("the cluster does not answer (" + why + "): trying again")
		case time.Since(since) > patience:
			if err == nil {
				resp.Body.Close()
			}
			return nil, &away{why}
		}
		if err == nil {
			resp.Body.Close()
		}
		if err := waits.Wait(r.Context()); err != nil {
			return nil, &away{why}
		}
		if r.Body == nil {
			continue
		}
		if r.GetBody == nil {
			return nil, &away{why}
		}
		body, err := r.GetBody()
		if err != nil {
			return nil, err
		}
		r = r.Clone(r.Context())
		r.Body = body
	}
}

// absent says why something is no answer of the API server, "" if it is one. What discovery
// says of a group that others serve is one, whatever it is.
func absent(r *http.Request, resp *http.Response, err error) string {
	if err != nil {
		return err.Error()
	}
	path := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	discovery := len(path) < 3 || path[0] == "apis" && len(path) < 4
	if busy := resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusGatewayTimeout; busy && !discovery {
		return resp.Status
	}
	return ""
}

// Plain says in plain words that something failed because the API server did not answer; other
// errors it returns as they are.
func (c *Cluster) Plain(ctx context.Context, err error) error {
	var told *kubeconfig.Error
	var gone *away
	switch {
	case err == nil || errors.As(err, &told):
		return err
	case errors.As(err, &gone) && ctx.Err() == nil:
		return kubeconfig.Hinted("when it does, the same command goes on from here", "the cluster at %s has not answered for %v: %s", c.Server, patience, gone.why)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return kubeconfig.Hinted("--timeout gives it longer; called again it goes on from here", "the cluster at %s did not answer in time", c.Server)
	}
	return err
}
