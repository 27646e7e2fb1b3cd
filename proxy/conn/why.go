package conn

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/tls"
)

// Why says how a connection ended. Errno or Err, where there is one, is the cause
// in the words of the system or of TLS.
type Why struct {
	Kind  Kind
	Errno syscall.Errno
	Err   error
}

// Kind is the closed set of ways in which a connection ends.
type Kind uint8

const (
	ClosedHere       Kind = iota // Close was called
	ResetHere                    // Reset was called
	Finished                     // both sides half-closed
	ResetByPeer                  // RST, or writing to a peer that is gone
	ConnectRefused               // nobody listens there
	ConnectFailed                // unreachable, no route, no permission, …
	ConnectTimeout               // no answer within Target.Timeout
	SocketFailed                 // no socket to be had: descriptors or ports used up, bind failed, …
	HandshakeFailed              // TLS: Err is a *tls.Error
	HandshakeTimeout             // TLS: not done in time
	RecordFailed                 // TLS: a record could not be opened, or the peer sent an alert; Err is a *tls.Error
	FlushTimeout                 // after Close, the peer did not take the rest of the output
	Failed                       // another error while reading or writing
	Panicked                     // a callback for this connection panicked
	LoopEnded                    // the worker stopped
)

var kinds = [...]string{
	ClosedHere:       "closed by the proxy",
	ResetHere:        "reset by the proxy",
	Finished:         "finished by both sides",
	ResetByPeer:      "reset by the peer",
	ConnectRefused:   "connection refused",
	ConnectFailed:    "connecting failed",
	ConnectTimeout:   "connecting timed out",
	SocketFailed:     "no socket could be made",
	HandshakeFailed:  "TLS handshake failed",
	HandshakeTimeout: "the TLS handshake timed out",
	RecordFailed:     "TLS failed",
	FlushTimeout:     "the peer did not take the rest of the output in time",
	Failed:           "failed",
	Panicked:         "a callback panicked",
	LoopEnded:        "the worker stopped",
}

func (k Kind) String() string {
	if int(k) < len(kinds) {
		return kinds[k]
	}
	return fmt.Sprintf("Kind(%d)", k)
}

// BeforeOpen reports that the connection never became usable: nothing can have
// reached the peer's application, so the work may be tried elsewhere.
func (k Kind) BeforeOpen() bool {
	switch k {
	case ConnectRefused, ConnectFailed, ConnectTimeout, SocketFailed, HandshakeFailed, HandshakeTimeout:
		return true
	}
	return false
}

// String is the kind, and the cause where there is one.
func (w Why) String() string {
	switch {
	case w.Err != nil:
		return w.Kind.String() + ": " + w.Err.Error()
	case w.Errno != 0:
		return w.Kind.String() + ": " + w.Errno.Error()
	}
	return w.Kind.String()
}

// Transport is what the transport had to say, in the words that tools know from Envoy's access logs where it says the
// same (UPSTREAM_TRANSPORT_FAILURE_REASON); "" if nothing.
func (w Why) Transport() string {
	switch {
	case w.Err != nil:
		return w.Err.Error()
	case w.Errno == 0:
		return ""
	case w.Kind == ConnectRefused || w.Kind == ConnectFailed:
		s := w.Errno.Error() // the C library's words, but for the first letter
		return "delayed connect error: " + strings.ToUpper(s[:1]) + s[1:]
	}
	return w.Errno.Error()
}

// Upstream is what the end of a connection to an endpoint means for who uses it, and what the transport had to say of it, unless
// the cause says it already.
func (w Why) Upstream() (c causes.Cause, transport string) {
	transport = w.Transport()
	switch w.Kind {
	case ConnectRefused:
		return causes.UpstreamConnectRefused, transport
	case ConnectFailed:
		return causes.UpstreamConnectFailed, transport
	case ConnectTimeout:
		return causes.UpstreamConnectTimeout, transport
	case SocketFailed:
		return causes.UpstreamNoSocket, transport
	case HandshakeFailed:
		return handshake(w.Err), transport
	case HandshakeTimeout:
		return causes.UpstreamConnectTimeout, "the connection was accepted, and the TLS handshake was not done in time"
	case RecordFailed:
		return causes.UpstreamTLSEnded, transport
	case Panicked, LoopEnded:
		return causes.InternalError, transport
	case ResetByPeer:
		return causes.UpstreamConnectionReset, ""
	}
	return causes.UpstreamTerminated, ""
}

func handshake(err error) causes.Cause {
	e, _ := errors.AsType[*tls.Error](err)
	if e == nil {
		return causes.UpstreamTLSFailed
	}
	switch e.Reason {
	case tls.PeerRefused:
		return causes.UpstreamCertificateRefused
	case tls.RefusedByPeer:
		return causes.UpstreamTLSRefused
	case tls.NotTLS:
		return causes.UpstreamNotTLS
	case tls.NoCertificate:
		return causes.NoOwnCertificate
	}
	return causes.UpstreamTLSFailed
}

func whyOf(e syscall.Errno) Why {
	k := Failed
	if e == syscall.ECONNRESET || e == syscall.EPIPE {
		k = ResetByPeer
	}
	return Why{Kind: k, Errno: e}
}
