package server

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"

	"github.com/weirmesh/weir/ca"
	"github.com/weirmesh/weir/ca/token"
	"github.com/weirmesh/weir/identity"
)

// Caller is who asks, as proven.
type Caller struct {
	ID       identity.ID
	Workload string // the one workload, where the proof names it: of a pod its name
	Proof    string // what proved it, for the log
}

// ErrAbsent is what an Authenticator answers if a request has no credential of the
// kind it knows.
var ErrAbsent = errors.New("no such credential")

// ErrUnchecked is in the error of an Authenticator that could not ask whether a credential
// is good: the caller is to try again.
var ErrUnchecked = errors.New("the credential cannot be checked at present")

// ReplayError is that a good token of a pod was shown from another pod's address. Who shows it is not told whose.
type ReplayError struct {
	ID  identity.ID // whose the token is
	Pod string      // that it is bound to: NAMESPACE/NAME
	At  string      // the pod that showed it
}

func (e *ReplayError) Error() string {
	return fmt.Sprintf("it is bound to pod %s, and was shown from the address of another: show the token of the pod itself", e.Pod)
}

// Authenticator finds out who calls, from the credentials of a gRPC request. Its
// errors are told to the caller. It is safe for concurrent use.
type Authenticator interface {
	Authenticate(ctx context.Context) (Caller, error)
}

// Authenticate asks the authenticators of a chain one after the other; the first that
// knows the caller decides. Its error may be told to the caller.
func Authenticate(ctx context.Context, chain []Authenticator) (Caller, error) {
	var refused []error
	for _, a := range chain {
		caller, err := a.Authenticate(ctx)
		if err == nil {
			return caller, nil
		}
		if !errors.Is(err, ErrAbsent) {
			refused = append(refused, err)
		}
	}
	if len(refused) == 0 {
		return Caller{}, errors.New("no credential: send a bearer token for audience " + token.Audience + " or a client certificate of this mesh")
	}
	return Caller{}, errors.Join(refused...)
}

// Tokens knows callers by the bearer tokens of a key.
type Tokens struct {
	Key *token.Key
	// Uses refuses tokens for one machine that are shown from another, or too late; nil: they are refused.
	Uses *token.Uses
}

// Authenticate reads the authorization header.
func (t Tokens) Authenticate(ctx context.Context) (Caller, error) {
	text, ok := Bearer(ctx)
	if !ok || !token.Is(text) { // another kind of token is another authenticator's
		return Caller{}, ErrAbsent
	}
	c, err := t.Key.Verify(text, token.Audience, time.Now())
	if err != nil {
		return Caller{}, fmt.Errorf("bearer token: %w", err)
	}
	proof := "bearer token"
	if c.Once != "" {
		if t.Uses == nil {
			return Caller{}, errors.New("bearer token: tokens for one machine are not taken here")
		}
		if err := t.Uses.Use(c, PeerHost(ctx), time.Now()); err != nil {
			if _, ok := errors.AsType[*token.UseError](err); !ok {
				err = fmt.Errorf("%w: %w", ErrUnchecked, err)
			}
			return Caller{}, fmt.Errorf("bearer token: %w", err)
		}
		proof += " " + c.Once
	}
	return Caller{c.ID, c.Workload, proof}, nil
}

// Bearer is the token in a gRPC request's authorization header.
func Bearer(ctx context.Context) (string, bool) {
	for _, v := range metadata.ValueFromIncomingContext(ctx, "authorization") {
		const scheme = "bearer " // case-insensitive: RFC 9110 section 11.1
		if len(v) >= len(scheme) && strings.EqualFold(v[:len(scheme)], scheme) {
			return strings.TrimSpace(v[len(scheme):]), true
		}
	}
	return "", false
}

// Certificates knows callers by the client certificate of their TLS connection,
// which is how a workload renews. The certificate is judged anew for each request:
// a connection may live longer than what it was made with.
type Certificates struct {
	Authority ca.Source // whose roots judge
	Accept    identity.Accept
	// Renew is why a certificate is no credential although it is good: its service account is gone, for instance. Its error
	// is told to the caller; nil: all are.
	Renew func(ctx context.Context, id identity.ID, held *x509.Certificate) error
}

// GoneError is that a good certificate may not be renewed.
type GoneError struct {
	ID  identity.ID // whose it is
	Err error
}

func (e *GoneError) Error() string { return fmt.Sprintf("%s is not renewed: %v", e.ID, e.Err) }

// Unwrap makes it an error of errors.Is.
func (e *GoneError) Unwrap() error { return e.Err }

// Authenticate judges the client certificate.
func (c Certificates) Authenticate(ctx context.Context) (Caller, error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Caller{}, ErrAbsent
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.PeerCertificates) == 0 {
		return Caller{}, ErrAbsent
	}
	var raw [][]byte
	for _, cert := range info.State.PeerCertificates {
		raw = append(raw, cert.Raw)
	}
	authority, _ := c.Authority.Watch()
	id, err := identity.VerifyPeer(raw, authority.Bundle(), time.Now(), identity.Client, c.Accept)
	if err != nil {
		return Caller{}, fmt.Errorf("client certificate: %w", err)
	}
	if c.Renew != nil {
		if err := c.Renew(ctx, id, info.State.PeerCertificates[0]); err != nil {
			return Caller{}, fmt.Errorf("client certificate: %w", &GoneError{id, err})
		}
	}
	return Caller{ID: id, Proof: "client certificate"}, nil
}
