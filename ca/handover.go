package ca

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/weirmesh/weir/identity"
)

// handover puts one authority into the place of another without cutting anybody off, whatever
// was asked for: a root signs when everybody who holds a usable certificate trusts it, and
// stays trusted while a usable certificate needs it. It is a pure machine; what happened
// comes in with the wall clock's time.
type handover struct {
	held    *Authority // in force; nil before the first
	trusted []trust    // the roots of held, and since when certificates bring them
	// longest is the longest life that a certificate in use may have been granted, by whichever replica; lapses is when it no longer is,
	// because nobody gets so much any more. Zero: they do.
	longest time.Duration
	lapses  time.Time
}

// grant takes note of the longest life that is granted now.
func (h *handover) grant(now time.Time, longest time.Duration) {
	switch {
	case longest >= h.longest:
		h.longest, h.lapses = longest, time.Time{}
	case h.lapses.IsZero():
		h.lapses = now.Add(h.longest + settle)
	case !now.Before(h.lapses):
		h.longest, h.lapses = longest, time.Time{}
	}
}

type trust struct {
	root  *x509.Certificate
	since time.Time
	// needed is the end of the last certificate that may lead to it; zero if none does.
	needed time.Time
}

// change is what a step of a handover says.
type change struct {
	held  *Authority
	notes []string  // what is not as was asked for, until when, and why
	next  time.Time // when another step says something else; zero: never
}

// Step brings what was asked for into force, as far as that harms nobody.
func (h *handover) Step(now time.Time, asked *Authority) (change, error) {
	if h.held == nil {
		return h.begin(now, asked)
	}
	var c change
	// Of all that were in force: certificates of the first may outlive the second's.
	h.grant(now, max(h.held.o.MaxTTL, asked.o.MaxTTL))
	overlap := h.longest + settle
	begins := now
	if !asked.root.Equal(h.held.root) {
		since := now
		if i := slices.IndexFunc(h.trusted, func(t trust) bool { return t.root.Equal(asked.root) }); i >= 0 {
			since = h.trusted[i].since
		}
		// Where the old one ends too early: as Succession does.
		begins = since.Add(min(overlap, max(0, h.held.until.Sub(since))/4*3))
	}
	waits := now.Before(begins) && !asked.distrusts(h.held.root)
	roots := asked.bundle.Roots()
	var trusted []trust
	for _, t := range h.trusted {
		if t.root.Equal(h.held.root) {
			t.needed = earlier(now.Add(overlap), h.held.until)
		}
		switch {
		case slices.ContainsFunc(roots, t.root.Equal):
		case now.Before(t.needed) && !asked.distrusts(t.root):
			next := c.next
			c.stays(t)
			if t.root.Equal(h.held.root) && waits {
				c.next = next // of a root that signs, the end is in sight only once another does
			}
			roots = append(roots, t.root)
		default:
			continue
		}
		trusted = append(trusted, t)
	}
	for _, r := range roots {
		if !slices.ContainsFunc(trusted, func(t trust) bool { return t.root.Equal(r) }) {
			trusted = append(trusted, trust{root: r, since: now})
		}
	}
	signer := asked
	if waits {
		signer = h.held
		c.soon(begins)
		c.notes = append(c.notes, fmt.Sprintf("root %s signs from %s on: until then workloads hold certificates that came without it", name(asked.root), begins.UTC().Format(time.RFC3339)))
	}
	signer, err := signer.under(roots)
	if err != nil {
		return change{}, err
	}
	h.held, h.trusted, c.held = signer, trusted, signer
	return c, nil
}

// under is the authority with these roots.
func (a *Authority) under(roots []*x509.Certificate) (*Authority, error) {
	bundle, err := identity.NewBundle(roots...)
	if err != nil || a.bundle.Equal(bundle) {
		return a, err
	}
	return a.withBundle(bundle)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func name(c *x509.Certificate) string {
	return fmt.Sprintf("%q (serial %x)", c.Subject.String(), c.SerialNumber)
}

// Rolling is a Source whose authority is replaced while it runs, by a handover. Look has to be
// called now and then. It is safe for concurrent use.
type Rolling struct {
	log *slog.Logger

	mu       sync.Mutex
	machine  handover
	asked    *Authority
	replaced chan struct{}
	last     change
}

// NewRolling begins with an authority, where another one's Memory ended; nil: nothing is known of before.
func NewRolling(first *Authority, memory []byte, log *slog.Logger) *Rolling {
	r := &Rolling{log: log, replaced: make(chan struct{})}
	if err := r.machine.recall(memory, time.Now().Round(0)); err != nil {
		log.Error("what roots were trusted before this start cannot be read: certificates that lead to others than those of now are refused until they are renewed", "err", err)
	}
	r.Ask(first)
	return r
}

// Watch makes a Rolling a Source.
func (r *Rolling) Watch() (held *Authority, replaced <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last.held, r.replaced
}

// Ask names the authority that is to be in force.
func (r *Rolling) Ask(a *Authority) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.unread && (r.asked == nil || !r.asked.unread) {
		r.log.Warn("certificate authority: lists of revoked certificates are not read: what is revoked stays good until it ends; cut off a stolen root by "+DistrustedFile, "file", RevokedFile)
	}
	r.asked = a
	r.step()
}

// Look lets time pass.
func (r *Rolling) Look() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if next := r.last.next; !next.IsZero() && !time.Now().Round(0).Before(next) {
		r.step()
	}
}

// Memory is what the next one has to know, to be kept where only control planes write. It changes as time passes.
func (r *Rolling) Memory() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.machine.remember()
}

// Notes say what is not yet as was asked for, and until when.
func (r *Rolling) Notes() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.last.notes)
}

// Views are the roots in force; of those that are left out it is said until when they stay.
func (r *Rolling) Views() []View {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := r.asked.bundle.Roots()
	out := r.last.held.Views()
	for i, c := range r.last.held.bundle.Roots() {
		if slices.ContainsFunc(asked, c.Equal) {
			continue
		}
		for _, t := range r.machine.trusted {
			if t.root.Equal(c) {
				out[i].Retires = t.needed
			}
		}
	}
	return out
}

// step is called under mu.
func (r *Rolling) step() {
	before := r.last.held
	c, err := r.machine.Step(time.Now().Round(0), r.asked)
	if err != nil {
		r.log.Error("the certificate authority stays as it is", "err", err)
		r.last.notes = []string{err.Error()}
		return
	}
	r.last = c
	if c.held == before {
		return
	}
	r.log.Info("certificate authority", "signs", c.held.cert.Subject, "root", c.held.root.Subject, "root_valid_until", c.held.root.NotAfter,
		"trusted", len(c.held.bundle.Roots()), "notes", strings.Join(c.notes, "; "))
	close(r.replaced)
	r.replaced = make(chan struct{})
}

// Views are the roots of an authority as they are in force.
func (a *Authority) Views() []View {
	var out []View
	for _, c := range a.bundle.Roots() {
		v := viewOf(c)
		v.Signs = c.Equal(a.root)
		out = append(out, v)
	}
	return out
}
