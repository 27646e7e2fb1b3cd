package control

import (
	"crypto/tls"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/store"
)

// What the API server's webhooks need of a Plane.

// Certificate is that of the Plane's own servers; nil if none can be made.
func (p *Plane) Certificate() *tls.Certificate { return p.self.Certificate() }

// Root is the certificates that clients of Certificate are to trust, PEM, and a channel
// that is closed when there are others (nil: never).
func (p *Plane) Root() (pem []byte, replaced <-chan struct{}) {
	held, replaced := p.auth.Watch()
	return held.Bundle().PEM(), replaced
}

// Metrics is where more metrics are registered that /metrics shows.
func (p *Plane) Metrics() prometheus.Registerer { return p.instruments.registry }

// Judge says what is wrong with an object that is not stored yet.
func (p *Plane) Judge(o *config.Object) []config.Finding {
	u := p.latest.Load()
	if u == nil { // nothing is known of others yet
		_, _, findings := store.Lower(o, &p.o.Settings)
		return findings
	}
	p.judging.Lock()
	defer p.judging.Unlock()
	lowered, _, _ := store.Lower(o, u.Snapshot.Settings)
	return append(p.judge.Of(u, o), wouldRefuse(u, o, lowered, p.ownSightings, time.Now().Round(0))...)
}
