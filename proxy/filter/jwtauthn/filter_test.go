package jwtauthn

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/weirmesh/weir/internal/jwt"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/route"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

type signer struct {
	kid string
	key crypto.Signer
}

func newSigner(kid string) signer {
	return signer{kid, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}
}

func (s signer) sign(claims string) string {
	j := must(jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: s.key, KeyID: s.kid}}, nil))
	return must(must(j.Sign([]byte(claims))).CompactSerialize())
}

func set(list ...signer) string {
	var out jose.JSONWebKeySet
	for _, s := range list {
		out.Keys = append(out.Keys, jose.JSONWebKey{Key: s.key.Public(), KeyID: s.kid})
	}
	return string(must(json.Marshal(out)))
}

// server is a proxy with a filter, that answers 200 with what it would have passed on.
type server struct {
	n    *mem.Net
	p    *mem.Peer
	seen string
	mute bool // seen is not kept
}

func newServer(t testing.TB, f *Filter) *server {
	t.Helper()
	s := &server{n: mem.New()}
	l := s.n.Loop(loop.Options{})
	w := http.NewWorker(http.Options{Loop: l})
	table := must(route.New("t", "1", false, []*route.VirtualHost{{Domains: []string{"*"}, Entries: []*route.Entry{{When: route.When{Path: "/", Per1M: 1e6}, Direct: &route.Direct{Status: 200}}}}}))
	tell := http.Stage{Request: func(x *http.Exchange) http.Verdict {
		if s.mute {
			return http.Continue
		}
		s.seen = string(x.Request.Path)
		for _, h := range x.Request.Headers.Fields() {
			if !slices.Contains([]string{"host", "x-request-id", "x-forwarded-proto", "x-forwarded-for"}, string(h.Name)) {
				s.seen += fmt.Sprintf(" %s=%s", h.Name, h.Value)
			}
		}
		if x.Request.Claims != nil {
			s.seen += " claims=" + string(must(json.Marshal(x.Request.Claims)))
		}
		return http.Continue
	}}
	cfg := &http.Config{Table: table, Stages: []http.Stage{http.Identify(), http.Match(), Stage(f), tell, http.Router()}}
	at := netip.MustParseAddrPort("10.0.0.1:80")
	p := l.Poller()
	fd, _ := p.Socket(loop.IPv4)
	p.Bind(fd, loop.TCP(at))
	if e := p.Listen(fd, 1); e != 0 {
		t.Fatal(e)
	}
	s.p = must(s.n.Dial(at))
	nfd, remote, e := p.Accept(fd)
	if e != 0 {
		t.Fatal(e)
	}
	c := conn.Accept(l, nfd, conn.Info{Remote: remote.AddrPort, Local: at}, nil)
	c.HandOver(w.Serve(c, cfg))
	return s
}

// get is the answer to a request: status, body, challenge.
func (s *server) get(path string, headers ...string) (status, body, challenge string) {
	s.seen = ""
	s.p.Send([]byte("GET " + path + " HTTP/1.1\r\nHost: a\r\n" + strings.Join(append(headers, "", ""), "\r\n")))
	s.n.Step()
	b, _ := s.p.Recv()
	head, body, _ := strings.Cut(string(b), "\r\n\r\n")
	for line := range strings.SplitSeq(head, "\r\n") {
		if v, ok := strings.CutPrefix(line, "www-authenticate: "); ok {
			challenge = v
		}
	}
	return strings.TrimPrefix(head[:min(len(head), 12)], "HTTP/1.1 "), body, challenge
}

// two is a filter with two issuers, as Istio's RequestAuthentications make it.
func two(sets *Sets, keys1, keys2 string) *Filter {
	one := &Provider{Issuer: "one", Audiences: []string{"aud.example"}, Keys: must(sets.Given(keys1)), Headers: []Header{{"authorization", "Bearer "}}, Params: []string{"access_token"},
		PayloadHeader: "x-payload", Claims: []ClaimHeader{{"x-user", []string{"sub"}}, {"x-level", []string{"r", "level"}}, {"x-list", []string{"list"}}}, Metadata: "payload", Spaced: []string{"scope"}, Skew: 60}
	other := &Provider{Issuer: "two", Keys: must(sets.Given(keys2)), Headers: []Header{{"x-token", "JWT "}}, Params: []string{"tok"}, Cookies: []string{"c"}, Metadata: "payload", Forward: true, Skew: 60}
	by := func(p *Provider) *Requirement { return &Requirement{Kind: ByProvider, Provider: p} }
	orNone := func(p *Provider) *Requirement {
		return &Requirement{Kind: Any, Of: []*Requirement{by(p), {Kind: AllowMissing, Providers: []*Provider{p}}}}
	}
	return &Filter{Preflight: true, Providers: []*Provider{one, other}, Rules: []Rule{{When: route.When{Path: "/", Per1M: 1e6},
		Requires: &Requirement{Kind: Any, Of: []*Requirement{by(one), by(other), {Kind: All, Of: []*Requirement{orNone(one), orNone(other)}}}}}}}
}

