package keys

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/weirmesh/weir/internal/jwt"
)

// Kept is a set as it was fetched last, for control planes that start while its issuer is away.
type Kept struct {
	URI     string    `json:"uri"`
	Fetched time.Time `json:"fetched"`
	Keys    string    `json:"keys"`
}

// FileName is where a set is kept, in a state folder and in a ConfigMap.
func (k *Kept) FileName() string {
	sum := sha256.Sum256([]byte(k.URI))
	return hex.EncodeToString(sum[:]) + ".json"
}

// rewriteAfter is how old what is kept may say that a set is which was fetched again without a change.
const rewriteAfter = time.Hour

// ParseKept reads what is kept under a name. Whoever wrote it may be wrong: it is a set of public keys that says itself where it is from,
// or nothing.
func ParseKept(name string, data []byte) (*Kept, error) {
	var k Kept
	if err := json.Unmarshal(data, &k); err != nil {
		return nil, fmt.Errorf("is no set that was kept: %w", err)
	}
	set, err := jwt.ParseKeys(k.Keys)
	switch {
	case err != nil:
		return nil, fmt.Errorf("what was kept %w", err)
	case k.URI == "" || k.FileName() != name || set.URI != k.URI || set.Placeholder:
		return nil, errors.New("is not the set that its name says")
	case k.Fetched.IsZero():
		return nil, errors.New("does not say when it was fetched")
	}
	if k.Keys, err = jwt.Marked(k.Keys, k.URI); err != nil {
		return nil, fmt.Errorf("what was kept %w", err)
	}
	return &k, nil
}

// shelf keeps sets in a folder; "" keeps none.
type shelf struct {
	dir string
	log *slog.Logger
}

// read returns what is kept, by address. What cannot be used, and what is too much, is removed: the oldest first.
func (s *shelf) read() map[string]*Kept {
	if s.dir == "" {
		return nil
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		if !os.IsNotExist(err) {
			s.log.Warn("keys of tokens that were kept cannot be read", "err", err)
		}
		return nil
	}
	var all []*Kept
	for _, e := range entries {
		path := filepath.Join(s.dir, e.Name())
		data, err := os.ReadFile(path)
		if err == nil {
			var k *Kept
			if k, err = ParseKept(e.Name(), data); err == nil {
				all = append(all, k)
				continue
			}
		}
		s.log.Warn("keys of tokens that were kept cannot be used", "file", path, "err", err)
		s.drop(e.Name())
	}
	slices.SortFunc(all, func(a, b *Kept) int { return cmp.Or(b.Fetched.Compare(a.Fetched), cmp.Compare(a.URI, b.URI)) })
	for len(all) > maxSources {
		s.drop(all[len(all)-1].FileName())
		all = all[:len(all)-1]
	}
	out := map[string]*Kept{}
	for _, k := range all {
		out[k.URI] = k
	}
	return out
}

func (s *shelf) drop(name string) {
	if s.dir == "" {
		return
	}
	if err := os.Remove(filepath.Join(s.dir, name)); err != nil && !os.IsNotExist(err) {
		s.log.Warn("keys of tokens stay kept", "err", err)
	}
}

// put keeps a set. Not synced: a torn file is no set, and the next fetch brings another.
func (s *shelf) put(k *Kept) {
	if s.dir == "" {
		return
	}
	data, err := json.Marshal(k)
	if err == nil {
		err = os.MkdirAll(s.dir, 0o700)
	}
	tmp := filepath.Join(s.dir, k.FileName()+".new")
	if err == nil {
		err = os.WriteFile(tmp, data, 0o600)
	}
	if err == nil {
		err = os.Rename(tmp, filepath.Join(s.dir, k.FileName()))
	}
	if err != nil {
		s.log.Warn("keys of tokens are not kept for a restart", "uri", k.URI, "err", err)
	}
}

// Restore puts sets that were kept elsewhere into the folder of a Fetcher, before it is made. What the folder has that is newer stays.
func Restore(dir string, sets []*Kept, log *slog.Logger) {
	s := &shelf{dir, log}
	own := s.read()
	for _, k := range sets {
		if was := own[k.URI]; was == nil || was.Fetched.Before(k.Fetched) {
			s.put(k)
		}
	}
}
