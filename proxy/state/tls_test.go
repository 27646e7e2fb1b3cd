package state

import (
	"crypto/sha256"
	stdtls "crypto/tls"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/tls"
	"github.com/weirmesh/weir/proxy/tls/tlstest"
	"github.com/weirmesh/weir/xds/resource"
)

// quoted writes bytes as a string of prototext.
func quoted(b []byte) string {
	s, err := prototext.Marshal(&corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}})
	if err != nil {
		panic(err)
	}
	return "{" + string(s) + "}"
}

func parse[M proto.Message](t *testing.T, m M, text string) M {
	t.Helper()
	if err := prototext.Unmarshal([]byte(text), m); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return m
}

func TestServerOptions(t *testing.T) {
	ca := tlstest.New(t)
	rsa, ecdsa := ca.ServerRSA("a.example"), ca.Server("a.example")
	b := newBuilder()
	pem := func(c *stdtls.Certificate) string {
		chain, key := tlstest.PEM(t, c)
		return "{ certificate_chain " + quoted(chain) + " private_key " + quoted(key) + " }"
	}
	key := make([]byte, 80)
	key[0] = 1
	sum := sha256.Sum256([]byte("x"))
	hash := fmt.Sprintf("%x", sum)
	colons := ""
	for i := range sum {
		colons += fmt.Sprintf(":%02X", sum[i])
	}
	text := `require_client_certificate {} require_sni { value: true } session_timeout { seconds: 60 } session_ticket_keys { keys ` + quoted(key) + ` }
		common_tls_context {
			tls_params { tls_minimum_protocol_version: TLSv1_2 tls_maximum_protocol_version: TLSv1_3 ecdh_curves: "X25519MLKEM768" ecdh_curves: "P-256"
				cipher_suites: "[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]" cipher_suites: "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256" }
			tls_certificates ` + pem(rsa) + ` tls_certificates ` + pem(ecdsa) + `
			validation_context { trusted_ca ` + quoted(ca.PEM()) + ` crl ` + quoted(ca.Revoke(time.Now().Add(time.Hour))) + ` only_verify_leaf_cert_crl: true
				verify_certificate_hash: "` + hash + `" verify_certificate_hash: "` + colons[1:] + `" verify_certificate_spki: "` + base64.StdEncoding.EncodeToString(sum[:]) + `"
				match_typed_subject_alt_names { san_type: DNS matcher { exact: "a" } }
				match_typed_subject_alt_names { san_type: URI matcher { safe_regex { regex: "spiffe://x/.*|y" } } }
				match_typed_subject_alt_names { san_type: EMAIL matcher { suffix: "@x" ignore_case: true } }
				match_subject_alt_names { contains: "c" } } }`
	o, err := b.serverOptions(parse(t, &tlsv3.DownstreamTlsContext{}, text), "x")
	if err != nil {
		t.Fatal(err)
	}
	if o.MinVersion != tls.TLS12 || o.MaxVersion != tls.TLS13 || !o.RequireSNI || !o.Tickets || o.TicketLifetime != time.Minute || len(o.TicketKeys) != 1 ||
		o.Clients != tls.OptionalClientCert || len(o.Certificates) != 2 || o.Trust.Roots == nil || o.Trust.Revoked == nil || !o.Trust.RevokedLeafOnly {
		t.Errorf("options %+v", o)
	}
	if d := cmp.Diff([]stdtls.CurveID{stdtls.X25519MLKEM768, stdtls.CurveP256}, o.Curves); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]uint16{stdtls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, stdtls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
		stdtls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, stdtls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}, o.CipherSuites); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([][32]byte{sum, sum}, o.Trust.Hashes); d != "" || len(o.Trust.Keys) != 1 {
		t.Error(d)
	}
	if got := fmt.Sprint(o.Trust.Names); got != "one of DNS:a, URI:/^(?:spiffe://x/.*|y)$/, email:*@x, *c*" || !o.Trust.Names[2].IgnoreCase {
		t.Error(got)
	}
	if _, err := tls.NewServer(o); err != nil {
		t.Error(err)
	}
}