// Who has a valid token goes on, with what it says; who has none goes on without; everybody else is told what is wrong.
func TestTokens(t *testing.T) {
	k1, k2 := newSigner("k1"), newSigner("k2")
	s := newServer(t, two(NewSets(nil, nil), set(k1), set(k2)))
	now := mem.Epoch.Unix()
	good := fmt.Sprintf(`{"iss":"one","sub":"jane","aud":["x","https://aud.example/"],"exp":%d,"nbf":%d,"scope":"a b","r":{"level":7},"list":[1]}`, now+100, now-100)
	claims := func(edit ...string) string { return strings.NewReplacer(edit...).Replace(good) }
	token, token2 := k1.sign(good), k2.sign(`{"iss":"two","sub":"joe\r\nx-user: root"}`)
	payload := base64.RawURLEncoding.EncodeToString([]byte(good))
	list := base64.StdEncoding.EncodeToString([]byte("[1]"))
	says := ` x-payload=` + payload + ` x-user=jane x-level=7 x-list=` + list + ` claims={"payload":{"aud":["x","https://aud.example/"],"exp":` + fmt.Sprint(now+100) + `,"iss":"one","list":[1],"nbf":` + fmt.Sprint(now-100) + `,"r":{"level":7},"scope":["a","b"],"sub":"jane"}}`
	const says2 = ` claims={"payload":{"iss":"two","sub":"joe\r\nx-user: root"}}`
	for _, c := range []struct {
		name, path string
		headers    []string
		want       string // what is passed on, or status and text
	}{
		{"no token", "/", []string{"x: y"}, "/ x=y"},
		{"no token, and headers that a token would set", "/", []string{"x-user: root", "X-Payload: e30", "x-level: 9", "x: y", "x-user: again"}, "/ x=y"},
		{"a good one", "/", []string{"Authorization: Bearer " + token, "x: y"}, "/ x=y" + says},
		{"again", "/", []string{"Authorization: Bearer " + token, "x: y"}, "/ x=y" + says},
		{"and headers that it sets", "/", []string{"x-user: root", "Authorization: Bearer " + token}, "/" + says},
		{"two good ones, of which the first speaks", "/?access_token=" + k1.sign(claims("jane", "joe")), []string{"Authorization: Bearer " + token}, "/" + says},
		{"another scheme", "/", []string{"authorization: Basic " + token}, "/ authorization=Basic " + token},
		{"in the query", "/a?x=1&access_token=" + token + "&y=2", nil, "/a?x=1&y=2" + says},
		{"alone in the query", "/a?access_token=" + token, nil, "/a" + says},
		{"twice, once bad", "/a?access_token=" + token + "&access_token=eA.y.z", nil, "401 Jwt header is an invalid JSON"},
		{"two headers, one bad", "/", []string{"authorization: Bearer " + token, "authorization: Bearer x"}, "401 Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"},
		{"of the other issuer, forwarded", "/?tok=" + token2, nil, "/?tok=" + token2 + says2},
		{"in a header with a prefix", "/", []string{"x-token: JWT " + token2}, "/ x-token=JWT " + token2 + says2},
		{"in a cookie", "/", []string{"cookie: a=b; c=" + token2 + "; d=e"}, "/ cookie=a=b; c=" + token2 + "; d=e" + says2},
		{"of the other issuer, at the wrong place", "/", []string{"authorization: Bearer " + token2}, "401 Jwt issuer is not configured"},
		{"nobody's", "/", []string{"authorization: Bearer " + k1.sign(claims(`"one"`, `"three"`))}, "401 Jwt issuer is not configured"},
		{"expired", "/", []string{"authorization: Bearer " + k1.sign(claims(fmt.Sprint(now+100), fmt.Sprint(now-60)))}, "401 Jwt is expired"},
		{"expired just now", "/", []string{"authorization: Bearer " + k1.sign(claims(fmt.Sprint(now+100), fmt.Sprint(now-58), `"list":[1]`, `"list":null`, `,"r":{"level":7}`, ``))}, "200"},
		{"not yet", "/", []string{"authorization: Bearer " + k1.sign(claims(fmt.Sprint(now-100), fmt.Sprint(now+100)))}, "401 Jwt not yet valid"},
		{"for somebody else", "/", []string{"authorization: Bearer " + k1.sign(claims("aud.example", "other.example"))}, "403 Audiences in Jwt are not allowed"},
		{"for nobody", "/", []string{"authorization: Bearer " + k1.sign(`{"iss":"one"}`)}, "403 Audiences in Jwt are not allowed"},
		{"signed by another", "/", []string{"authorization: Bearer " + newSigner("k1").sign(good)}, "401 Jwt verification fails"},
		{"signed by the other issuer", "/", []string{"authorization: Bearer " + k2.sign(good)}, "401 Jwks doesn't have key to match kid or alg from Jwt"},
		{"garbage", "/", []string{"authorization: Bearer garbage"}, "401 Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"},
		{"oversized", "/", []string{"authorization: Bearer " + k1.sign(claims("jane", strings.Repeat("j", jwt.MaxToken)))}, "401 Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"},
		{"too many", "/?" + strings.Repeat("access_token="+token+"&", maxTokens+1), nil, "401 Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"},
		{"one good, one of the other issuer bad", "/", []string{"authorization: Bearer " + token, "x-token: JWT bad"}, "200"},
		{"none, one of the other issuer bad", "/", []string{"x-token: JWT bad"}, "401 Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"},
	} {
		status, body, challenge := s.get(c.path, c.headers...)
		got := s.seen
		if status != "200" {
			got = status + " " + body
			path, _, _ := strings.Cut(c.path, "?")
			want := `Bearer realm="http://a` + path + `", error="invalid_token"`
			if challenge != want {
				t.Errorf("%s: challenge\n%s\nwant\n%s", c.name, challenge, want)
			}
		} else if c.want == "200" {
			got = status
		}
		if got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
	// A token that was valid is not for ever.
	s.n.Advance(161 * time.Second)
	if status, body, _ := s.get("/", "authorization: Bearer "+token); status != "401" || body != "Jwt is expired" {
		t.Errorf("later: %s %s", status, body)
	}
	s.p.Send([]byte("OPTIONS / HTTP/1.1\r\nHost: a\r\nauthorization: Bearer x\r\norigin: b\r\naccess-control-request-method: GET\r\n\r\n"))
	if s.n.Step(); s.seen == "" {
		t.Error("a preflight did not go on")
	}
}

// Where a token is needed, none is told apart from a bad one.
func TestNeeded(t *testing.T) {
	f := two(NewSets(nil, nil), set(newSigner("a")), set(newSigner("b")))
	f.Rules[0].Requires = f.Rules[0].Requires.Of[0]
	s := newServer(t, f)
	if status, body, challenge := s.get(`/"x\?q`); status != "401" || body != "Jwt is missing" || challenge != `Bearer realm="http://a/\"x\\"` {
		t.Errorf("%s %s %s", status, body, challenge)
	}
	f.Rules[0].Requires = &Requirement{Kind: AllowMissingOrFailed, Providers: f.Providers}
	if status, _, _ := s.get("/", "authorization: Bearer bad"); status != "200" || s.seen != "/ authorization=Bearer bad" {
		t.Errorf("%s %s", status, s.seen)
	}
}

// provider is one that rotates its keys, and may be away.
type provider struct {
	uri   string
	asked atomic.Int64
	text  atomic.Pointer[string]
	delay time.Duration
}

func (p *provider) publish(list ...signer) {
	s := must(jwt.Marked(set(list...), p.uri))
	p.text.Store(&s)
}

func (p *provider) ask(ctx context.Context, uri string) (string, error) {
	p.asked.Add(1)
	select {
	case <-time.After(p.delay):
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if s := p.text.Load(); s != nil && uri == p.uri {
		return *s, nil
	}
	return "", errors.New("nobody there")
}

func parsed(s string) *jwt.Token { t, _ := jwt.Parse([]byte(s)); return t }

// Keys that are replaced from one moment to the next, without overlap, cost no valid token, whoever else asks for keys that
// do not exist; and whoever waits does so once for all.
func TestRotation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{uri: "https://p", delay: 20 * time.Millisecond}
		cur := newSigner("0")
		p.publish(cur)
		sets := NewSets(p.ask, nil)
		src := must(sets.Given(*p.text.Load()))
		stranger := newSigner("stranger")
		for i := range 50 {
			if s, _ := src.verify(parsed(cur.sign(`{}`))); s != jwt.OK {
				t.Fatalf("before rotation %d: %v", i, s)
			}
			old := cur
			cur = newSigner(fmt.Sprint(i + 1))
			p.publish(cur)
			if i%2 == 1 {
				go src.verify(parsed(stranger.sign(`{}`))) // asks for a key that is nowhere
				synctest.Wait()
			}
			taken(t, p, src, cur, i)
			if s, _ := src.verify(parsed(old.sign(`{}`))); s != jwt.NoMatchingKey {
				t.Fatalf("the old key: %v", s)
			}
			time.Sleep(time.Second)
		}
	})
}

