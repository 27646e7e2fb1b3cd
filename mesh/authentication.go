package mesh

import (
	"cmp"
	"time"
)

// RequestAuthentication says whose tokens count at workloads: those Selector picks, or the whole
// namespace; of the root namespace those of every namespace. A request may bring none; one that does not
// count is refused.
type RequestAuthentication struct {
	Ref Ref
	// Legacy and Namespace are as those of an AuthorizationPolicy.
	Legacy    bool
	Namespace string

	Selector Labels    // nil: all workloads
	Rules    []JWTRule // one for each issuer
}

// Home is the namespace the object is in.
func (r *RequestAuthentication) Home() string { return cmp.Or(r.Namespace, r.Ref.Namespace) }

// JWTRule says what a token of one issuer is like.
type JWTRule struct {
	Line      int      // where it stands
	Issuer    string   // "": whoever it is
	Audiences []string // one of them; none: for whomever it is
	// URI is where the keys are: a key set, or the issuer's OpenID configuration, which names one. "": Keys are
	// all there are.
	URI     string
	Timeout time.Duration // of fetching them; 0: 5 s
	// Keys is a JSON Web Key Set; of a URI, what stands for the set as long as it was never fetched.
	Keys string

	// Where tokens are; all empty: in "Authorization: Bearer", or the query parameter access_token.
	Headers         []TokenHeader
	Params, Cookies []string

	Forward       bool          // the token goes on to the application
	PayloadHeader string        // gets the claims; "": none
	ClaimHeaders  []ClaimHeader // get one claim each
	Spaced        []string      // claims that are lists, written with spaces
}

// TokenHeader is a header that has a token, behind a prefix.
type TokenHeader struct{ Name, Prefix string }

// ClaimHeader is a header that gets a claim; those of objects in claims are written with dots.
type ClaimHeader struct{ Header, Claim string }

// KeySet is a JSON Web Key Set that was fetched.
type KeySet struct {
	Text string
}

// ClaimPrefix begins the name of a HeaderMatch that is about a claim: "@request.auth.claims.a.b" or
// "@request.auth.claims[a][b]".
const ClaimPrefix = "@request.auth.claims"
