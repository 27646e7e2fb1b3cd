package proxy

import (
	"bufio"
	"context"
	stdtls "crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/internal/locked"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/tls/tlstest"
)

const filesConfig = `
static_resources:
  listeners:
  - name: secure
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context: {tls_certificates: [{certificate_chain: {filename: DIR/chain.pem}, private_key: {filename: DIR/key.pem}}]}
      filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /through}, route: {cluster: app}}, {match: {prefix: /}, direct_response: {status: 200}}]}]}
  clusters:
  - name: app
    type: STATIC
    load_assignment: {cluster_name: app, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: APP}}}}]}]}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        common_http_protocol_options: {max_requests_per_connection: 1}
        explicit_http_config: {http_protocol_options: {}}
    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: app.example
        common_tls_context: {validation_context: {trusted_ca: {filename: DIR/roots.pem}}}
`

// Who renews certificates in files has new connections use them, without a word to the proxy, and none of the open ones is closed. Half
// of a pair, files that are gone and roots that are none leave what was before in force.
func TestCertificatesInFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, text []byte) {
		t.Helper()
		// As certificate managers do: another file takes the place of the one before.
		if err := os.WriteFile(filepath.Join(dir, "new"), text, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "new"), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	ours, theirs, others := tlstest.New(t), tlstest.New(t), tlstest.New(t)
	chain, key := tlstest.PEM(t, ours.Server("first.example"))
	write("chain.pem", chain)
	write("key.pem", key)
	write("roots.pem", others.PEM())
	app, err := stdtls.Listen("tcp", "127.0.0.1:0", &stdtls.Config{Certificates: []stdtls.Certificate{*theirs.Server("app.example")}})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0)}
	go func() { _ = server.Serve(app) }()
	defer server.Close()

	text := strings.NewReplacer("DIR", dir, "APP", fmt.Sprint(app.Addr().(*net.TCPAddr).Port)).Replace(filesConfig)
	json, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	b := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(json, b); err != nil {
		t.Fatal(err)
	}
	p, log := running(t, b)
	at, ok := p.group.Local(loop.TCP(netip.MustParseAddrPort("127.0.0.1:0")))
	if !ok {
		t.Fatal("no listener")
	}
	dial := func() *stdtls.Conn {
		t.Helper()
		c, err := stdtls.Dial("tcp", at.String(), &stdtls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	ask := func(c net.Conn, path string) int {
		t.Helper()
		if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path); err != nil {
			t.Fatal(err)
		}
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		return r.StatusCode
	}
	kept := dial()
	check := func(when, name string, through int) {
		t.Helper()
		p.state.lookAtFiles()
		p.each(func(*worker) {}) // they have come to it
		c := dial()
		if got := c.ConnectionState().PeerCertificates[0].DNSNames[0]; got != name {
			t.Errorf("%s: new connections are shown %s, want %s", when, got, name)
		}
		if got := ask(c, "/through"); got != through {
			t.Errorf("%s: a call answers %d, want %d", when, got, through)
		}
		if got := ask(kept, "/"); got != 200 {
			t.Errorf("%s: an open connection answers %d", when, got)
		}
	}
	check("at first", "first.example", 503)
	write("roots.pem", theirs.PEM())
	check("roots that know the application's certificate", "first.example", 200)
	chain, key = tlstest.PEM(t, ours.Server("second.example"))
	write("chain.pem", chain)
	check("half of the new pair", "first.example", 200)
	if !strings.Contains(log.String(), "have changed and are not used") {
		t.Errorf("nothing is said of half a pair: %s", log.String())
	}
	write("key.pem", key)
	check("the other half", "second.example", 200)
	if err := os.Remove(filepath.Join(dir, "key.pem")); err != nil {
		t.Fatal(err)
	}
	write("roots.pem", []byte("none"))
	check("without a key, and roots that are none", "second.example", 200)
	write("key.pem", key)
	write("roots.pem", others.PEM())
	check("the key is back, and other roots", "second.example", 503)
}

// running is a proxy of a bootstrap that is ready, until the test ends, and what it logs.
func running(t *testing.T, static *bootstrapv3.Bootstrap) (*Proxy, *locked.Buffer) {
	t.Helper()
	log := &locked.Buffer{}
	p, err := New(Options{Static: static, Log: slog.New(slog.NewTextHandler(log, nil)), Level: &slog.LevelVar{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	waitFor(t, func() bool { return p.Ready() == nil })
	return p, log
}
