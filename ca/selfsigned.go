package ca

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/weirmesh/weir/ca/internal/secretfile"
	"github.com/weirmesh/weir/internal/redact"
)

// Files of a self-signed authority. Keys and certificates are one file because two
// cannot be replaced at once.
const (
	authorityFile = "ca.pem"
	rootFile      = "root-cert.pem" // the roots alone, for whoever wants to trust them (curl --cacert)
)

// lookEvery is how late a succession may happen, and a clock that was set be noticed.
const lookEvery = 30 * time.Second

// SelfSigned is the Source of a mesh with roots of its own, kept in a folder. It makes a
// successor in time, trusts both while certificates of the old are in use, and changes over
// when everybody trusts the new one: Succession says when.
type SelfSigned struct {
	dir, trustDomain string
	o                Options
	log              *slog.Logger

	mu       sync.Mutex
	own      *Own
	plan     Plan // by which held is in force
	held     *Authority
	replaced chan struct{} // closed when held is another
	problem  string
}

// FollowSelfSigned opens the authority that lives in a folder, as OpenSelfSigned does. Run
// keeps it alive.
func FollowSelfSigned(dir, trustDomain string, o Options, log *slog.Logger) (*SelfSigned, error) {
	own, held, err := openSelfSigned(dir, trustDomain, o)
	if err != nil {
		return nil, err
	}
	return &SelfSigned{dir: dir, trustDomain: trustDomain, o: o, log: log, own: own, plan: own.Plan(time.Now().Round(0)), held: held, replaced: make(chan struct{})}, nil
}

// Watch makes a SelfSigned a Source.
func (s *SelfSigned) Watch() (held *Authority, replaced <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held, s.replaced
}

// Problem says why a succession that is due does not happen, "" if nothing is wrong.
func (s *SelfSigned) Problem() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.problem
}

// Views are the roots in force.
func (s *SelfSigned) Views(now time.Time) []View {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.own.Views(now)
}

// Run follows the clock until ctx ends.
func (s *SelfSigned) Run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.look()
		case <-ctx.Done():
			return nil
		}
	}
}

// look puts into force what the plan of this moment says. The files are read again only if
// that is another than before.
func (s *SelfSigned) look() {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now().Round(0)
	if p := s.own.Plan(now); !p.Make && p.Same(s.plan) {
		return
	}
	own, next, err := openSelfSigned(s.dir, s.trustDomain, s.o)
	if err != nil {
		if s.problem != err.Error() {
			s.log.Error("certificate authority", "err", err)
		}
		s.problem = err.Error()
		return
	}
	s.log.Info("roots changed", "signs", next.cert.Subject, "trusted", len(next.bundle.Roots()), "next_change", own.Plan(now).Next)
	s.own, s.plan, s.held, s.problem = own, own.Plan(now), next, ""
	close(s.replaced)
	s.replaced = make(chan struct{})
}

// OpenSelfSigned opens the authority that lives in a folder, or makes one there: a
// root of ECDSA P-256 for ten years, and its successor if that is due. Processes that start
// at the same time get the same one. The file holds private keys, the roots of them, and any
// further roots that are to be trusted.
//
// A file that is damaged, or whose parts do not belong together, or that is gone while
// the roots it had are there, is an error and never replaced: making a new root cuts
// off every workload that trusts the old.
func OpenSelfSigned(dir, trustDomain string, o Options) (*Authority, error) {
	_, a, err := openSelfSigned(dir, trustDomain, o)
	return a, err
}

func openSelfSigned(dir, trustDomain string, o Options) (*Own, *Authority, error) {
	path, roots := filepath.Join(dir, authorityFile), filepath.Join(dir, rootFile)
	now := time.Now().Round(0)
	var own *Own
	var damaged error
	_, err := secretfile.Update(dir, authorityFile, func() (redact.Bytes, error) {
		if _, err := os.Lstat(roots); !errors.Is(err, fs.ErrNotExist) {
			return redact.Bytes{}, fmt.Errorf("%s, the private key of the mesh, is gone, and workloads trust %s: restore it from a copy, "+
				"or remove %s to start with a new root, which workloads trust once they are restarted", path, roots, rootFile)
		}
		first, err := (&Own{}).Succeed(trustDomain, now)
		if err != nil {
			return redact.Bytes{}, err
		}
		return first.Marshal()
	}, func(text redact.Bytes) (redact.Bytes, error) {
		if own, damaged = ParseOwn(text); damaged != nil || !own.Plan(now).Make {
			return text, nil
		}
		next, err := own.Succeed(trustDomain, now)
		if err != nil {
			return redact.Bytes{}, err
		}
		own = next
		return own.Marshal()
	})
	if err != nil {
		return nil, nil, fmt.Errorf("certificate authority: %w", err)
	}
	var a *Authority
	if err = damaged; err == nil {
		a, err = own.authority(o, trustDomain, own.Plan(now))
	}
	if err != nil {
		first := "restore the file from a copy"
		if errors.Is(err, ErrEnded) {
			first = "set this machine's clock right if it is wrong"
		}
		return nil, nil, fmt.Errorf("certificate authority %s: %w; %s, or move it and %s away to start with a new root, "+
			"which workloads trust once they are restarted", path, err, first, rootFile)
	}
	if err := secretfile.Replace(roots, a.bundle.PEM(), 0o644); err != nil {
		return nil, nil, fmt.Errorf("certificate authority: %w", err)
	}
	return own, a, nil
}
