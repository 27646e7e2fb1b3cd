package jwt

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

type pair struct {
	id      string
	alg     jose.SignatureAlgorithm
	private crypto.Signer
}

func pairs() []pair {
	rsa2 := must(rsa.GenerateKey(rand.Reader, 2048))
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	return []pair{
		{"r2", jose.RS256, rsa2}, {"r2", jose.RS384, rsa2}, {"r2", jose.RS512, rsa2}, {"r2", jose.PS256, rsa2}, {"r2", jose.PS384, rsa2}, {"r2", jose.PS512, rsa2},
		{"e256", jose.ES256, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}, {"e384", jose.ES384, must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))},
		{"e521", jose.ES512, must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader))}, {"ed", jose.EdDSA, ed},
	}
}

func (p pair) sign(claims string) string {
	s := must(jose.NewSigner(jose.SigningKey{Algorithm: p.alg, Key: jose.JSONWebKey{Key: p.private, KeyID: p.id}}, nil))
	return must(must(s.Sign([]byte(claims))).CompactSerialize())
}

func setOf(ps ...pair) string {
	var set jose.JSONWebKeySet
	for _, p := range ps {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: p.private.Public(), KeyID: p.id})
	}
	return string(must(json.Marshal(set)))
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

// Every algorithm with a public key verifies, and no other key does.
func TestAlgorithms(t *testing.T) {
	ps, strangers := pairs(), pairs()
	all := must(ParseKeys(setOf(ps...)))
	for i, p := range ps {
		tok, s := Parse([]byte(p.sign(`{"iss":"a"}`)))
		if s != OK {
			t.Fatalf("%s: %v", p.alg, s)
		}
		if s := all.Verify(tok); s != OK {
			t.Errorf("%s: %v", p.alg, s)
		}
		others := strangers[i]
		if s := must(ParseKeys(setOf(others))).Verify(tok); s != VerificationFails {
			t.Errorf("%s, another key of that name: %v", p.alg, s)
		}
		others.id = "other"
		if s := must(ParseKeys(setOf(others))).Verify(tok); s != NoMatchingKey {
			t.Errorf("%s, a key of another name: %v", p.alg, s)
		}
		others.id, p.id = "", ""
		if s := must(ParseKeys(setOf(others, p))).Verify(tok); s != OK {
			t.Errorf("%s, keys without names: %v", p.alg, s)
		}
		forged := tok.Text[:len(tok.Text)-4] + "AAAA"
		if tok, s = Parse([]byte(forged)); s == OK {
			s = all.Verify(tok)
		}
		if s != VerificationFails {
			t.Errorf("%s, forged: %v", p.alg, s)
		}
	}
}

