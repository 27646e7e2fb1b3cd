package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// A request takes a handshake and a signature, 10 ms; what takes longer than
	// this is not coming.
	signTimeout = 10 * time.Second

	// wakeEvery is how late a jump of the clock may be noticed where nobody
	// calls. Timers stand still while a laptop sleeps and do not follow a clock
	// that is set, so a long one is cut into pieces.
	wakeEvery = 30 * time.Second

	// leastJump is how far the clock has to be from where it would be by itself
	// to be told of: corrections of a clock that runs are smaller.
	leastJump = 5 * time.Second

	// freshWait is how long handshakes wait for the certificate that takes the
	// place of one that ended: a request takes 10 ms, and peers would refuse the
	// old one. An authority that is away holds nobody up for longer.
	freshWait = time.Second
)

// Signer turns a request into a certificate.
type Signer interface {
	// Sign returns a PEM chain: the leaf first, then intermediates, then the root
	// or roots to trust (as Istio's CreateCertificate answers). It gives up when
	// ctx ends. A Manager calls it from one goroutine.
	Sign(ctx context.Context, req Request) (chain []byte, err error)
}

// Request asks a Signer for a certificate.
type Request struct {
	CSR []byte // PEM, PKCS #10
	// TTL is the life wanted; zero leaves it to the signer, which may also shorten
	// it.
	TTL time.Duration
	// As is what the asker holds at present, for a signer that is reached over
	// TLS.
	As Source
}

// Options of a Manager. ID, Signer and Log are required.
type Options struct {
	// ID is asked for and demanded of the answer.
	ID     ID
	Signer Signer
	// TTL is the life to ask for; zero leaves it to the signer.
	TTL time.Duration
	// Bootstrap are the roots that vouch for the control plane before the first
	// answer, and beside those of later answers. Peers are not judged by them.
	Bootstrap *Bundle
	// Roots, where set, gives them instead, anew for each connection: from files that are
	// replaced while we run. With an error the newest before it count.
	Roots func() (*Bundle, error)
	// Restored is material of an earlier run, used at once if it is of ID.
	Restored *Material
	Log      *slog.Logger
	// Now is the wall clock; nil: the machine's. Tests set another.
	Now func() time.Time
}

// Manager keeps a workload's Material good: it makes a key, has it signed, renews
// at half life, retries until it succeeds, and keeps what it has until it holds
// something better. All methods are safe for concurrent use; Run runs once.
type Manager struct {
	o       Options
	current atomic.Pointer[published]
	roots   atomic.Pointer[Bundle] // the newest of Options.Roots
	look    chan struct{}          // has Run look at the clock

	mu       sync.Mutex
	rotation Rotation
	status   Status
	noted    chan struct{} // closed, and made anew, when an attempt ended or the clock jumped
}

// published is one state of the world and the signal that it is over.
type published struct {
	material *Material
	changed  chan struct{}
	ended    sync.Once     // when a handshake found that material has ended:
	late     chan struct{} // closed freshWait after that
}

func newPublished(m *Material) *published {
	return &published{material: m, changed: make(chan struct{}), late: make(chan struct{})}
}

// Status is what an operator wants to know of an identity.
type Status struct {
	ID         ID        `json:"id"`
	ValidFrom  time.Time `json:"validFrom,omitzero"` // zero: no certificate yet
	ValidUntil time.Time `json:"validUntil,omitzero"`
	Serial     string    `json:"serial,omitempty"` // hexadecimal, as openssl writes it
	// NextAttempt is when the next request is due; the past while it is under way.
	NextAttempt time.Time `json:"nextAttempt,omitzero"`
	LastSuccess time.Time `json:"lastSuccess,omitzero"`
	// Failures counts attempts since the last success, LastError is the newest.
	Failures    int       `json:"failures,omitempty"`
	LastError   string    `json:"lastError,omitempty"`
	LastErrorAt time.Time `json:"lastErrorAt,omitzero"`
	// ClockJump is by how much the clock jumped last, because the machine slept
	// or the clock was set, and ClockJumpAt when that was noticed: who refused
	// our certificate about then did so for that.
	ClockJump   string    `json:"clockJump,omitempty"` // as time.Duration writes it; negative: back
	ClockJumpAt time.Time `json:"clockJumpAt,omitzero"`
}

