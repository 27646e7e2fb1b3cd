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
	"slices"
	"sync"
	"time"

	"github.com/weirmesh/weir/ca/internal/secretfile"
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
	memory           string // file with what Rolling remembers
	log              *slog.Logger

	mu      sync.Mutex
	used    map[string][]byte // the files in force
	seen    map[string][]byte // when last looked
	problem string
}

// FollowPlugged opens the authority in a folder, as OpenPlugged does. Run follows its files. What roots were handed over from is
// kept in the file memory, in a folder of the control plane's own.
func FollowPlugged(dir, memory, trustDomain string, o Options, log *slog.Logger) (*Plugged, error) {
	files, err := readPlugged(dir)
	if err != nil {
		return nil, err
	}
	first, err := parsePlugged(dir, files, trustDomain, o)
	if err != nil {
		return nil, err
	}
	before, err := secretfile.Load(memory)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("roots that were trusted before: %w", err)
	}
	p := &Plugged{Rolling: NewRolling(first, before.Reveal(), log), dir: dir, memory: memory, trustDomain: trustDomain, o: o, log: log, used: files, seen: files}
	return p, p.remember()
}

// remember writes down what changed.
func (p *Plugged) remember() error {
	if err := os.MkdirAll(filepath.Dir(p.memory), 0o700); err != nil {
		return fmt.Errorf("remembering which roots are trusted: %w", err)
	}
	return secretfile.Replace(p.memory, p.Memory(), 0o600)
}

// Problem says why files that were replaced are not in force, "" if nothing is wrong.
func (p *Plugged) Problem() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.problem
}

// Views are the roots in force.
func (p *Plugged) Views(time.Time) []View { return p.Rolling.Views() }

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
	defer func() {
		if err := p.remember(); err != nil {
			p.log.Error("certificate authority: a control plane that starts now will not know which roots certificates in use lead to", "err", err)
		}
	}()
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
	for _, l := range append(slices.Clone(layouts), layout{chain: DistrustedFile}, layout{chain: RevokedFile}) {
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
