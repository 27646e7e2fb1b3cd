package jwt

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"slices"
	"unicode/utf8"

	"github.com/go-jose/go-jose/v4"
)

// MaxToken bounds tokens. Those of large identity providers with groups in them are of 4 KiB; a
// request's headers are bounded to 60 KiB by default.
const MaxToken = 16 << 10

// maxDepth bounds how deep claims are nested.
const maxDepth = 16

// algorithms are those of RFC 7518 section 3.1 and RFC 8037, without "none".
var algorithms = []jose.SignatureAlgorithm{jose.HS256, jose.HS384, jose.HS512, jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512, jose.ES256, jose.ES384, jose.ES512, jose.EdDSA}

// Token is a token that was read. Nothing of it is true before it was verified.
type Token struct {
	Text             string // all of it
	Payload          string // its second part, as it came
	Algorithm, KeyID string
	Issuer, Subject  string
	Audiences        []string
	// Expires, NotBefore and IssuedAt are in seconds of Unix time; 0: not said.
	Expires, NotBefore, IssuedAt int64
	// Claims are all: values are string, bool, json.Number, nil, []any and map[string]any.
	Claims map[string]any
}

// Parse reads a token.
func Parse(text []byte) (*Token, Status) {
	if len(text) > MaxToken || bytes.Count(text, dot) != 2 {
		return nil, BadFormat
	}
	header, rest, _ := bytes.Cut(text, dot)
	payload, signature, _ := bytes.Cut(rest, dot)
	if len(header) == 0 || len(payload) == 0 || len(signature) == 0 {
		return nil, BadFormat
	}
	h, err := decode(header)
	if err != nil {
		return nil, HeaderBase64
	}
	head, err := object(h)
	if err != nil {
		return nil, HeaderJSON
	}
	t := &Token{Text: string(text)}
	t.Payload = t.Text[len(header)+1 : len(header)+1+len(payload)]
	var ok bool
	if t.Algorithm, ok = head["alg"].(string); !ok {
		return nil, HeaderAlgorithm
	}
	if !slices.Contains(algorithms, jose.SignatureAlgorithm(t.Algorithm)) {
		return nil, UnknownAlgorithm
	}
	if t.KeyID, ok = optional(head, "kid"); !ok {
		return nil, HeaderKeyID
	}
	if head["crit"] != nil { // extensions that have to be understood (RFC 7515 section 4.1.11): none is
		return nil, VerificationFails
	}
	p, err := decode(payload)
	if err != nil {
		return nil, PayloadBase64
	}
	if t.Claims, err = object(p); err != nil {
		return nil, PayloadJSON
	}
	if s := t.registered(); s != OK {
		return nil, s
	}
	if _, err := decode(signature); err != nil {
		return nil, SignatureBase64
	}
	return t, OK
}

// registered reads the claims of RFC 7519 section 4.1.
func (t *Token) registered() Status {
	var ok bool
	if t.Issuer, ok = optional(t.Claims, "iss"); !ok {
		return ClaimIssuer
	}
	if t.Subject, ok = optional(t.Claims, "sub"); !ok {
		return ClaimSubject
	}
	if t.IssuedAt, ok = seconds(t.Claims, "iat"); !ok {
		return ClaimIssuedAt
	}
	if t.NotBefore, ok = seconds(t.Claims, "nbf"); !ok {
		return ClaimNotBefore
	}
	if t.Expires, ok = seconds(t.Claims, "exp"); !ok {
		return ClaimExpires
	}
	switch aud := t.Claims["aud"].(type) {
	case nil:
	case string:
		t.Audiences = []string{aud}
	case []any:
		for _, a := range aud {
			s, ok := a.(string)
			if !ok {
				return ClaimAudience
			}
			t.Audiences = append(t.Audiences, s)
		}
	default:
		return ClaimAudience
	}
	return OK
}

// Valid holds a token against the clock, in seconds of Unix time, which may be wrong by skew.
func (t *Token) Valid(now, skew int64) Status {
	switch {
	case t.NotBefore != 0 && now+skew < t.NotBefore:
		return NotYetValid
	case t.Expires != 0 && now-skew >= t.Expires:
		return Expired
	}
	return OK
}

func optional(m map[string]any, name string) (string, bool) {
	v, ok := m[name]
	if !ok {
		return "", true
	}
	s, ok := v.(string)
	return s, ok
}

// seconds reads a NumericDate, of which fractions are dropped.
func seconds(m map[string]any, name string) (int64, bool) {
	v, ok := m[name]
	if !ok {
		return 0, true
	}
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	f, err := n.Float64()
	if err != nil || f < 0 || f > math.MaxInt64/2 {
		return 0, false
	}
	return max(1, int64(f)), true // 0, the year 1970, is not "not said"
}

var dot = []byte{'.'}

func decode(part []byte) ([]byte, error) {
	out := make([]byte, base64.RawURLEncoding.DecodedLen(len(part)))
	n, err := base64.RawURLEncoding.Strict().Decode(out, part)
	if err == nil && n != len(out) { // line breaks, which the decoder skips
		err = errLineBreak
	}
	return out[:n], err
}

var errLineBreak = errors.New("there is a line break in it")

var errJSON = errors.New("not one JSON object of members with different names")

// object reads a JSON object. Of a name that stands twice nobody knows which is meant (RFC 7519
// section 4): it is an error.
func object(b []byte) (map[string]any, error) {
	if !utf8.Valid(b) {
		return nil, errJSON
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v, err := value(d, 0)
	if err != nil {
		return nil, err
	}
	m, ok := v.(map[string]any)
	if _, err := d.Token(); !ok || err == nil || d.InputOffset() != int64(len(bytes.TrimRight(b, " \t\r\n"))) {
		return nil, errJSON
	}
	return m, nil
}

func value(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	delim, ok := t.(json.Delim)
	switch {
	case !ok:
		return t, nil
	case depth == maxDepth:
		return nil, errJSON
	case delim == '{':
		m := map[string]any{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return nil, err
			}
			s, ok := name.(string)
			if _, twice := m[s]; !ok || twice {
				return nil, errJSON
			}
			if m[s], err = value(d, depth+1); err != nil {
				return nil, err
			}
		}
		_, err = d.Token()
		return m, err
	case delim == '[':
		list := []any{}
		for d.More() {
			v, err := value(d, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		_, err = d.Token()
		return list, err
	}
	return nil, errJSON
}