// NewManager makes a manager that holds o.Restored or nothing; Run does the rest.
func NewManager(o Options) (*Manager, error) {
	if err := o.ID.Validate(); err != nil {
		return nil, fmt.Errorf("workload identity: %w", err)
	}
	if o.Signer == nil || o.Log == nil {
		return nil, errors.New("workload identity: a signer and a logger are required")
	}
	if o.Now == nil {
		o.Now = wallClock
	}
	m := &Manager{o: o, rotation: Rotation{Rand: mathrand.Float64}, look: make(chan struct{}, 1), noted: make(chan struct{})}
	m.status.ID = o.ID
	m.current.Store(newPublished(nil))
	if r := o.Restored; r != nil && r.ID() != o.ID {
		o.Log.Warn("stored certificate is somebody else's and is left alone", "id", o.ID, "stored", r.ID())
	} else if r != nil {
		m.rotation.Hold(r.NotBefore(), r.NotAfter())
		if b := m.bootstrap(); b != nil && !b.meets(r.Bundle()) {
			m.rotation.due = time.Time{} // the mesh has a new authority: ask now, and hold on meanwhile
		}
		m.publish(r)
		m.status.NextAttempt = m.rotation.due
	}
	return m, nil
}

// Current returns the material held, or nil before the first. It may have expired
// if the authority has been away for long: see Material.Usable.
func (m *Manager) Current() *Material { return m.current.Load().material }

// Watch returns the material held and a channel that is closed once it has been
// replaced. Nothing is missed between two calls, and only the newest matters.
func (m *Manager) Watch() (held *Material, changed <-chan struct{}) {
	p := m.current.Load()
	return p.material, p.changed
}

// Certificate makes a Manager a Source.
func (m *Manager) Certificate() *tls.Certificate {
	if held := m.Current(); held != nil {
		return held.Certificate()
	}
	return nil
}

// Fresh is the certificate of a Source for a handshake that has a goroutine of its own. Where that of a Manager has ended, because the
// machine slept or the clock was set, it waits until there is another one: freshWait at most, and once for each certificate, so that an
// authority that is away holds up the first ones only.
func Fresh(s Source) *tls.Certificate {
	if m, ok := s.(interface{ renewed() }); ok {
		m.renewed()
	}
	return s.Certificate()
}

// renewed returns when the certificate is good, or is not going to be soon.
func (m *Manager) renewed() {
	p := m.current.Load()
	if p.material == nil || m.o.Now().Before(p.material.NotAfter()) {
		return
	}
	p.ended.Do(func() {
		time.AfterFunc(freshWait, func() { close(p.late) })
		select {
		case m.look <- struct{}{}:
		default:
		}
	})
	select {
	case <-p.changed:
	case <-p.late:
	}
}

// Peers is the Source for connections between workloads: they are judged by the
// mesh's roots of the moment alone, those of Options.Bootstrap left out.
func (m *Manager) Peers() Source { return peers{m} }

type peers struct{ m *Manager }

func (p peers) Certificate() *tls.Certificate { return p.m.Certificate() }

func (p peers) renewed() { p.m.renewed() }

func (p peers) Bundle() *Bundle {
	if held := p.m.Current(); held != nil {
		return held.Bundle()
	}
	return nil
}

// Bundle makes a Manager a Source for connections to the control plane: its
// roots include Options.Bootstrap, or those of Roots.
func (m *Manager) Bundle() *Bundle {
	bootstrap := m.bootstrap()
	if held := m.Current(); held != nil {
		return held.Bundle().Union(bootstrap)
	}
	return bootstrap
}

// bootstrap are the roots of the moment that vouch for the control plane.
func (m *Manager) bootstrap() *Bundle {
	if m.o.Roots == nil {
		return m.o.Bootstrap
	}
	b, err := m.o.Roots()
	if err != nil {
		m.o.Log.Warn("the roots for the control plane cannot be read", "err", err)
		return m.roots.Load()
	}
	m.roots.Store(b)
	return b
}

// Status is a copy of the present state.
func (m *Manager) Status() Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status
}

// Noted is the present state, and what is closed once an attempt has ended or the clock has jumped.
func (m *Manager) Noted() (s Status, again <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.status, m.noted
}

// note says that the status has changed. It is called under mu.
func (m *Manager) note() {
	close(m.noted)
	m.noted = make(chan struct{})
}

// Run obtains and renews until ctx ends; it returns nil.
func (m *Manager) Run(ctx context.Context) error {
	wall, ran := m.o.Now(), time.Now()
	for {
		now := m.o.Now()
		m.jumped(now, now.Sub(wall)-time.Since(ran))
		wall, ran = now, time.Now()
		m.mu.Lock()
		wait := m.rotation.Wait(now)
		m.mu.Unlock()
		if wait > 0 {
			timer := time.NewTimer(min(wait, wakeEvery))
			select {
			case <-timer.C:
			case <-m.look:
			case <-ctx.Done():
				timer.Stop()
				return nil
			}
			timer.Stop()
			continue
		}
		next, err := m.obtain(ctx)
		if ctx.Err() != nil {
			return nil
		}
		m.settle(next, err)
	}
}

