package jwtauthn

import (
	"strings"

	"github.com/weirmesh/weir/proxy/route"
)

// Filter is the configuration of one filter.
type Filter struct {
	// Rules are tried in order; what none matches goes on.
	Rules []Rule
	// Preflight lets CORS preflight requests go on.
	Preflight bool
	Providers []*Provider
}

// Rule says what a request needs.
type Rule struct {
	When     route.When
	Requires *Requirement // nil: nothing
}

// Kind is that of a Requirement.
type Kind uint8

// Kinds of JwtRequirement.
const (
	ByProvider Kind = iota
	Any
	All
	AllowMissing         // no token, or valid ones
	AllowMissingOrFailed // whatever there is; what is valid counts
)

// Requirement is a JwtRequirement.
type Requirement struct {
	Kind     Kind
	Provider *Provider // ByProvider
	// Audiences are required instead of the provider's own; nil: those.
	Audiences []string
	Of        []*Requirement // Any, All
	Providers []*Provider    // AllowMissing, AllowMissingOrFailed: whose tokens
}

// Provider issues tokens.
type Provider struct {
	Name      string
	Issuer    string   // "": any
	Audiences []string // as Audience makes them; one has to fit; none: all fit
	Keys      *Source

	// Where tokens are.
	Headers []Header
	Params  []string
	Cookies []string

	Forward       bool   // leave the token where it is
	PayloadHeader string // lower case; gets the payload as it came; "": none
	Pad           bool   // with padding
	Claims        []ClaimHeader
	Metadata      string   // the key of the claims in Request.Claims; "": they are not put there
	Spaced        []string // claims that are lists, written with spaces
	Skew          int64    // seconds
	Rematch       bool     // routes depend on claims
}

// Header is a place of tokens.
type Header struct{ Name, Prefix string }

// ClaimHeader gets the value of a claim.
type ClaimHeader struct {
	Name string // lower case
	Path []string
}

// Audience is the form in which audiences are compared: without scheme and last slash, as Envoy does.
func Audience(s string) string {
	s = strings.TrimSuffix(s, "/")
	for _, scheme := range []string{"https://", "http://"} {
		if rest, ok := strings.CutPrefix(s, scheme); ok {
			return rest
		}
	}
	return s
}
