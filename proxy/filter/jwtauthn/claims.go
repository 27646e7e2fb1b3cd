package jwtauthn

import (
	"encoding/base64"
	"encoding/json"
	"maps"
	"strconv"
	"strings"

	"github.com/weirmesh/weir/proxy/http/message"
)

// header keeps a header of a token. A value that cannot stand in one is left out: what a user may have
// called himself must not become another header.
func (s *said) header(name, value string) {
	v := []byte(value)
	if _, bad := message.BadValueByte(v); bad {
		return
	}
	s.headers = append(s.headers, message.Field{Name: []byte(name), Value: v, ID: message.IDOf(name)})
}

// lookUp is the claim at path; nil: there is none.
func lookUp(claims map[string]any, path []string) any {
	var v any = claims
	for _, name := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil
		}
		v = m[name]
	}
	return v
}

// claimText writes a claim as Envoy does in claim_to_headers: lists and objects as JSON in base64.
func claimText(v any) (string, bool) {
	switch v := v.(type) {
	case nil:
		return "", false
	case string:
		return v, true
	case json.Number:
		return v.String(), true
	case bool:
		return strconv.FormatBool(v), true
	}
	b, err := json.Marshal(v)
	return base64.StdEncoding.EncodeToString(b), err == nil
}

// spaced are the claims with those of names as lists.
func spaced(claims map[string]any, names []string) map[string]any {
	out := claims
	for _, name := range names {
		text, ok := claims[name].(string)
		if !ok {
			continue
		}
		if len(out) == len(claims) {
			out = maps.Clone(out)
		}
		list := []any{}
		for word := range strings.FieldsSeq(text) {
			list = append(list, word)
		}
		out[name] = list
	}
	return out
}
