package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/capture"
)

// inboundPort is where every mesh has its sidecars listen for inbound connections.
const inboundPort = 15006

// captureTime is how long a sidecar awaits rules that come from outside the pod.
const captureTime = 5 * time.Second

// captured refuses to start a sidecar beside an application whose connections would pass
// it by: unencrypted, unauthorized, unseen. Where the proxy is not in the workload's
// network namespace, who starts it makes the rules.
func (m *meshFlags) captured(ctx context.Context, kind string) error {
	if kind != "sidecar" || m.capture == "none" || m.appFD >= 0 {
		return nil
	}
	if err := verify(ctx, inboundPort, capture.ProbePort, captureTime); err != nil {
		return fmt.Errorf("%w; weir-proxy init (image weir-proxy-init, capability NET_ADMIN) has to run in this pod before; --capture none is for a sidecar that captures nothing", err)
	}
	return nil
}

// notCaptured has the exit status by which Istio's CNI agent knows a pod whose rules
// are missing.
type notCaptured struct{ error }

func (notCaptured) exitStatus() int { return 126 }

func (e notCaptured) Unwrap() error { return e.error }

func verify(ctx context.Context, inbound, probe uint16, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := capture.Verify(ctx, inbound, probe); err != nil {
		return notCaptured{err}
	}
	return nil
}

// A proxy looks now and then whether it still is where the pod's connections go; that costs one connection to itself. Once the rules are gone
// it looks more often: the node's agent, where there is one, makes them again within half a minute. Where nobody does, the proxy ends with
// the status that says so, because nothing comes to it any more and everybody takes its pod for protected.
const (
	lookEvery = 30 * time.Second
	lookAgain = 5 * time.Second
	lookLong  = time.Minute
)

// rules follows whether the capture rules are in force while the proxy runs.
type rules struct {
	inForce func(context.Context) (bool, error)
	ready   func() error // of the proxy
	log     *slog.Logger

	since time.Time // when they were found to be gone
	gone  atomic.Bool
	over  atomic.Bool // for good
}

var errGone = errors.New("the rules that capture this pod's connections are gone: what it sends and receives goes past its proxy; delete the pod")

// Ready is the proxy's, if the pod's connections come to it.
func (r *rules) Ready() error {
	if r.gone.Load() {
		return errGone
	}
	return r.ready()
}

// step takes up what was seen, and says when to look next; over: it has lasted too long.
func (r *rules) step(there bool, err error, now time.Time) (next time.Duration, over bool) {
	switch {
	case err != nil && r.since.IsZero():
		return lookEvery, false
	case err != nil:
		return lookAgain, false
	case there:
		if r.gone.Swap(false) {
			r.log.Warn("the rules that capture this pod's connections are in force again", "away", now.Sub(r.since).Round(time.Second))
		}
		r.since = time.Time{}
		return lookEvery, false
	case r.since.IsZero():
		r.since = now
		r.gone.Store(true)
		r.log.Error("the pod runs UNPROTECTED", "err", errGone)
	}
	return lookAgain, now.Sub(r.since) >= lookLong
}

// watch looks until ctx ends, or calls end once they are gone for good.
func (r *rules) watch(ctx context.Context, end func()) error {
	t := time.NewTimer(lookEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		if r.ready() != nil { // it is beginning, or about to end
			t.Reset(lookEvery)
			continue
		}
		there, err := r.inForce(ctx)
		next, over := r.step(there, err, time.Now())
		if over {
			r.over.Store(true)
			end()
			return nil
		}
		t.Reset(next)
	}
}

// verdict is the error with which the proxy ends; nil unless it ends for the want of rules.
func (r *rules) verdict() error {
	if r.over.Load() {
		return notCaptured{errGone}
	}
	return nil
}