// taken shows that tokens of a key that was just published, many at once, are taken, and that it is hardly asked for.
func taken(t *testing.T, p *provider, src *Source, k signer, rotation int) {
	t.Helper()
	began, before := time.Now(), p.asked.Load()
	results := make(chan jwt.Status, 100)
	for range cap(results) {
		tok := parsed(k.sign(`{}`))
		go func() { s, _ := src.verify(tok); results <- s }()
	}
	for range cap(results) {
		if s := <-results; s != jwt.OK {
			t.Fatalf("rotation %d: %v", rotation, s)
		}
	}
	if n := p.asked.Load() - before; n > 2 || time.Since(began) > Patience {
		t.Fatalf("rotation %d: asked %d times, waited %v", rotation, n, time.Since(began))
	}
}

// A new key that has the name of the old one is as good as one with a name of its own, also while tokens of the old one go on
// coming; forged ones make nobody ask more often than names that do not exist, and nobody else wait.
func TestRotationUnderOneName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{uri: "p", delay: 20 * time.Millisecond}
		cur := newSigner("k")
		p.publishPlain(cur)
		sets := NewSets(nil, p.fetch)
		defer sets.Close()
		src := sets.Remote(at("p"))
		sets.Keep(uses(src))
		time.Sleep(time.Second)
		for i := range 20 {
			old := parsed(cur.sign(`{}`))
			cur = newSigner("k")
			p.publishPlain(cur)
			taken(t, p, src, cur, i)
			for range 3 {
				if s, _ := src.verify(old); s != jwt.VerificationFails {
					t.Fatalf("the old key: %v", s)
				}
			}
			time.Sleep(time.Second)
		}
		good, before, honest := parsed(cur.sign(`{}`)), p.asked.Load(), time.Duration(0)
		for i := range 600 {
			tok := parsed(newSigner("k").sign(fmt.Sprintf(`{"n":%d}`, i)))
			go src.verify(tok)
			began := time.Now()
			if s, _ := src.verify(good); s != jwt.OK {
				t.Fatal(s)
			}
			honest = max(honest, time.Since(began))
			time.Sleep(100 * time.Millisecond)
		}
		if n := p.asked.Load() - before; n < 25 || n > 40 || honest > 0 {
			t.Errorf("asked %d times in a minute; a good token waited %v", n, honest)
		}
		time.Sleep(calm)
	})
}

