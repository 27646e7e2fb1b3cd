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

// Uses remembers, in a file beside the key, who used tokens that are for one machine alone. It is safe for concurrent use.
type Uses struct {
	dir   string
	mu    sync.Mutex
	known map[string]use // by Claims.Once; what the file said last
}

// use is the first use of a token.
type use struct {
	Host    string    `json:"host"`
	At      time.Time `json:"at"`
	Expires time.Time `json:"expires"` // of the token: then it is forgotten
}

// UseError says that a token is shown again where it must not be.
type UseError struct{ why string }

func (e *UseError) Error() string { return e.why }

// OpenUses reads nothing yet: the file comes with the first use.
func OpenUses(dir string) *Uses { return &Uses{dir: dir} }

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
	_, err := secretfile.Update(u.dir, usesFile, func() (redact.Bytes, error) { return redact.New([]byte("{}")), nil }, func(text redact.Bytes) (redact.Bytes, error) {
		known := map[string]use{}
		if err := json.Unmarshal(text.Reveal(), &known); err != nil {
			return text, fmt.Errorf("%s is damaged (%w): remove it once no token for a machine is valid any more", usesFile, err)
		}
		k, ok := known[c.Once]
		if ok {
			verdict = k.judge(c, host, now)
		} else {
			for id, k := range known {
				if !now.Before(k.Expires) {
					delete(known, id)
				}
			}
			if len(known) >= maxUses {
				return text, fmt.Errorf("%d tokens that are still valid were used already", len(known))
			}
			known[c.Once] = use{host, now.UTC(), c.Expires}
		}
		u.known = known
		out, err := json.Marshal(known)
		return redact.New(out), err
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
