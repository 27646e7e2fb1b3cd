package jwt

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// Limits of a set. That of a provider has 2 to 10 keys; one of 100 KiB with its certificates is the
// largest seen.
const (
	MaxKeySet = 1 << 20
	maxKeys   = 200
)

// Keys are a set of public keys, and of secrets that an issuer shares with who checks its tokens (HS256 to HS512).
type Keys struct {
	// URI is where the set was fetched; "": nowhere, it was given.
	URI string
	// Placeholder says that nothing was fetched there yet: no token is signed by its key.
	Placeholder bool

	list            []key
	ignored, shared int
}

type key struct {
	id, algorithm string // "": any
	public        any    // or []byte, which is secret
}

// shortest are how many bytes a secret has at least, by algorithm (RFC 7518 section 3.2).
var shortest = map[string]int{string(jose.HS256): 32, string(jose.HS384): 48, string(jose.HS512): 64}

// Len is how many keys can be used, Ignored how many cannot: of another kind, or damaged.
func (k *Keys) Len() int { return len(k.list) }

// Ignored is described at Len.
func (k *Keys) Ignored() int { return k.ignored }

// Shared is how many of those that can be used are secrets: who knows one can make tokens.
func (k *Keys) Shared() int { return k.shared }

// mark is a member that we add to sets. Others ignore it (RFC 7517 section 5).
type mark struct {
	URI         string `json:"uri"`
	Placeholder bool   `json:"placeholder,omitempty"`
}

const markName = "weir.dev"

// ParseKeys reads a JSON Web Key Set.
func ParseKeys(text string) (*Keys, error) {
	if len(text) > MaxKeySet {
		return nil, fmt.Errorf("is of %d bytes, at most %d", len(text), MaxKeySet)
	}
	var set struct {
		Keys *[]json.RawMessage `json:"keys"`
		Mark mark               `json:"weir.dev"`
	}
	if err := json.Unmarshal([]byte(text), &set); err != nil {
		return nil, fmt.Errorf("is no JSON Web Key Set: %w", err)
	}
	switch {
	case set.Keys == nil:
		return nil, errors.New(`is no JSON Web Key Set: it has no "keys"`)
	case len(*set.Keys) > maxKeys:
		return nil, fmt.Errorf("has %d keys, at most %d", len(*set.Keys), maxKeys)
	}
	out := &Keys{URI: set.Mark.URI, Placeholder: set.Mark.Placeholder}
	for _, raw := range *set.Keys {
		var j jose.JSONWebKey
		if err := j.UnmarshalJSON(raw); err != nil || j.Use != "" && j.Use != "sig" {
			out.ignored++
			continue
		}
		k := key{j.KeyID, j.Algorithm, j.Public().Key}
		if secret, ok := j.Key.([]byte); ok {
			k.public = secret
		}
		switch public := k.public.(type) {
		case []byte:
			if len(public) < max(shortest[k.algorithm], shortest[string(jose.HS256)]) {
				out.ignored++
				continue
			}
			out.list = append(out.list, k)
			out.shared++
		case *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey:
			out.list = append(out.list, k)
		default:
			out.ignored++
		}
	}
	if len(out.list) == 0 {
		return nil, errors.New("has no key that can verify a signature: RSA, EC and OKP (Ed25519) keys can, and oct keys as long as the hash: 32 bytes for HS256, 48 for HS384, 64 for HS512")
	}
	return out, nil
}

// Marked is a set, as text, that says where it was fetched, with public keys only: what an issuer shows of others by mistake goes no further,
// and what anybody can fetch is no secret to check tokens with.
func Marked(text, uri string) (string, error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return "", fmt.Errorf("is no JSON Web Key Set: %w", err)
	}
	var all []json.RawMessage
	if err := json.Unmarshal(m["keys"], &all); err != nil {
		return "", fmt.Errorf("is no JSON Web Key Set: %w", err)
	}
	public := []map[string]json.RawMessage{}
	for _, raw := range all {
		var k map[string]json.RawMessage
		if json.Unmarshal(raw, &k) != nil || k["k"] != nil {
			continue
		}
		maps.DeleteFunc(k, func(name string, _ json.RawMessage) bool { return slices.Contains(private, name) })
		public = append(public, k)
	}
	out, err := json.Marshal(public)
	if err != nil {
		return "", err
	}
	m["keys"] = out
	m[markName], _ = json.Marshal(mark{URI: uri})
	out, err = json.Marshal(m)
	return string(out), err
}

// private are the members that only the owner of a key may know (RFC 7518 sections 6.2.2 and 6.3.2).
var private = []string{"d", "p", "q", "dp", "dq", "qi", "oth"}

// Placeholder is the set that stands for one that was never fetched. Nobody has the private key: x is
// the SHA-256 hash of a text, and how a point was made of it is in the test.
func Placeholder(uri string) string {
	m, _ := json.Marshal(mark{URI: uri, Placeholder: true})
	return `{"keys":[` + nobody + `],"` + markName + `":` + string(m) + `}`
}

const nobody = `{"kty":"EC","crv":"P-256","kid":"weir.dev/nobody","use":"sig","alg":"ES256","x":"D3JIKSjA1iFAU8useRtGsRM3ImjA0Cm4Jz0RS6n-0SE","y":"OiXfFLCjjzI42Isy4KTAw-JE41TpZEdCr8bxyrS5HYQ"}`

// Verify verifies the signature. If it fails the set may be older than the token, also where a key of the set has the name that the
// token gives.
func (k *Keys) Verify(t *Token) Status {
	if k.Placeholder {
		return NoKeys
	}
	s := NoMatchingKey
	var signed *jose.JSONWebSignature
	for i := range k.list {
		c := &k.list[i]
		if t.KeyID != "" && c.id != "" && t.KeyID != c.id || c.algorithm != "" && c.algorithm != t.Algorithm || !c.fits(t.Algorithm) {
			continue
		}
		if signed == nil {
			var err error
			if signed, err = jose.ParseSignedCompact(t.Text, algorithms); err != nil {
				return VerificationFails
			}
		}
		if _, err := signed.Verify(c.public); err == nil {
			return OK
		}
		s = VerificationFails
	}
	return s
}

// secrets are the secret parts of keys in JSON, also where that stands in a string of JSON or YAML.
var secrets = regexp.MustCompile(`(\\*["'](?:k|d|p|q|dp|dq|qi)\\*["']\s*:\s*\\*["'])[A-Za-z0-9_=+/-]+`)

const hidden = "[redacted]"

// Redacted is a text without the secret parts of the keys in it.
func Redacted(text string) string { return secrets.ReplaceAllString(text, "${1}"+hidden) }

// Hidden reports whether a token may be signed by a secret that was taken out of a set.
func Hidden(t *Token, set string) bool {
	return shortest[t.Algorithm] > 0 && strings.Contains(set, `"`+hidden+`"`)
}

// fits reports whether the key is of the kind that an algorithm needs: its own kind decides, so that a public key is never
// taken for a secret.
func (k *key) fits(algorithm string) bool {
	switch public := k.public.(type) {
	case []byte:
		n, ok := shortest[algorithm]
		return ok && len(public) >= n
	case *rsa.PublicKey:
		return algorithm[0] == 'R' || algorithm[0] == 'P'
	case *ecdsa.PublicKey:
		return algorithm[:2] == "ES"
	}
	return algorithm == string(jose.EdDSA)
}