// A provider that is away changes nothing; keys that never were are looked for now and then only.
func TestAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{uri: "https://p"}
		k, stranger := newSigner("k"), newSigner("x")
		p.publish(k)
		sets := NewSets(p.ask, nil)
		src := must(sets.Given(*p.text.Load()))
		p.text.Store(nil)
		tok, strange := parsed(k.sign(`{}`)), parsed(stranger.sign(`{}`))
		for range 3600 {
			if s, _ := src.verify(tok); s != jwt.OK {
				t.Fatal(s)
			}
			if s, _ := src.verify(strange); s != jwt.NoMatchingKey {
				t.Fatal(s)
			}
			if again := must(sets.Given(jwt.Placeholder("https://p"))); again != src { // a control plane that began anew meanwhile
				t.Fatal("another source")
			}
			time.Sleep(time.Second)
		}
		if n := p.asked.Load(); n > 1900 {
			t.Errorf("asked %d times in an hour", n)
		}
		p.publish(stranger)
		time.Sleep(absence)
		if s, _ := src.verify(strange); s != jwt.OK {
			t.Errorf("the provider is back: %v", s)
		}
	})
}

// A set that was never fetched is fetched with the first token.
func TestNeverFetched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &provider{uri: "https://p"}
		k := newSigner("k")
		src := must(NewSets(p.ask, nil).Given(jwt.Placeholder("https://p")))
		if s, _ := src.verify(parsed(k.sign(`{}`))); s != jwt.NoKeys {
			t.Error(s)
		}
		p.publish(k)
		time.Sleep(absence + time.Millisecond)
		if s, _ := src.verify(parsed(k.sign(`{}`))); s != jwt.OK {
			t.Error(s)
		}
		slow := &provider{uri: "https://p", delay: time.Hour}
		src = must(NewSets(slow.ask, nil).Given(jwt.Placeholder("https://p")))
		began := time.Now()
		if s, _ := src.verify(parsed(k.sign(`{}`))); s != jwt.NoKeys || time.Since(began) > Patience {
			t.Error(s, time.Since(began))
		}
		time.Sleep(time.Hour) // until who asked has ended
	})
}

