package token

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/weirmesh/weir/ca/internal/secretfile"
	"github.com/weirmesh/weir/internal/redact"
)

const (
	usesFile = "used-tokens.json"
	// again is how long after its first use a token for one machine is good there: answers get lost, and a proxy that is
	// set up may be started a few times. From then on the machine renews by its certificate.
	again = 10 * time.Minute
	// maxUses bounds the file, to 0.8 MB of the 1 that is read; only who holds the key of the API adds to it.
	maxUses = 5_000
)

// NewOnce is a value for Claims.Once.
func NewOnce() (string, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("drawing a number: %w", err)
	}
	return hex.EncodeToString(b[:]), nil
}

// Uses remembers who used tokens that are for one machine alone. It is safe for concurrent use.
type Uses struct {
	keep  Keeper
	mu    sync.Mutex
	known map[string]use // by Claims.Once; what was kept last
}

// Keeper keeps a text for all who ask Uses of the same tokens. change makes of what is kept what is to be kept, nil is nothing yet; it is
// called again if somebody else wrote meanwhile, and its error changes nothing and is returned.
type Keeper func(change func(old []byte) ([]byte, error)) error

// use is the first use of a token.
type use struct {
	Host    string    `json:"host"`
	At      time.Time `json:"at"`
	Expires time.Time `json:"expires"` // of the token: then it is forgotten
}

// UseError says that a token is shown again where it must not be.
type UseError struct{ why string }

func (e *UseError) Error() string { return e.why }

// OpenUses remembers in a file beside the key. It reads nothing yet: the file comes with the first use.
func OpenUses(dir string) *Uses {
	return NewUses(func(change func([]byte) ([]byte, error)) error {
		none := func() (redact.Bytes, error) { return redact.Bytes{}, nil }
		_, err := secretfile.Update(dir, usesFile, none, func(text redact.Bytes) (redact.Bytes, error) {
			out, err := change(text.Reveal())
			return redact.New(out), err
		})
		if err != nil {
			return fmt.Errorf("%s: %w", usesFile, err)
		}
		return nil
	})
}

// NewUses remembers where keep does.
func NewUses(keep Keeper) *Uses { return &Uses{keep: keep} }

// Use notes that a token is used from host, or refuses: with a *UseError if it was used elsewhere, or here too long ago;
// with another error if that cannot be known.
func (u *Uses) Use(c Claims, host string, now time.Time) error {
	if c.Once == "" {
		return nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if k, ok := u.known[c.Once]; ok {
		return k.judge(c, host, now)
	}
	var verdict error
	err := u.keep(func(text []byte) ([]byte, error) {
		known := map[string]use{}
		if len(text) > 0 {
			if err := json.Unmarshal(text, &known); err != nil {
				return nil, fmt.Errorf("what is remembered is damaged (%w): remove it once no token for a machine is valid any more", err)
			}
		}
		k, ok := known[c.Once]
		if verdict = nil; ok {
			verdict = k.judge(c, host, now)
		} else {
			for id, k := range known {
				if !now.Before(k.Expires) {
					delete(known, id)
				}
			}
			if len(known) >= maxUses {
				return nil, fmt.Errorf("%d tokens that are still valid were used already", len(known))
			}
			known[c.Once] = use{host, now.UTC(), c.Expires}
		}
		u.known = known
		return json.Marshal(known)
	})
	if err != nil {
		u.known = nil
		return fmt.Errorf("noting that a token is used: %w", err)
	}
	return verdict
}

func (k use) judge(c Claims, host string, now time.Time) error {
	switch {
	case k.Host != host:
		return &UseError{fmt.Sprintf("the token of %s is for one machine, which used it from %s at %s: mint another for this one, and if nobody else should have it, find out who had",
			c.ID, k.Host, k.At.Format(time.RFC3339))}
	case now.Sub(k.At) > again || now.Before(k.At.Add(-again)):
		return &UseError{fmt.Sprintf("the token of %s was used up at %s: the machine renews by its certificate, and needs a new token if it has none that is good", c.ID, k.At.Format(time.RFC3339))}
	}
	return nil
}
