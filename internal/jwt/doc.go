// Package jwt reads JSON Web Tokens (RFC 7519, signed in JWS compact form, RFC 7515) and the sets
// of keys by which they are verified (RFC 7517).
//
// What enters: bytes that anybody may have sent. What leaves: a Token, whose claims mean nothing
// before Keys have verified it; Keys; and a Status, whose texts are Envoy's. Tokens and Keys are
// immutable and may be used by any number of goroutines. There is no clock and no network here.
//
// Symmetric algorithms (HS256 and its like) and "none" do not exist here: whoever can verify the first
// can sign, too, and a public key must never be taken for a shared secret.
package jwt
