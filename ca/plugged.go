package ca

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// pluggedEvery is how often the files of a plugged-in authority are read: four small files,
// and who replaces them waits for nothing.
const pluggedEvery = 5 * time.Second

// Plugged is the Source of an organisation's authority whose files are replaced while it runs.
// Files that cannot be used change nothing; an authority takes another's place by Rolling.
type Plugged struct {
	*Rolling
	dir, trustDomain string
	o                Options
	log              *slog.Logger

	mu      sync.Mutex
	used    map[string][]byte // the files in force
	seen    map[string][]byte // when last looked
	problem string
}

// FollowPlugged opens the authority in a folder, as OpenPlugged does. Run follows its files.
func FollowPlugged(dir, trustDomain string, o Options, log *slog.Logger) (*Plugged, error) {
	files, err := readPlugged(dir)
	if err != nil {
		return nil, err
	}
	first, err := parsePlugged(dir, files, trustDomain, o)
	if err != nil {
		return nil, err
	}
	return &Plugged{Rolling: NewRolling(first, log), dir: dir, trustDomain: trustDomain, o: o, log: log, used: files, seen: files}, nil
}

// Problem says why files that were replaced are not in force, "" if nothing is wrong.
func (p *Plugged) Problem() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.problem
}

// Views are the roots in force.
func (p *Plugged) Views(time.Time) []View {
	held, _ := p.Watch()
	return held.Views()
}

// Run follows the files until ctx ends.
func (p *Plugged) Run(ctx context.Context) error {
	tick := time.NewTicker(pluggedEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			p.look()
		case <-ctx.Done():
			return nil
		}
	}
}

// look takes files that are other than those in force, once they were the same twice: who
// copies one after the other is left to finish.
func (p *Plugged) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.Look()
	files, err := readPlugged(p.dir)
	same := func(x map[string][]byte) bool { return maps.EqualFunc(files, x, bytes.Equal) }
	switch {
	case err == nil && same(p.used):
		p.seen, p.problem = files, ""
		return
	case err == nil && !same(p.seen):
		p.seen = files
		return
	}
	var next *Authority
	if err == nil {
		next, err = parsePlugged(p.dir, files, p.trustDomain, p.o)
	}
	if err != nil {
		if text := err.Error() + "; the authority in force stays"; text != p.problem {
			p.problem = text
			p.log.Error("certificate authority", "err", text)
		}
		return
	}
	p.used, p.problem = files, ""
	p.Ask(next)
}

// OpenPlugged opens an organisation's authority from the files of a folder:
// ca-key.pem, ca-cert.pem, root-cert.pem and (if there are intermediates)
// cert-chain.pem, or tls.key, tls.crt and ca.crt. RSA, ECDSA and Ed25519 keys in
// PKCS #8, PKCS #1 or SEC 1.
func OpenPlugged(dir, trustDomain string, o Options) (*Authority, error) {
	files, err := readPlugged(dir)
	if err != nil {
		return nil, err
	}
	return parsePlugged(dir, files, trustDomain, o)
}

func parsePlugged(dir string, files map[string][]byte, trustDomain string, o Options) (*Authority, error) {
	a, err := ParsePlugged(files, trustDomain, o)
	if err != nil {
		return nil, fmt.Errorf("plugged-in certificate authority in %s: %w", dir, err)
	}
	return a, nil
}

func readPlugged(dir string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, l := range layouts {
		for _, name := range []string{l.key, l.cert, l.roots, l.chain} {
			if name == "" {
				continue
			}
			text, err := os.ReadFile(filepath.Join(dir, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("plugged-in certificate authority in %s: %w", dir, err)
			}
			files[name] = text
		}
	}
	return files, nil
}
