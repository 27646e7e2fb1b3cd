package tls

import (
	"cmp"
	stdtls "crypto/tls"
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
	// Offered says what the peer offered, wanted or sent instead, where that is known.
	Offered string
	Err     error
}

func (e *Error) Error() string {
	switch e.Reason {
	case PeerRefused:
		return e.Err.Error()
	case RefusedByPeer:
		return fmt.Sprintf("the peer refused the connection with the TLS alert %q: %s", e.Alert, cmp.Or(e.Offered, remedy(e.Alert)))
	case NoCertificate:
		return "there is no certificate yet to show to the peer: the proxy's own identity was not obtained"
	case NotTLS:
		return "the peer does not speak TLS here" + e.instead() + ": one side is configured for TLS, the other for plaintext"
	case NoSharedVersion, NoSharedParameters:
		return "the two sides have no TLS parameters in common: " + e.Err.Error() + e.instead()
	case Interrupted:
		return "the peer closed the connection during the TLS handshake, without a reason"
	}
	return "the peer violated the TLS protocol: " + e.Err.Error()
}

func (e *Error) instead() string {
	if e.Offered == "" {
		return ""
	}
	return " (" + e.Offered + ")"
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

var (
	errNoCertificate = errors.New("no certificate yet")
	errNoSNI         = errors.New("the client names no server (SNI), and this one serves by name only")
)

// classify gives an error of crypto/tls its reason. That package has few types of
// errors: where a case is told by text, the test holds the text of this Go version.
func classify(err error) error {
	e := &Error{Reason: Violation, Err: err}
	var op *net.OpError
	text := err.Error()
	switch {
	case errors.Is(err, errNoCertificate):
		e.Reason = NoCertificate
	case is[*identity.PeerError](err), is[*refusal](err):
		e.Reason = PeerRefused
	case errors.As(err, &op) && op.Op == "remote error":
		e.Reason = RefusedByPeer
		e.Alert = strings.TrimPrefix(op.Err.Error(), "tls: ")
	case errors.Is(err, errNoSNI):
		e.Reason = NoSharedParameters
	case is[stdtls.RecordHeaderError](err):
		e.Reason = NotTLS
		header, _ := errors.AsType[stdtls.RecordHeaderError](err)
		e.Offered = fmt.Sprintf("it sent %q", header.RecordHeader[:])
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

// explain adds what the peer offered to an error about parameters.
func (n *handshake) explain(err error) error {
	e, ok := err.(*Error) //nolint:errorlint // classify makes nothing else
	if ok && n.wanted && e.Reason == RefusedByPeer {
		e.Offered = "it wants a client certificate and got none"
	}
	if !ok || n.hello == nil {
		return err
	}
	switch e.Reason {
	case NoSharedVersion:
		e.Offered = fmt.Sprintf("the client offers %s, this side takes %s to %s", listed(n.hello.SupportedVersions, stdtls.VersionName),
			stdtls.VersionName(n.config.MinVersion), stdtls.VersionName(n.config.MaxVersion))
	case NoSharedParameters:
		e.Offered = fmt.Sprintf("the client offers the cipher suites %s, the curves %s, the signature algorithms %s and the server name %q",
			listed(n.hello.CipherSuites, stdtls.CipherSuiteName), listed(n.hello.SupportedCurves, stdtls.CurveID.String),
			listed(n.hello.SignatureSchemes, stdtls.SignatureScheme.String), clip(n.hello.ServerName))
	}
	return err
}

// listed writes the first few of what a peer chose to send.
func listed[T any](all []T, text func(T) string) string {
	const most = 12
	var words []string
	for _, t := range all[:min(most, len(all))] {
		words = append(words, text(t))
	}
	if more := len(all) - most; more > 0 {
		words = append(words, fmt.Sprintf("%d more", more))
	}
	if len(words) == 0 {
		return "(none)"
	}
	return strings.Join(words, ", ")
}

func clip(s string) string { return s[:min(len(s), 256)] }
