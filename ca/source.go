package ca

import (
	"crypto/tls"
	"log/slog"
	"sync"
	"time"

	"github.com/weirmesh/weir/identity"
)

// Source gives the authority in force. An *Authority is a Source that stays as it is;
// ca/kube has one that follows a Secret.
type Source interface {
	// Watch returns the authority in force, never nil, and a channel that is closed once
	// another took its place (nil: never).
	Watch() (held *Authority, replaced <-chan struct{})
}

// Watch makes an Authority a Source.
func (a *Authority) Watch() (held *Authority, replaced <-chan struct{}) { return a, nil }

// serveRetry is how soon an authority that gave no certificate is asked again: it may have
// ended, and every handshake would ask.
const serveRetry = time.Second

// Serving is the certificate of a server in the same process as its authority: an
// identity.Source. It is made when it is first needed, and made anew at half its life or
// when another authority is in force. Safe for concurrent use.
type Serving struct {
	from  Source
	grant Grant
	log   *slog.Logger

	mu   sync.Mutex
	held *identity.Material
	by   *Authority // of held
	due  time.Time  // when to replace held
}

// NewServing serves with certificates of from that say what grant says.
func NewServing(from Source, grant Grant, log *slog.Logger) *Serving {
	return &Serving{from: from, grant: grant, log: log}
}

// Certificate is nil if the authority cannot make one: its end has come.
func (s *Serving) Certificate() *tls.Certificate {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now().Round(0) // the wall clock: ends of certificates are on it
	authority, _ := s.from.Watch()
	if authority != s.by || !now.Before(s.due) {
		next, err := authority.Issue(s.grant)
		s.by = authority
		if err != nil {
			s.due = now.Add(serveRetry)
			s.log.Error("no certificate to serve with", "id", s.grant.ID, "err", err)
		} else {
			s.held, s.due = next, now.Add(next.NotAfter().Sub(now)/2)
			s.log.Info("serving certificate made", "id", s.grant.ID, "names", s.grant.DNSNames, "valid_until", next.NotAfter())
		}
	}
	if s.held == nil {
		return nil
	}
	return s.held.Certificate()
}

// Bundle is what clients are judged by.
func (s *Serving) Bundle() *identity.Bundle {
	authority, _ := s.from.Watch()
	return authority.Bundle()
}
