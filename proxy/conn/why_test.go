package conn

import (
	"errors"
	"syscall"
	"testing"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/tls"
)

// Every way in which a connection to an endpoint ends has its cause, and those that look alike to a client are told apart.
func TestUpstream(t *testing.T) {
	refused := &tls.Error{Reason: tls.RefusedByPeer, Alert: "certificate required", Err: errors.New("x")}
	for _, c := range []struct {
		why  Why
		want causes.Cause
		text string
	}{
		{Why{Kind: ConnectRefused, Errno: syscall.ECONNREFUSED}, causes.UpstreamConnectRefused, "delayed connect error: Connection refused"},
		{Why{Kind: ConnectFailed, Errno: syscall.EHOSTUNREACH}, causes.UpstreamConnectFailed, "delayed connect error: No route to host"},
		{Why{Kind: ConnectTimeout}, causes.UpstreamConnectTimeout, ""},
		{Why{Kind: HandshakeTimeout}, causes.UpstreamConnectTimeout, "the connection was accepted, and the TLS handshake was not done in time"},
		{Why{Kind: HandshakeFailed, Err: refused}, causes.UpstreamTLSRefused, refused.Error()},
		{Why{Kind: HandshakeFailed, Err: &tls.Error{Reason: tls.PeerRefused, Err: errors.New("expired")}}, causes.UpstreamCertificateRefused, "expired"},
		{Why{Kind: HandshakeFailed, Err: &tls.Error{Reason: tls.Interrupted}}, causes.UpstreamTLSFailed, "the peer closed the connection during the TLS handshake, without a reason"},
		{Why{Kind: RecordFailed, Err: refused}, causes.UpstreamTLSEnded, refused.Error()},
		{Why{Kind: ResetByPeer, Errno: syscall.ECONNRESET}, causes.UpstreamConnectionReset, ""},
		{Why{Kind: Finished}, causes.UpstreamTerminated, ""},
		{Why{Kind: LoopEnded}, causes.InternalError, ""},
	} {
		if got, text := c.why.Upstream(); got != c.want || text != c.text {
			t.Errorf("%s: %s %q, want %s %q", c.why, got.Name(), text, c.want.Name(), c.text)
		}
	}
	if got := handshake(&tls.Error{Reason: tls.NotTLS}); got != causes.UpstreamNotTLS {
		t.Error(got.Name())
	}
	if got := handshake(&tls.Error{Reason: tls.NoCertificate}); got != causes.NoOwnCertificate {
		t.Error(got.Name())
	}
}
