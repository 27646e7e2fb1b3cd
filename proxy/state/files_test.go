package state

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/weirmesh/weir/proxy/tls/tlstest"
	"github.com/weirmesh/weir/xds/resource"
)

// A chain whose certificate is not there yet takes nobody, until it comes. Of two, each is served as soon as its own is there, and what nobody uses
// any more is not looked at.
func TestFilesThatCome(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	chain := func(name string) string {
		return `filter_chain_match { server_names: "` + name + `" } transport_socket { name: "tls" typed_config { [type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext] {
			common_tls_context { tls_certificates { certificate_chain { filename: "` + at(name+".pem") + `" } private_key { filename: "` + at(name+".key") + `" } } } } } }
		filters { name: "tcp" typed_config { [type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy] { stat_prefix: "x" cluster: "c" } } }`
	}
	b := newBuilder()
	_, _, err := b.Apply(update(t, resource.ListenerType, `name: "l" address { socket_address { address: "127.0.0.1" port_value: 443 } }
		listener_filters { name: "envoy.filters.listener.tls_inspector" typed_config { [type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector] {} } }
		filter_chains { `+chain("a")+` } filter_chains { `+chain("b")+` }`))
	if _, ok := errors.AsType[*UnservedError](err); !ok {
		t.Fatal(err)
	}
	look := func(want string, unserved int, news bool) {
		t.Helper()
		next, _, _, err := b.Reread(LookAt(b.Files()))
		if (next != nil) != news {
			t.Errorf("%s: news: %v, want %v (%v)", want, next != nil, news, err)
		}
		if got := b.cur.listeners["l"].unserved; got != unserved {
			t.Errorf("%s: %d chains take nobody, want %d", want, got, unserved)
		}
	}
	write := func(name string) {
		t.Helper()
		crt, key := tlstest.PEM(t, tlstest.New(t).Server(name))
		for file, text := range map[string][]byte{name + ".pem": crt, name + ".key": key} {
			if err := os.WriteFile(at(file), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	look("nothing has come", 2, false)
	write("a")
	look("one has come", 1, true)
	write("b")
	look("both are there", 0, true)
	look("nothing has changed", 0, false)
	if n := len(b.Files()); n != 4 {
		t.Errorf("%d files are looked at", n)
	}
	if _, _, err := b.Apply(Update{TypeURL: resource.ListenerType, Removed: []string{"l"}}); err != nil {
		t.Fatal(err)
	}
	write("a")
	if next, _, _, err := b.Reread(LookAt(b.Files())); next != nil || err != nil || len(b.Files()) != 0 {
		t.Errorf("of a listener that is gone %d files are looked at (%v)", len(b.Files()), err)
	}
}
