// Package token makes and reads the bearer tokens by which local workloads first
// prove who they are to the certificate authority.
//
// In: a Key, which lives in a file next to the authority; whoever can read that
// file can make tokens, and nobody else can: the control plane and the local
// runtime, which hands each workload its own. Out: a token, text for the
// authorization header; and from a token, its Claims. A Key is immutable and safe
// for concurrent use.
//
// A token is weir1.<payload>.<mac>: base64url (RFC 4648 section 5, no padding) of a
// JSON object and of its HMAC-SHA256 under the key, taken over everything before
// the second point. There is one algorithm and no field to choose another by. A
// token of a local workload may be shown any number of times until it expires: a
// proxy that restarts or loses its certificate needs it again. One for a machine
// elsewhere (Claims.Once) is good for the first address that shows it, and there
// for some minutes: Uses remembers that.
package token

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/weirmesh/weir/ca/internal/secretfile"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/internal/redact"
)

// Audience of tokens for the certificate authority, as in Istio.
const Audience = "istio-ca"

// MachineAudience is that of tokens of Kubernetes for machines outside the cluster: of a service account, bound to no pod, good once.
const MachineAudience = "istio-ca/machine"

// OnceOf is what a JSON Web Token (RFC 7519) is remembered by. It is of what was signed: a signature may be written in several ways.
func OnceOf(jwt string) string {
	signed := jwt
	if point := strings.LastIndexByte(jwt, '.'); point >= 0 {
		signed = jwt[:point]
	}
	sum := sha256.Sum256([]byte(signed))
	return hex.EncodeToString(sum[:16])
}

const (
	prefix  = "weir1."
	keyFile = "token-key.pem"
	keyType = "WEIR TOKEN KEY"
	keySize = 32 // the output size of SHA-256; more adds nothing (RFC 2104 section 3)
	// maxToken bounds what is hashed for a stranger. The longest identity and
	// workload name make 1,300 bytes.
	maxToken    = 4096
	maxWorkload = 253 // a Kubernetes object name
	maxOnce     = 64
)

var encoding = base64.RawURLEncoding.Strict()

// decode is strict, and refuses the line breaks that encoding skips: a token has one text.
func decode(s string) ([]byte, error) {
	b, err := encoding.DecodeString(s)
	if err == nil && len(b) != encoding.DecodedLen(len(s)) {
		err = errors.New("there is a line break in it")
	}
	return b, err
}

// Claims are what a token says.
type Claims struct {
	ID       identity.ID
	Workload string // the one workload (pod) the token was made for; may be empty
	Audience string // who is to accept it
	Expires  time.Time
	Once     string // names a token that is for one machine alone, see Uses; "" for others
}

// payload is the wire form.
type payload struct {
	Sub identity.ID `json:"sub"`
	Wl  string      `json:"wl,omitempty"`
	Aud string      `json:"aud"`
	Exp int64       `json:"exp"` // seconds since 1970
	Jti string      `json:"jti,omitempty"`
}

// Key makes and checks tokens.
type Key struct{ secret redact.Bytes }

// OpenKey opens the key that lives in a folder, or makes one there. Processes that
// start at the same time get the same one, and tokens outlive restarts.
func OpenKey(dir string) (*Key, error) {
	text, err := secretfile.LoadOrCreate(dir, keyFile, func() (redact.Bytes, error) {
		secret := make([]byte, keySize)
		if _, err := rand.Read(secret); err != nil {
			return redact.Bytes{}, fmt.Errorf("drawing a key: %w", err)
		}
		return redact.New(pem.EncodeToMemory(&pem.Block{Type: keyType, Bytes: secret})), nil
	})
	if err != nil {
		return nil, fmt.Errorf("token key: %w", err)
	}
	block, rest := pem.Decode(text.Reveal())
	if block == nil || block.Type != keyType || len(block.Bytes) != keySize || len(rest) > 0 {
		return nil, fmt.Errorf("token key: %s/%s is damaged: remove it, and a new one is made; workloads then need new tokens", dir, keyFile)
	}
	return &Key{redact.New(block.Bytes)}, nil
}

// Mint makes a token. All claims but the workload are required.
func (k *Key) Mint(c Claims) (redact.String, error) {
	if err := c.check(); err != nil {
		return redact.String{}, fmt.Errorf("making a token: %w", err)
	}
	body, err := json.Marshal(payload{c.ID, c.Workload, c.Audience, c.Expires.Unix(), c.Once})
	if err != nil {
		return redact.String{}, fmt.Errorf("making a token: %w", err)
	}
	signed := prefix + encoding.EncodeToString(body)
	return redact.New(signed + "." + encoding.EncodeToString(k.mac(signed))), nil
}

// Is reports whether text is meant to be one of our tokens, so that another kind
// is left to those who know it.
func Is(text string) bool { return strings.HasPrefix(text, prefix) }

// Verify reads a token that was made by this key for audience and has not expired.
// Its errors may be told to whoever showed the token.
func (k *Key) Verify(text, audience string, now time.Time) (Claims, error) {
	if len(text) > maxToken {
		return Claims{}, fmt.Errorf("token of %d bytes, at most %d are read", len(text), maxToken)
	}
	if !Is(text) {
		return Claims{}, fmt.Errorf("not a token of this mesh: it does not begin with %q", prefix)
	}
	point := strings.LastIndexByte(text, '.')
	signed := text[:point]
	mac, err := decode(text[point+1:])
	if err != nil || !hmac.Equal(mac, k.mac(signed)) {
		return Claims{}, errors.New("the token was not made by this mesh's key, or was altered")
	}
	// From here on it is our own writing.
	body, err := decode(strings.TrimPrefix(signed, prefix))
	if err != nil {
		return Claims{}, fmt.Errorf("token payload: %w", err)
	}
	var p payload
	if err := json.Unmarshal(body, &p); err != nil {
		return Claims{}, fmt.Errorf("token payload: %w", err)
	}
	c := Claims{p.Sub, p.Wl, p.Aud, time.Unix(p.Exp, 0).UTC(), p.Jti}
	if err := c.check(); err != nil {
		return Claims{}, fmt.Errorf("token payload: %w", err)
	}
	if c.Audience != audience {
		return Claims{}, fmt.Errorf("the token of %s is for audience %q, not %q", c.ID, c.Audience, audience)
	}
	if !now.Before(c.Expires) {
		return Claims{}, fmt.Errorf("the token of %s expired %s ago (%s): restart the workload to give it a new one",
			c.ID, now.Sub(c.Expires).Round(time.Second), c.Expires.Format(time.RFC3339))
	}
	return c, nil
}

func (c Claims) check() error {
	switch {
	case c.Audience == "":
		return errors.New("the audience is empty")
	case len(c.Workload) > maxWorkload:
		return fmt.Errorf("the workload name has %d characters, at most %d are allowed", len(c.Workload), maxWorkload)
	case len(c.Once) > maxOnce:
		return fmt.Errorf("the token's name has %d characters, at most %d are allowed", len(c.Once), maxOnce)
	case c.Expires.Unix() <= 0:
		return errors.New("there is no expiry")
	}
	return c.ID.Validate()
}

func (k *Key) mac(signed string) []byte {
	h := hmac.New(sha256.New, k.secret.Reveal())
	h.Write([]byte(signed))
	return h.Sum(nil)
}