// jumped notes by how much the clock is not where it would be by itself.
func (m *Manager) jumped(now time.Time, by time.Duration) {
	if by.Abs() < leastJump {
		return
	}
	m.mu.Lock()
	m.status.ClockJump, m.status.ClockJumpAt = by.Round(time.Second).String(), now
	until := m.status.ValidUntil
	m.note()
	m.mu.Unlock()
	m.o.Log.Warn("the clock jumped: this machine slept, or its clock was set", "by", by.Round(time.Second), "certificate_until", until)
}

// obtain makes a key and has it signed. It changes nothing.
func (m *Manager) obtain(ctx context.Context) (*Material, error) {
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	key, err := NewKey()
	if err != nil {
		return nil, err
	}
	csr, err := NewRequest(key, m.o.ID)
	if err != nil {
		return nil, err
	}
	answer, err := m.o.Signer.Sign(ctx, Request{CSR: csr, TTL: m.o.TTL, As: m})
	if err != nil {
		return nil, err
	}
	chain, roots, err := splitAnswer(answer)
	if err != nil {
		return nil, fmt.Errorf("the authority's answer: %w", err)
	}
	next, err := NewMaterial(key, chain, roots)
	if err != nil {
		return nil, fmt.Errorf("the authority's answer: %w", err)
	}
	if next.ID() != m.o.ID {
		return nil, fmt.Errorf("the authority's answer: a certificate for %s, where %s was asked for", next.ID(), m.o.ID)
	}
	return next, nil
}

// settle takes note of what an attempt gave.
func (m *Manager) settle(next *Material, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.note()
	now := m.o.Now()
	if err == nil {
		use, good := m.rotation.Signed(now, next.NotBefore(), next.NotAfter())
		if use {
			m.publish(next)
		}
		if good {
			m.status.Failures, m.status.LastError, m.status.LastErrorAt = 0, "", time.Time{}
			m.status.LastSuccess, m.status.NextAttempt = now, m.rotation.due
			m.o.Log.Info("certificate obtained", "id", m.o.ID, "valid_until", next.NotAfter(), "renewal", m.rotation.due)
			return
		}
		err = fmt.Errorf("the authority's answer: a certificate valid from %s until %s, while it is %s here: the clocks of the two machines differ",
			next.NotBefore().UTC().Format(time.RFC3339), next.NotAfter().UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	} else {
		m.rotation.Failed(now)
	}
	m.status.Failures, m.status.LastError, m.status.LastErrorAt = m.rotation.failures, err.Error(), now
	m.status.NextAttempt = m.rotation.due
	level := slog.LevelWarn
	if m.rotation.failures <= 3 {
		level = slog.LevelDebug // the first second: a control plane that starts beside us
	}
	m.o.Log.Log(context.Background(), level, "no new certificate", "id", m.o.ID, "err", err,
		"held_until", m.status.ValidUntil, "next_attempt", m.rotation.due)
}

// publish is called under mu, or before m is shared.
func (m *Manager) publish(held *Material) {
	m.status.ValidFrom, m.status.ValidUntil = held.NotBefore(), held.NotAfter()
	m.status.Serial = fmt.Sprintf("%x", held.Leaf().SerialNumber)
	old := m.current.Swap(newPublished(held))
	close(old.changed)
}

// splitAnswer divides what a signer sends into what peers are shown and what they
// are judged by. Roots stand at the end and sign themselves; if the last
// certificate does not, it is trusted directly (Istio: "the root cert is the last
// element").
func splitAnswer(text []byte) (chain []*x509.Certificate, roots *Bundle, err error) {
	certs, err := ParseCertificates(text)
	if err != nil {
		return nil, nil, err
	}
	if len(certs) < 2 {
		return nil, nil, errors.New("one certificate, want at least a leaf and a root")
	}
	n := len(certs)
	for n > 1 && selfSigned(certs[n-1]) {
		n--
	}
	if n == len(certs) {
		n--
	}
	roots, err = NewBundle(certs[n:]...)
	return certs[:n], roots, err
}

// wallClock is the time without its monotonic part, which stands still while a
// machine sleeps and would hide that a clock was set.
func wallClock() time.Time { return time.Now().Round(0) }