func TestClientOptions(t *testing.T) {
	b := newBuilder()
	for text, sessions := range map[string]int{"": sessionsAnEndpoint, "max_session_keys {}": 0, "max_session_keys { value: 3 }": 3} {
		o, err := b.clientOptions(parse(t, &tlsv3.UpstreamTlsContext{}, text+` common_tls_context { tls_params { cipher_suites: "ECDHE-RSA-AES256-GCM-SHA384" ecdh_curves: "P-384" } }`), "x")
		if err != nil || o.Sessions != sessions || !o.Trust.SkipVerify || len(o.CipherSuites) != 1 || len(o.Curves) != 1 {
			t.Errorf("%q: %+v, %v", text, o, err)
		}
	}
	// Connections survive a change of names, and nothing else.
	ask := func(text string) string {
		tr, err := b.clients(parse(t, &tlsv3.UpstreamTlsContext{}, `sni: "a" common_tls_context { combined_validation_context {
			default_validation_context { `+text+` } validation_context_sds_secret_config { name: "ROOTCA" } } }`), autoName{}, "x")
		if err != nil {
			t.Fatal(err)
		}
		return tr.Key
	}
	one := ask(`match_typed_subject_alt_names { san_type: URI matcher { exact: "a" } }`)
	if one != ask(`match_typed_subject_alt_names { san_type: URI matcher { exact: "b" } }`) || one == ask("verify_certificate_hash: \""+strings.Repeat("00", 32)+"\"") {
		t.Error("keys of transports")
	}
}

// Trust domains with roots of their own come beside the mesh's; they are a trust of another kind, so that connections end with them.
func TestForeignTrustDomains(t *testing.T) {
	ca := tlstest.New(t)
	b := newBuilder()
	clients := func(text string) (string, error) {
		tr, err := b.clients(parse(t, &tlsv3.UpstreamTlsContext{}, `sni: "a" common_tls_context { combined_validation_context { default_validation_context { `+text+` } validation_context_sds_secret_config { name: "ROOTCA" } } }`), autoName{}, "x")
		if err != nil {
			return "", err
		}
		return tr.Key, nil
	}
	spiffe := func(domains string) string {
		return `custom_validator_config { name: "envoy.tls.cert_validator.spiffe" typed_config { [type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig] { ` + domains + ` } } }`
	}
	bundle := ` trust_bundle ` + quoted(ca.PEM())
	none, err := clients("")
	if err != nil {
		t.Fatal(err)
	}
	if with, err := clients(spiffe(`trust_domains { name: "partner.example"` + bundle + ` }`)); err != nil || with == none {
		t.Errorf("%v, another key: %v", err, with != none)
	}
	for _, bad := range []struct{ text, want string }{
		{spiffe(`trust_domains { name: "a"` + bundle + ` } trust_domains { name: "a"` + bundle + ` }`), `trust_domains[1].name: "a" is no trust domain, or was named before`},
		{spiffe(`trust_domains { name: "a" }`), "trust_domains[0].trust_bundle: "},
		{spiffe(`trust_bundles { inline_string: "{}" }`), "trust_bundles: field is not supported"},
	} {
		if _, err := clients(bad.text); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%v, want %q", err, bad.want)
		}
	}
	_, err = b.clients(parse(t, &tlsv3.UpstreamTlsContext{}, `sni: "a" common_tls_context { validation_context { trusted_ca `+quoted(ca.PEM())+spiffe(`trust_domains { name: "a"`+bundle+` }`)+` } }`), autoName{}, "x")
	if err == nil || !strings.Contains(err.Error(), "only beside the mesh's roots") {
		t.Errorf("%v", err)
	}
}

// Where the transport leaves the server's name open and is to find it, it is the service's.
func TestAutoName(t *testing.T) {
	ca := quoted(tlstest.New(t).PEM())
	for _, tc := range []struct{ name, transport, auto, sni, names, err string }{
		{"outbound|443||api.example.com", "validation_context { trusted_ca " + ca + " }", "auto_sni: true auto_san_validation: true", "api.example.com", "DNS:api.example.com", ""},
		{"outbound|443||10.0.0.1", "validation_context { trusted_ca " + ca + " }", "auto_sni: true auto_san_validation: true", "", "IP:10.0.0.1", ""},
		{"outbound|443||api.example.com", "", "auto_sni: true auto_san_validation: true", "api.example.com", "any identity of the mesh", ""},
		{"outbound|443||*.example.com", "validation_context { trusted_ca " + ca + " match_typed_subject_alt_names { san_type: DNS matcher { exact: \"a\" } } }", "auto_san_validation: true", "", "DNS:a", ""},
		{"outbound|443||*.example.com", "validation_context { trusted_ca " + ca + " }", "auto_san_validation: true", "", "", "the cluster stands for many"},
		{"outbound|443||*.example.com", "", "auto_sni: true", "", "", "the cluster stands for many"},
		{"x", "", `auto_sni: true override_auto_sni_header: "a"`, "", "", "override_auto_sni_header: field is not supported"},
	} {
		b := newBuilder()
		_, _, err := b.Apply(update(t, resource.ClusterType, `name: "`+tc.name+`" type: STATIC
			typed_extension_protocol_options { key: "envoy.extensions.upstreams.http.v3.HttpProtocolOptions" value { [type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions] {
				upstream_http_protocol_options { `+tc.auto+` } explicit_http_config { http_protocol_options {} } } } }
			transport_socket { name: "tls" typed_config { [type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext] { common_tls_context { `+tc.transport+` } } } }
			load_assignment { endpoints { lb_endpoints { endpoint { address { socket_address { address: "10.0.0.2" port_value: 443 } } } } } }`))
		if tc.err != "" {
			if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), "\u00a0", " "), tc.err) {
				t.Errorf("%s, %s: %v, want %q", tc.name, tc.auto, err, tc.err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		tr := b.State().ClusterNamed(tc.name).Endpoints[0].Transport.Load()
		if tr.TCP.SNI() != tc.sni || tr.Names.String() != tc.names {
			t.Errorf("%s: asks for %q, accepts %v", tc.name, tr.TCP.SNI(), tr.Names)
		}
	}
}

