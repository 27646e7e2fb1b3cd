package state

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	rawbufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/proxyproto"
	"github.com/weirmesh/weir/proxy/tls"
)

const (
	typePrefix       = "type.googleapis.com/"
	upstreamTLSURL   = typePrefix + "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
	downstreamTLSURL = typePrefix + "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
	upstreamProxyURL = typePrefix + "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport"
	rawBufferURL     = typePrefix + "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
)

// istioALPN is what a client offers towards a mesh sidecar.
const istioALPN = "istio"

// decodeUpstreamTransport returns nil for plaintext.
func (b *Builder) decodeUpstreamTransport(s *corev3.TransportSocket, auto autoName, path string) (*cluster.Transport, error) {
	if err := check(s, path); err != nil {
		return nil, err
	}
	switch s.GetTypedConfig().GetTypeUrl() {
	case rawBufferURL:
		return nil, unpack(s.GetTypedConfig(), &rawbufferv3.RawBuffer{}, path)
	case "":
		if s.GetName() == "raw_buffer" || s.GetName() == "envoy.transport_sockets.raw_buffer" {
			return nil, nil
		}
	case upstreamTLSURL:
		u := &tlsv3.UpstreamTlsContext{}
		if err := unpack(s.GetTypedConfig(), u, path); err != nil {
			return nil, err
		}
		return b.clients(u, auto, path)
	case upstreamProxyURL:
		p := &proxyprotocolv3.ProxyProtocolUpstreamTransport{}
		if err := unpack(s.GetTypedConfig(), p, path); err != nil {
			return nil, err
		}
		t, err := b.decodeUpstreamTransport(p.GetTransportSocket(), auto, path+".transport_socket")
		if err != nil {
			return nil, err
		}
		if t == nil {
			t = &cluster.Transport{}
		}
		if t.Proxy != proxyproto.None {
			return nil, fmt.Errorf("%s.transport_socket: a PROXY protocol header inside another", path)
		}
		t.Proxy = proxyproto.V1
		if p.GetConfig().GetVersion() == corev3.ProxyProtocolConfig_V2 {
			t.Proxy = proxyproto.V2
		}
		t.Key += fmt.Sprintf("|proxy %d", t.Proxy)
		return t, nil
	}
	return nil, fmt.Errorf("%s: transport socket %q is not supported", path, s.GetName())
}

// What Istio's clients offer a sidecar for HTTP (filter istio.alpn), by version.
var (
	meshHTTP1      = []string{"istio-http/1.1", istioALPN, "http/1.1"}
	meshHTTP2      = []string{"istio-h2", istioALPN, "h2"}
	meshNegotiated = []string{"istio-h2", "istio-http/1.1", istioALPN, "h2", "http/1.1"}
)

// withoutHTTP2 is for those who are going to speak HTTP/1.1.
func withoutHTTP2(alpn []string) []string {
	return slices.DeleteFunc(slices.Clone(alpn), func(p string) bool { return p == "h2" || p == "istio-h2" })
}

// autoName is UpstreamHttpProtocolOptions: the server is asked for, and has to prove, the name
// that requests are for. Envoy takes it of each request, here it is the cluster's service: the
// same, but for services that stand for many names.
type autoName struct {
	host       string
	sni, names bool
}

// complete sets what the transport itself leaves open.
func (a autoName) complete(o *tls.ClientOptions, path string) error {
	asks, proves := a.sni && o.SNI == "", a.names && len(o.Trust.Names) == 0 && !o.Trust.SkipVerify
	if !asks && !proves {
		return nil
	}
	if a.host == "" || strings.HasPrefix(a.host, "*") {
		return fmt.Errorf("%s: auto_sni and auto_san_validation need a name, and the cluster stands for many (%q): give sni, and the names to accept", path, a.host)
	}
	ip, err := netip.ParseAddr(a.host)
	if asks && err != nil {
		o.SNI = a.host // an address is no server name (RFC 6066, section 3)
	}
	switch {
	case !proves:
	case err == nil:
		o.Trust.Names = tls.Names{{Exact: ip.String(), Kind: tls.IPName}}
	default:
		o.Trust.Names = tls.Names{{Exact: a.host, Kind: tls.DNSName}}
	}
	return nil
}

// clients makes the contexts of an UpstreamTlsContext.
func (b *Builder) clients(u *tlsv3.UpstreamTlsContext, auto autoName, path string) (*cluster.Transport, error) {
	o, err := b.clientOptions(u, path)
	if err != nil {
		return nil, err
	}
	if err := auto.complete(&o, path); err != nil {
		return nil, err
	}
	t := &cluster.Transport{SNI: o.SNI, ALPN: o.ALPN, Names: o.Trust.Names, Istio: slices.Contains(o.ALPN, istioALPN)}
	if t.Key, err = b.transportKey(u); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if t.TCP, err = tls.NewClient(o); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	offers := func(mesh, own, fallback []string) *tls.Client {
		switch {
		case t.Istio:
			own = mesh
		case len(own) == 0:
			own = fallback
		}
		return t.TCP.With(t.SNI, own)
	}
	t.HTTP = offers(meshHTTP1, withoutHTTP2(t.ALPN), nil)
	t.HTTP2 = offers(meshHTTP2, t.ALPN, []string{"h2"})
	t.Negotiated = offers(meshNegotiated, t.ALPN, []string{"h2", "http/1.1"})
	return t, nil
}

// transportKey is equal for transports whose connections are interchangeable. The names
// accepted from workloads of the mesh are left out: a connection made under a former list was
// right when it was made, and lists change whenever a workload with a further service
// account joins. Of servers outside somebody wrote them down.
func (b *Builder) transportKey(u *tlsv3.UpstreamTlsContext) (string, error) {
	u = proto.CloneOf(u)
	if v, sds := validation(u.GetCommonTlsContext()); v != nil && sds != nil && b.own(sds.GetName(), ownRoots) {
		v.MatchTypedSubjectAltNames, v.MatchSubjectAltNames = nil, nil
	}
	text, err := proto.MarshalOptions{Deterministic: true}.Marshal(u)
	sum := sha256.Sum256(text) // it may hold a private key
	return string(sum[:16]), err
}

// maxDataSource bounds a file named by configuration: certificates and bodies are small.
const maxDataSource = 1 << 20

func dataSource(d *corev3.DataSource, path string) ([]byte, error) {
	switch s := d.GetSpecifier().(type) {
	case nil:
		return nil, nil
	case *corev3.DataSource_InlineBytes:
		return s.InlineBytes, nil
	case *corev3.DataSource_InlineString:
		return []byte(s.InlineString), nil
	case *corev3.DataSource_Filename:
		b, err := os.ReadFile(s.Filename)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if len(b) > maxDataSource {
			return nil, fmt.Errorf("%s: %s has %d bytes, at most %d", path, s.Filename, len(b), maxDataSource)
		}
		return b, nil
	default:
		return nil, fmt.Errorf("%s: only filename, inline_bytes and inline_string are supported", path)
	}
}
