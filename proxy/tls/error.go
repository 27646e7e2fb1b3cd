package tls

import (
	stdtls "crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/weirmesh/weir/identity"
)

// Reason is why a handshake or a session failed: a closed set, for causes and counters.
type Reason uint8

const (
	PeerRefused        Reason = iota + 1 // we do not accept the peer's certificate; Err may be an *identity.PeerError
	RefusedByPeer                        // the peer does not accept ours, by its alert
	NoCertificate                        // we have no certificate to show yet
	NotTLS                               // the peer speaks something else
	NoSharedVersion                      // no TLS version in common
	NoSharedParameters                   // no cipher suite, curve, signature algorithm or protocol in common
	Interrupted                          // the peer ended the connection in the middle of it
	Violation                            // the peer violated the protocol, or a record was damaged
)

var reasonNames = [...]string{
	PeerRefused: "peer_refused", RefusedByPeer: "refused_by_peer", NoCertificate: "no_certificate", NotTLS: "not_tls",
	NoSharedVersion: "no_shared_version", NoSharedParameters: "no_shared_parameters", Interrupted: "interrupted", Violation: "violation",
}

func (r Reason) String() string {
	if int(r) < len(reasonNames) && r > 0 {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason_%d", uint8(r))
}

// Error is a failed handshake or session. Its text is a sentence for an operator.
type Error struct {
	Reason Reason
	// Alert is the peer's reason in the words of the protocol (RFC 8446, section
	// 6.2) where it sent one: "bad certificate", "unknown certificate authority".
	Alert string
	Err   error
}

func (e *Error) Error() string {
	switch e.Reason {
	case PeerRefused:
		return e.Err.Error()
	case RefusedByPeer:
		return fmt.Sprintf("the peer refused the connection with the TLS alert %q: %s", e.Alert, remedy(e.Alert))
	case NoCertificate:
		return "there is no certificate yet to show to the peer: the proxy's own identity was not obtained"
	case NotTLS:
		return "the peer does not speak TLS here: one side is configured for mutual TLS, the other for plaintext"
	case NoSharedVersion, NoSharedParameters:
		return "the two sides have no TLS parameters in common: " + e.Err.Error()
	case Interrupted:
		return "the peer closed the connection during the TLS handshake, without a reason"
	}
	return "the peer violated the TLS protocol: " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

func remedy(alert string) string {
	switch alert {
	case "unknown certificate authority":
		return "it does not trust the authority of our certificate; compare the trust bundles of the two sides"
	case "certificate required":
		return "it wants a client certificate and got none"
	case "expired certificate":
		return "our certificate has expired, or the clocks of the two machines differ"
	case "bad certificate", "unknown certificate", "access denied":
		return "it does not accept our certificate; its log says why"
	case "protocol version not supported":
		return "it speaks other versions of TLS"
	case "no application protocol":
		return "it speaks none of the offered application protocols (ALPN)"
	case "unrecognized name":
		return "it does not know the requested server name (SNI)"
	}
	return "its log says why"
}

var errNoCertificate = errors.New("no certificate yet")

// classify gives an error of crypto/tls its reason. That package has few types of
// errors: where a case is told by text, the test holds the text of this Go version.
func classify(err error) error {
	e := &Error{Reason: Violation, Err: err}
	var op *net.OpError
	text := err.Error()
	switch {
	case errors.Is(err, errNoCertificate):
		e.Reason = NoCertificate
	case is[*identity.PeerError](err), is[x509.UnknownAuthorityError](err), is[x509.CertificateInvalidError](err),
		is[x509.HostnameError](err), strings.HasPrefix(text, "none of the names in the "),
		text == "the peer showed no certificate":
		e.Reason = PeerRefused
	case errors.As(err, &op) && op.Op == "remote error":
		e.Reason = RefusedByPeer
		e.Alert = strings.TrimPrefix(op.Err.Error(), "tls: ")
	case is[stdtls.RecordHeaderError](err):
		e.Reason = NotTLS
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		e.Reason = Interrupted
	case strings.Contains(text, "unsupported versions"), strings.Contains(text, "unsupported protocol version"),
		strings.Contains(text, "selected unsupported protocol"), strings.Contains(text, "no supported versions"):
		e.Reason = NoSharedVersion
	case strings.Contains(text, "no cipher suite supported"), strings.Contains(text, "unsupported application protocol"),
		strings.Contains(text, "no key exchanges supported"), strings.Contains(text, "unsupported curve"),
		strings.Contains(text, "unsupported signature algorithm"), strings.Contains(text, "doesn't support any of the"):
		e.Reason = NoSharedParameters
	}
	return e
}

func is[E error](err error) bool {
	_, ok := errors.AsType[E](err)
	return ok
}
