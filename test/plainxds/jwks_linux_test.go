package plainxds

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	stdtls "crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	"github.com/go-jose/go-jose/v4"

	"github.com/weirmesh/weir/internal/jwt"
)

// issuer signs tokens and shows its keys.
type issuer struct {
	asked atomic.Int64
	keys  atomic.Pointer[string] // what it answers; nil: 500
	kid   int
	key   *ecdsa.PrivateKey
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.asked.Add(1)
	k := i.keys.Load()
	if k == nil || r.Host != "issuer.example" || r.URL.String() != "/keys?v=1" {
		http.Error(w, "no keys here", http.StatusInternalServerError)
		return
	}
	_, _ = w.Write([]byte(*k))
}

// rotate makes another key, and shows that alone.
func (i *issuer) rotate(t *testing.T) {
	t.Helper()
	var err error
	if i.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	i.kid++
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: fmt.Sprint(i.kid)}}})
	if err != nil {
		t.Fatal(err)
	}
	i.keys.Store(new(string(b)))
}

func (i *issuer) token(t *testing.T, claims string) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: fmt.Sprint(i.kid)}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	j, err := s.Sign([]byte(claims))
	if err != nil {
		t.Fatal(err)
	}
	text, err := j.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// The proxy fetches the keys of tokens through a cluster, keeps them over changes of configuration and while the issuer is away, and
// sees a rotation with the first token that names another key.
func TestRemoteKeys(t *testing.T) {
	p, i := newPlane(t, false), &issuer{}
	web := httptest.NewUnstartedServer(i)
	web.TLS = &stdtls.Config{Certificates: []stdtls.Certificate{*p.ca.Server("issuer.example")}}
	web.StartTLS()
	t.Cleanup(web.Close)
	_, p.vars["ISSUER"], _ = net.SplitHostPort(web.Listener.Addr().String())
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts, by the kernel, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	_, p.vars["STUCK"], _ = net.SplitHostPort(silent.Addr().String())
	p.vars["ROOTS"] = escaped(p.ca.PEM())
	i.rotate(t)
	p.publish(nil, "jwks.yaml")
	p.run()
	const claims = `{"iss":"good","sub":"jane"}`
	bearer := func() string { return "Bearer " + i.token(t, claims) }
	p.answers(map[string]string{":10110/x authorization=" + bearer(): "200 a /x jane"})
	expect := func(what, want string, header ...string) {
		t.Helper()
		if _, got := p.call("GET", ":10110/x", "", header...); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	expect("no token", "401 Jwt is missing")
	asked := i.asked.Load()
	for n := range 5 {
		p.vars["ANSWER"] = fmt.Sprint("v", n)
		p.publish(nil, "jwks.yaml")
		p.until("the change", func() error {
			r, got := p.call("GET", ":10110/x", "", "authorization", bearer())
			if got != "200 a /x jane" {
				t.Fatalf("during a change: %q", got)
			}
			if v := r.Header.Get("x-version"); v != p.vars["ANSWER"] {
				return fmt.Errorf("still %s", v)
			}
			return nil
		})
	}
	if n := i.asked.Load(); n != asked {
		t.Errorf("changes of configuration fetched keys %d times", n-asked)
	}
	i.rotate(t)
	known := bearer()
	p.answers(map[string]string{":10110/x authorization=" + known: "200 a /x jane"}) // at once, where half a second is enough for an answer
	i.keys.Store(nil)
	i.kid++
	expect("a key that nobody shows", "401 Jwks doesn't have key to match kid or alg from Jwt", "authorization", bearer())
	expect("the issuer is away", "200 a /x jane", "authorization", known)
	i.keys.Store(new(strings.Repeat(" ", jwt.MaxKeySet) + `{"keys":[]}`))
	i.kid++
	expect("an answer that is too large", "401 Jwks doesn't have key to match kid or alg from Jwt", "authorization", bearer())
	expect("what was known before", "200 a /x jane", "authorization", known)
	_, got := p.call("GET", ":10110/stuck", "", "x-stuck", i.token(t, `{"iss":"stuck"}`))
	if got != "401 Jwks remote fetch is failed" {
		t.Errorf("an issuer that never answers: %q", got)
	}
	if n := p.nacked(); len(n) > 0 {
		t.Errorf("refused: %v", n)
	}
}