// The cache keeps what is used, and no more than its limit.
func TestCache(t *testing.T) {
	var c cache
	name := func(i int) []byte { return fmt.Appendf(nil, "%d", i) }
	for i := range 4 * maxRemembered / (&token{text: "1"}).weight() {
		c.put(&token{text: string(name(i))})
		if c.get(name(0)) == nil {
			t.Fatalf("what is used went after %d others", i)
		}
	}
	full := func() {
		t.Helper()
		weight := 0
		for text, one := range c.m {
			if weight += one.weight(); one.text != text {
				t.Errorf("%q is kept as %q", one.text, text)
			}
		}
		if weight != c.weight || weight > maxRemembered || weight < maxRemembered-1<<20 {
			t.Errorf("the tokens of a full cache weigh %d, and it counts %d", weight, c.weight)
		}
	}
	full()
	c.put(&token{text: "0"}) // verified twice at a time
	full()
	for text := range c.m { // all are used: somebody has to go
		c.get([]byte(text))
	}
	c.put(&token{text: "new"})
	if full(); c.get([]byte("new")) == nil {
		t.Error("a new token is not kept")
	}
	c.put(&token{text: strings.Repeat("a", maxCached+1)})
	if c.get([]byte(strings.Repeat("a", maxCached+1))) != nil {
		t.Error("a large one is kept")
	}
}

// A request with a token that was seen costs no verification, and little more than one of which no token is asked.
func BenchmarkSeen(b *testing.B) {
	k := newSigner("k")
	q := []byte("GET / HTTP/1.1\r\nHost: a\r\nauthorization: Bearer " + k.sign(`{"iss":"one","sub":"jane","aud":"aud.example"}`) + "\r\n\r\n")
	for name, f := range map[string]*Filter{"checked": two(NewSets(nil, nil), set(k), set(k)), "no rule": {}} {
		b.Run(name, func(b *testing.B) {
			s := newServer(b, f)
			s.mute = true
			b.ReportAllocs()
			for b.Loop() {
				s.p.Send(q)
				s.n.Step()
				s.p.Recv()
			}
		})
	}
}

// What a token takes that is remembered, and how often one has to be verified, for so many users that call in turn.
func BenchmarkRemembered(b *testing.B) {
	k := newSigner("k")
	f := two(NewSets(nil, nil), set(k), set(k))
	for _, users := range []int{100, 1000, 2000, 4000} {
		tokens := make([][]byte, users)
		for i := range tokens {
			tokens[i] = []byte(k.sign(fmt.Sprintf(`{"iss":"one","sub":"user-%06d","aud":["aud.example","billing"],"iat":1700000000,"azp":"shop-web",
				"scope":"openid profile email orders:read orders:write","groups":["customers","beta"],"email":"user-%06d@example.com",
				"email_verified":true,"name":"A User","sid":"5f1c0000000000000000000000000001"}`, i, i)))
		}
		b.Run(fmt.Sprintf("%d users", users), func(b *testing.B) {
			s := &stage{Filter: f}
			var before, after runtime.MemStats
			runtime.GC()
			runtime.ReadMemStats(&before)
			for _, text := range tokens {
				s.verify(text, 0)
			}
			runtime.GC()
			runtime.ReadMemStats(&after)
			verified, i := 0, 0
			for b.Loop() {
				text := tokens[i%users]
				if s.cache.get(text) == nil {
					s.verify(text, 0)
					verified++
				}
				i++
			}
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(len(s.cache.m)), "heap-B/token")
			b.ReportMetric(float64(verified)/float64(b.N), "verified/op")
			b.ReportMetric(float64(len(tokens[0])), "B/token")
		})
	}
}