// What cannot be done as it is asked for is refused by its path.
func TestRefusedTLS(t *testing.T) {
	ca := tlstest.New(t)
	chain, key := tlstest.PEM(t, ca.Server("a"))
	pem := "certificate_chain " + quoted(chain) + " private_key " + quoted(key)
	for _, tc := range []struct{ text, want string }{
		{`common_tls_context { tls_params { tls_minimum_protocol_version: TLSv1_1 } }`, "x.tls_params.tls_minimum_protocol_version: TLSv1_1 is too old"},
		{`common_tls_context { tls_params { ecdh_curves: "P-256" ecdh_curves: "X448" } }`, `x.tls_params.ecdh_curves[1]: "X448" is not supported`},
		{`common_tls_context { tls_params { cipher_suites: "DES-CBC3-SHA" } }`, `x.tls_params.cipher_suites[0]: "DES-CBC3-SHA" is not supported`},
		{`common_tls_context { tls_params { signature_algorithms: "ecdsa_secp256r1_sha256" } }`, "x.common_tls_context.tls_params.signature_algorithms: field is not supported"},
		{`common_tls_context { tls_certificates { ` + pem + ` password { inline_string: "p" } } }`, "x.common_tls_context.tls_certificates[0].password: field is not supported"},
		{`common_tls_context { tls_certificates { certificate_chain ` + quoted(chain) + ` } }`, "x.tls_certificates[0]: certificate and key: "},
		{`common_tls_context { tls_certificates { ` + pem + ` } tls_certificate_sds_secret_configs { name: "default" } }`, "x.tls_certificate_sds_secret_configs[0]: the workload's own certificate is shown alone"},
		{`common_tls_context { validation_context { allow_expired_certificate: true } }`, "x.common_tls_context.validation_context.allow_expired_certificate: field is not supported"},
		{`common_tls_context { validation_context { max_verify_depth { value: 1 } } }`, "x.common_tls_context.validation_context.max_verify_depth: field is not supported"},
		{`common_tls_context { validation_context { verify_certificate_hash: "abcd" } }`, `x.validation_context.verify_certificate_hash[0]: "abcd" is no SHA-256 sum`},
		{`common_tls_context { validation_context { verify_certificate_spki: "????" } }`, `x.validation_context.verify_certificate_spki[0]: "????" is no SHA-256 sum`},
		{`common_tls_context { validation_context { crl { inline_string: "no" } } }`, "x.validation_context.crl: revocation list 1: "},
		{`common_tls_context { validation_context { trusted_ca { inline_string: "no" } } }`, "x.validation_context.trusted_ca: holds no certificate in PEM"},
		{`common_tls_context { validation_context { match_typed_subject_alt_names { san_type: OTHER_NAME matcher { exact: "a" } } } }`, "x.validation_context.match_typed_subject_alt_names[0].san_type: OTHER_NAME is not supported"},
		{`common_tls_context { validation_context { match_typed_subject_alt_names { san_type: DNS matcher { } } } }`, "x.validation_context.match_typed_subject_alt_names[0].matcher: one of exact"},
		{`common_tls_context { validation_context { match_typed_subject_alt_names { san_type: DNS matcher { safe_regex { regex: "(" } } } } }`, "x.validation_context.match_typed_subject_alt_names[0].matcher.safe_regex: "},
		{`common_tls_context { combined_validation_context { default_validation_context { trust_chain_verification: ACCEPT_UNTRUSTED } validation_context_sds_secret_config { name: "ROOTCA" } } }`,
			"x.validation_context: peers of the mesh are judged by its roots (ROOTCA); a trusted_ca"},
		{`session_ticket_keys { keys { inline_string: "short" } }`, "x.session_ticket_keys.keys[0]: a key is 80 random bytes, this one has 5"},
		{`session_ticket_keys_sds_secret_config { name: "k" }`, "x.session_ticket_keys_sds_secret_config: field is not supported"},
		{`ocsp_staple_policy: MUST_STAPLE`, "x.ocsp_staple_policy: field is not supported"},
	} {
		m := parse(t, &tlsv3.DownstreamTlsContext{}, tc.text)
		err := check(m, "x")
		if err == nil {
			_, err = newBuilder().serverOptions(m, "x")
		}
		if err == nil || !strings.HasPrefix(strings.ReplaceAll(err.Error(), "\u00a0", " "), tc.want) {
			t.Errorf("%s:\n%v, want\n%s", tc.text, err, tc.want)
		}
	}
}