// What is no token, or asks for trust that nobody gave, is refused with the reason.
func TestBadTokens(t *testing.T) {
	p := pair{"k", jose.RS256, must(rsa.GenerateKey(rand.Reader, 2048))}
	keys := must(ParseKeys(setOf(p)))
	pub := x509.MarshalPKCS1PublicKey(p.private.Public().(*rsa.PublicKey))
	signed := b64(`{"alg":"HS256","kid":"k"}`) + "." + b64(`{"iss":"a"}`)
	mac := hmac.New(sha256.New, pub)
	mac.Write([]byte(signed))
	good := p.sign(`{"iss":"a"}`)
	parts := strings.Split(good, ".")
	with := func(header, payload string) string { return b64(header) + "." + b64(payload) + "." + parts[2] }
	const head = `{"alg":"RS256","kid":"k"}`
	for _, c := range []struct {
		name, token string
		want        Status
	}{
		{"good", good, OK},
		{"empty", "", BadFormat},
		{"garbage", "garbage", BadFormat},
		{"four parts", good + ".x", BadFormat},
		{"no signature", parts[0] + "." + parts[1] + ".", BadFormat},
		{"oversized", p.sign(`{"iss":"` + strings.Repeat("a", MaxToken) + `"}`), BadFormat},
		{"alg none", b64(`{"alg":"none"}`) + "." + b64(`{"iss":"a"}`) + ".AA", UnknownAlgorithm},
		{"alg None", with(`{"alg":"None"}`, `{}`), UnknownAlgorithm},
		{"HS256 with the public key", signed + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil)), NoMatchingKey},
		{"no alg", with(`{"kid":"k"}`, `{}`), HeaderAlgorithm},
		{"alg twice", with(`{"alg":"RS256","alg":"RS256"}`, `{}`), HeaderJSON},
		{"kid is a number", with(`{"alg":"RS256","kid":1}`, `{}`), HeaderKeyID},
		{"critical extensions", with(`{"alg":"RS256","kid":"k","crit":["x"],"x":1}`, `{}`), VerificationFails},
		{"its own key", with(`{"alg":"RS256","jwk":{"kty":"RSA","n":"AQAB","e":"AQAB"},"kid":"k"}`, `{"iss":"a"}`), VerificationFails},
		{"header not base64", "!" + good, HeaderBase64},
		{"a line break in the signature", good[:len(good)-9] + "\n" + good[len(good)-9:], SignatureBase64},
		{"padding", parts[0] + "=." + parts[1] + "." + parts[2], HeaderBase64},
		{"header no JSON", with(`{`, `{}`), HeaderJSON},
		{"header a list", with(`[]`, `{}`), HeaderJSON},
		{"payload not base64", parts[0] + ".!." + parts[2], PayloadBase64},
		{"payload no JSON", with(head, `{"iss":"a"`), PayloadJSON},
		{"more behind the payload", with(head, `{"iss":"a"}{}`), PayloadJSON},
		{"a claim twice", with(head, `{"iss":"a","sub":"x","sub":"y"}`), PayloadJSON},
		{"a nested claim twice", with(head, `{"iss":"a","r":{"x":1,"x":2}}`), PayloadJSON},
		{"an escaped claim twice", with(head, `{"sub":"a","s\u0075b":"b"}`), PayloadJSON},
		{"nested too deep", with(head, `{"a":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+`}`), PayloadJSON},
		{"no UTF-8", with(head, "{\"iss\":\"\xff\"}"), PayloadJSON},
		{"iss no string", with(head, `{"iss":1}`), ClaimIssuer},
		{"sub no string", with(head, `{"sub":["a"]}`), ClaimSubject},
		{"aud a number", with(head, `{"aud":1}`), ClaimAudience},
		{"aud a list of numbers", with(head, `{"aud":[1]}`), ClaimAudience},
		{"exp a string", with(head, `{"exp":"1"}`), ClaimExpires},
		{"exp negative", with(head, `{"exp":-1}`), ClaimExpires},
		{"exp huge", with(head, `{"exp":1e400}`), ClaimExpires},
		{"nbf null", with(head, `{"nbf":null}`), ClaimNotBefore},
		{"iat bad", with(head, `{"iat":true}`), ClaimIssuedAt},
		{"signature not base64", parts[0] + "." + parts[1] + ".!", SignatureBase64},
		{"another payload", with(head, `{"iss":"b"}`), VerificationFails},
	} {
		tok, s := Parse([]byte(c.token))
		if s == OK {
			s = keys.Verify(tok)
		}
		if s != c.want {
			t.Errorf("%s: %v, want %v", c.name, s, c.want)
		}
	}
}

func TestTimes(t *testing.T) {
	const now, skew = 1_000_000, 60
	for _, c := range []struct {
		claims string
		want   Status
	}{
		{`{}`, OK},
		{`{"exp":1000000}`, OK}, {`{"exp":999941}`, OK}, {`{"exp":999940}`, Expired}, {`{"exp":0}`, Expired}, {`{"exp":1000000.9}`, OK},
		{`{"nbf":1000060}`, OK}, {`{"nbf":1000061}`, NotYetValid}, {`{"nbf":1e6}`, OK},
	} {
		tok, s := Parse([]byte(b64(`{"alg":"ES256"}`) + "." + b64(c.claims) + ".AA"))
		if s == OK {
			s = tok.Valid(now, skew)
		}
		if s != c.want {
			t.Errorf("%s: %v, want %v", c.claims, s, c.want)
		}
	}
}

// A shared secret verifies what was signed with it, by an algorithm whose hash is no longer than it; and nothing that is public is
// ever taken for one, whatever algorithm a token or a key names.
func TestSharedSecrets(t *testing.T) {
	secret := make([]byte, 64)
	rand.Read(secret)
	oct := func(n int, alg string) string {
		return `{"keys":[{"kty":"oct","kid":"s","alg":"` + alg + `","k":"` + base64.RawURLEncoding.EncodeToString(secret[:n]) + `"}]}`
	}
	signed := func(alg jose.SignatureAlgorithm, key []byte) *Token {
		s := must(jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: "s"}}, nil))
		tok, status := Parse([]byte(must(must(s.Sign([]byte(`{"iss":"a"}`))).CompactSerialize())))
		if status != OK {
			t.Fatal(alg, status)
		}
		return tok
	}
	for _, c := range []struct {
		alg   jose.SignatureAlgorithm
		bytes int // of the secret
		only  string
		want  Status
	}{
		{jose.HS256, 32, "", OK}, {jose.HS384, 48, "", OK}, {jose.HS512, 64, "", OK}, {jose.HS256, 64, "", OK}, {jose.HS256, 64, "HS256", OK},
		{jose.HS384, 32, "", NoMatchingKey}, {jose.HS512, 63, "", NoMatchingKey}, {jose.HS256, 64, "HS512", NoMatchingKey},
	} {
		tok := signed(c.alg, append(slices.Clone(secret[:c.bytes]), make([]byte, 64-c.bytes)...)) // zeros change nothing
		k := must(ParseKeys(oct(c.bytes, c.only)))
		if s := k.Verify(tok); s != c.want || k.Shared() != 1 {
			t.Errorf("%s by %d bytes for %q: %v, want %v", c.alg, c.bytes, c.only, s, c.want)
		}
		if c.want != OK {
			continue
		}
		forged := *tok
		forged.Text = tok.Text[:len(tok.Text)-6] + "AAAAAA"
		if s := k.Verify(&forged); s != VerificationFails {
			t.Errorf("%s forged: %v", c.alg, s)
		}
	}
	for _, short := range []string{oct(31, ""), oct(16, "HS256"), oct(47, "HS384"), oct(63, "HS512")} {
		if k, err := ParseKeys(short); err == nil || !strings.Contains(err.Error(), "32 bytes for HS256, 48 for HS384, 64 for HS512") {
			t.Errorf("%s: %+v, %v", short, k, err)
		}
	}
	// A secret is no key of another kind, and no other key is a secret: by its modulus, its DER, its PEM or its point.
	all := pairs()
	keys := must(ParseKeys(strings.ReplaceAll(setOf(all...), `"kid":"`, `"kid":"s","was":"`)))
	for _, p := range all {
		der := must(x509.MarshalPKIXPublicKey(p.private.Public()))
		public := [][]byte{der, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})}
		if r, ok := p.private.Public().(*rsa.PublicKey); ok {
			public = append(public, r.N.Bytes(), x509.MarshalPKCS1PublicKey(r))
		}
		for _, secret := range public {
			secret = append(slices.Clone(secret), make([]byte, max(0, 64-len(secret)))...)
			for _, alg := range []jose.SignatureAlgorithm{jose.HS256, jose.HS384, jose.HS512} {
				if s := keys.Verify(signed(alg, secret)); s != NoMatchingKey {
					t.Errorf("%s with the public key of %s: %v", alg, p.alg, s)
				}
			}
		}
		p.id = "s"
		tok, _ := Parse([]byte(p.sign(`{"iss":"a"}`)))
		if s := must(ParseKeys(oct(64, ""))).Verify(tok); s != NoMatchingKey {
			t.Errorf("%s by a secret: %v", p.alg, s)
		}
		if s := must(ParseKeys(strings.ReplaceAll(setOf(p), `"kty"`, `"alg":"HS256","kty"`))).Verify(signed(jose.HS256, secret)); s != NoMatchingKey {
			t.Errorf("a key of %s that says it is for HS256: %v", p.alg, s)
		}
	}
	// What is fetched has none; and dumps have none.
	if m := must(Marked(strings.Replace(setOf(all[0]), `"keys":[`, `"keys":[`+strings.TrimSuffix(strings.TrimPrefix(oct(64, ""), `{"keys":[`), `]}`)+`,`, 1), "https://p")); strings.Contains(m, "oct") || must(ParseKeys(m)).Len() != 1 {
		t.Error(m)
	}
	text := base64.RawURLEncoding.EncodeToString(secret)
	for _, s := range []string{oct(64, ""), must(strconv.Unquote(`"` + strings.ReplaceAll(oct(64, ""), `"`, `\"`) + `"`)), strconv.Quote(oct(64, "")), strings.ReplaceAll(oct(64, ""), `"k":`, "\"k\" : ")} {
		if got := Redacted(s); strings.Contains(got, text[:20]) || !strings.Contains(got, "[redacted]") {
			t.Error(got)
		}
	}
	if s := setOf(all...); Redacted(s) != s {
		t.Error("public keys are taken out")
	}
}

func TestKeySets(t *testing.T) {
	good := setOf(pair{"e", jose.ES256, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))})
	more := strings.Replace(good, `"keys":[`, `"keys":[{"kty":"oct","k":"AQAB"},{"kty":"LMS"},{"kty":"RSA"},7,`, 1)
	k, err := ParseKeys(more)
	if err != nil || k.Len() != 1 || k.Ignored() != 4 {
		t.Errorf("%+v, %v", k, err)
	}
	for _, bad := range []string{"", "{}", "[]", `{"keys":{}}`, `{"keys":[]}`, `{"keys":[{"kty":"oct","k":"AQAB"}]}`, strings.Repeat(" ", MaxKeySet) + good, `{"keys":[` + strings.Repeat("{},", maxKeys) + `{}]}`} {
		if _, err := ParseKeys(bad); err == nil {
			t.Errorf("%.40q is a set", bad)
		}
	}
	const uri = `https://a.example/?"x"`
	k = must(ParseKeys(must(Marked(good, uri))))
	if k.URI != uri || k.Placeholder || k.Len() != 1 {
		t.Errorf("%+v", k)
	}
	secret := strings.Replace(more, `"kty":"EC"`, `"kty":"EC","d":"AQAB","note":"n"`, 1)
	if out := must(Marked(secret, uri)); strings.Contains(out, `"d"`) || strings.Contains(out, `"k"`) || !strings.Contains(out, `"note"`) || must(ParseKeys(out)).Len() != 1 {
		t.Errorf("what is not public goes on: %s", out)
	}
	if k = must(ParseKeys(Placeholder(uri))); k.URI != uri || !k.Placeholder || k.Len() != 1 {
		t.Errorf("%+v", k)
	}
	tok, _ := Parse([]byte(b64(`{"alg":"ES256"}`) + "." + b64(`{}`) + ".AA"))
	if s := k.Verify(tok); s != NoKeys {
		t.Error(s)
	}
}

// Nobody knows the private key of the placeholder: its point is the first whose x is the hash of this
// text and a number.
func TestNobody(t *testing.T) {
	curve := elliptic.P256().Params()
	for i := 0; ; i++ {
		sum := sha256.Sum256(fmt.Appendf(nil, "weir: nobody has the private key of this point, %d", i))
		x := new(big.Int).SetBytes(sum[:])
		y := new(big.Int).Exp(x, big.NewInt(3), curve.P) // y² = x³ - 3x + b
		y.Sub(y, new(big.Int).Mul(x, big.NewInt(3))).Add(y, curve.B).Mod(y, curve.P)
		if y.ModSqrt(y, curve.P) == nil || x.Cmp(curve.P) >= 0 {
			continue
		}
		if y.Bit(0) == 1 {
			y.Sub(curve.P, y)
		}
		b := func(n *big.Int) string { return base64.RawURLEncoding.EncodeToString(n.FillBytes(make([]byte, 32))) }
		if want := fmt.Sprintf(`"x":%q,"y":%q`, b(x), b(y)); !strings.Contains(nobody, want) {
			t.Errorf("the key is not the point of number %d: %s", i, want)
		}
		return
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(b64(`{"alg":"RS256","kid":"k"}`) + "." + b64(`{"iss":"a","aud":["b"],"exp":1,"x":{"y":[1,null,true]}}`) + ".AAAA"))
	f.Add([]byte(b64(`{"alg":"none"}`) + "." + b64(`{}`) + "."))
	f.Add([]byte(".."))
	keys := must(ParseKeys(setOf(pair{"k", jose.ES256, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))})))
	f.Fuzz(func(t *testing.T, b []byte) {
		tok, s := Parse(b)
		if (tok == nil) != (s != OK) {
			t.Fatal(s)
		}
		if tok == nil {
			return
		}
		if s := keys.Verify(tok); s == OK {
			t.Fatal("verified")
		}
		if !strings.Contains(tok.Text, "."+tok.Payload+".") || must(json.Marshal(tok.Claims)) == nil {
			t.Fatal("not what it says")
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	f.Add(setOf(pair{"k", jose.ES256, must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))}))
	f.Add(Placeholder("https://x"))
	f.Add(`{"keys":[{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr8"}]}`)
	tok, _ := Parse([]byte(b64(`{"alg":"ES256"}`) + "." + b64(`{}`) + ".AA"))
	f.Fuzz(func(t *testing.T, s string) {
		if k, err := ParseKeys(s); err == nil {
			if s := k.Verify(tok); s == OK {
				t.Fatal("verified")
			}
			m, err := Marked(s, "u")
			if err != nil {
				t.Fatal(err)
			}
			if public, err := ParseKeys(m); (err == nil) != (k.Len() > k.Shared()) || err == nil && (public.Len() != k.Len()-k.Shared() || public.Shared() > 0) {
				t.Fatal(m, err)
			}
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	for _, p := range append(pairs(), pair{"4096 bits", jose.RS256, must(rsa.GenerateKey(rand.Reader, 4096))}) {
		text := []byte(p.sign(`{"iss":"https://issuer.example","sub":"someone","aud":["a","b"],"exp":2000000000}`))
		keys := must(ParseKeys(setOf(p)))
		b.Run(string(p.alg)+"/"+p.id, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				tok, _ := Parse(text)
				if s := keys.Verify(tok); s != OK {
					b.Fatal(s)
				}
			}
		})
	}
}