// A validation context that comes as a secret is joined with the one in place.
func TestSecretValidation(t *testing.T) {
	ca := tlstest.New(t)
	b := newBuilder()
	apply(t, b, update(t, resource.SecretType,
		`name: "ca" validation_context { trusted_ca `+quoted(ca.PEM())+` crl `+quoted(ca.Revoke(time.Now().Add(time.Hour)))+` match_typed_subject_alt_names { san_type: URI matcher { exact: "b" } } }`))
	o, err := b.serverOptions(parse(t, &tlsv3.DownstreamTlsContext{}, `common_tls_context { combined_validation_context {
		default_validation_context { match_typed_subject_alt_names { san_type: DNS matcher { exact: "a" } } } validation_context_sds_secret_config { name: "ca" } } }`), "x")
	if err != nil || o.Trust.Revoked == nil || o.Trust.Roots == nil || fmt.Sprint(o.Trust.Names) != "one of DNS:a, URI:b" {
		t.Errorf("%+v, %v", o.Trust, err)
	}
	if _, _, err := b.Apply(update(t, resource.SecretType, `name: "bad" validation_context { crl { inline_string: "no" } }`)); err == nil || !strings.HasPrefix(err.Error(), "secret bad.validation_context.crl: ") {
		t.Errorf("a damaged secret: %v", err)
	}
}

// A cluster whose TLS comes as secrets refuses calls until they have come, and is made anew when they change; those that
// name no secret stay as they are.
func TestClientSecrets(t *testing.T) {
	const name = "outbound|443||web.example"
	ca := tlstest.New(t)
	b := newBuilder()
	s, _ := apply(t, b, update(t, resource.ClusterType, `name: "`+name+`" type: STRICT_DNS transport_socket { name: "envoy.transport_sockets.tls" typed_config {
		[type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext] { sni: "web.example" common_tls_context { combined_validation_context {
			default_validation_context { match_typed_subject_alt_names { san_type: DNS matcher { exact: "web.example" } } } validation_context_sds_secret_config { name: "web-cacert" } } } } } }`,
		`name: "other" type: STRICT_DNS`))
	of := func(s *State, name string) *cluster.Cluster { return s.Cluster(s.byName[name]) }
	other := of(s, "other")
	if c := of(s, name); c.Refused != "secret web-cacert has not come" || !c.Awaited {
		t.Errorf("before the secret: %q, %t", c.Refused, c.Awaited)
	}
	s, _ = apply(t, b, Update{TypeURL: resource.SecretType, Removed: []string{"web-cacert"}, Absent: []string{"web-cacert"}})
	if c := of(s, name); c.Refused != "secret web-cacert does not exist" || c.Awaited {
		t.Errorf("told that there is none: %q, %t", c.Refused, c.Awaited)
	}
	if got := b.Wanted(nil).Secrets; len(got) != 1 || got[0].Name != "web-cacert" {
		t.Errorf("wanted: %v", got)
	}
	secret := update(t, resource.SecretType, `name: "web-cacert" validation_context { trusted_ca `+quoted(ca.PEM())+` }`)
	s, _ = apply(t, b, secret)
	first := of(s, name)
	if first.Awaited || first.Refused != "" || len(first.Transports) != 1 || first.Transports[0].Transport.TCP == nil {
		t.Errorf("with the secret: %q, %d ways", first.Refused, len(first.Transports))
	}
	s, _ = apply(t, b, secret)
	if now := of(s, name); now.Transports[0].Transport.TCP == first.Transports[0].Transport.TCP || now.Transports[0].Transport.Key != first.Transports[0].Transport.Key {
		t.Error("a new secret must be for new connections, and leave those that there are")
	}
	if of(s, "other") != other {
		t.Error("another cluster was made anew")
	}
	s, _ = apply(t, b, Update{TypeURL: resource.SecretType, Removed: []string{"web-cacert"}})
	if of(s, name).Refused == "" {
		t.Error("the secret is gone")
	}
}
