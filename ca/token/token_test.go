package token

import (
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/internal/redact"
)

var (
	noon   = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	claims = Claims{
		ID:       identity.ID{TrustDomain: "cluster.local", Namespace: "shop", ServiceAccount: "cart"},
		Workload: "cart-v1-0", Audience: Audience, Expires: noon.Add(time.Hour),
	}
)

func newKey(t testing.TB) *Key {
	t.Helper()
	k, err := OpenKey(filepath.Join(t.TempDir(), "ca"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mint(t testing.TB, k *Key, c Claims) string {
	t.Helper()
	s, err := k.Mint(c)
	if err != nil {
		t.Fatal(err)
	}
	return s.Reveal()
}

// forged signs any payload: what only a fault of ours could make.
func forged(k *Key, body string) string {
	signed := prefix + encoding.EncodeToString([]byte(body))
	return signed + "." + encoding.EncodeToString(k.mac(signed))
}

// A token outlives the process that made it: the key is in the folder.
func TestKeyIsKept(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	first, err := OpenKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	text := mint(t, first, claims)
	second, err := OpenKey(dir)
	if err != nil {
		t.Fatal(err)
	}
	// Any number of times, until it expires.
	for range 3 {
		if got, err := second.Verify(text, Audience, noon); err != nil || got != claims {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

func TestDamagedKey(t *testing.T) {
	for _, damage := range []string{"", "x", "-----BEGIN WEIR TOKEN KEY-----\nAAAA\n-----END WEIR TOKEN KEY-----\n",
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: make([]byte, keySize)}))} {
		dir := filepath.Join(t.TempDir(), "ca")
		if err := errors.Join(os.Mkdir(dir, 0o700), os.WriteFile(filepath.Join(dir, keyFile), []byte(damage), 0o600)); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenKey(dir); err == nil || !strings.Contains(err.Error(), "remove it") {
			t.Errorf("key file %q: %v", damage, err)
		}
	}
}

func TestVerify(t *testing.T) {
	k, other := newKey(t), newKey(t)
	good := mint(t, k, claims)
	parts := strings.Split(good, ".")
	elevated := strings.Split(mint(t, other, Claims{ID: identity.ID{TrustDomain: "cluster.local", Namespace: "istio-system", ServiceAccount: "istiod"},
		Audience: Audience, Expires: claims.Expires}), ".")
	for _, c := range []struct {
		name, text, err string
		now             time.Time // zero: noon
	}{
		{name: "good", text: good},
		{name: "in its last second", text: good, now: claims.Expires.Add(-time.Second)},

		{name: "expired", text: good, now: claims.Expires.Add(3 * time.Hour), err: "expired 3h0m0s ago"},
		{name: "at its end", text: good, now: claims.Expires, err: "expired"},
		{name: "empty", err: "does not begin"},
		{name: "a JWT", text: "eyJhbGciOiJub25lIn0.e30.", err: "does not begin"},
		{name: "of another mesh", text: mint(t, other, claims), err: "not made by this mesh's key"},
		{name: "no mac", text: parts[0] + "." + parts[1], err: "not made by this mesh's key"},
		{name: "an empty mac", text: parts[0] + "." + parts[1] + ".", err: "not made by this mesh's key"},
		{name: "half a mac", text: good[:len(good)-20], err: "not made by this mesh's key"},
		{name: "another payload", text: parts[0] + "." + elevated[1] + "." + parts[2], err: "not made by this mesh's key"},
		{name: "a part too many", text: good + ".x", err: "not made by this mesh's key"},
		{name: "padding", text: good + "=", err: "not made by this mesh's key"},
		{name: "the prefix alone", text: prefix, err: "not made by this mesh's key"},
		{name: "too long", text: good + strings.Repeat("A", maxToken), err: "at most 4096"},
		{name: "for somebody else", text: mint(t, k, Claims{ID: claims.ID, Audience: "vault", Expires: claims.Expires}), err: `for audience "vault"`},

		{name: "signed nonsense", text: forged(k, "hello"), err: "payload"},
		{name: "signed without audience", text: forged(k, `{"sub":"spiffe://td/ns/a/sa/b","exp":99999999999}`), err: "audience"},
		{name: "signed without identity", text: forged(k, `{"aud":"istio-ca","exp":99999999999}`), err: "trust domain"},
		{name: "signed with a strange identity", text: forged(k, `{"sub":"spiffe://td/root","aud":"istio-ca","exp":99999999999}`), err: "want the form"},
		{name: "signed without expiry", text: forged(k, `{"sub":"spiffe://td/ns/a/sa/b","aud":"istio-ca"}`), err: "expiry"},
	} {
		if c.now.IsZero() {
			c.now = noon
		}
		got, err := k.Verify(c.text, Audience, c.now)
		switch {
		case c.err == "" && (err != nil || got != claims):
			t.Errorf("%s: %+v, %v", c.name, got, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || got != Claims{}):
			t.Errorf("%s: %+v, error %v, want one with %q", c.name, got, err, c.err)
		}
	}
}

func TestMintWants(t *testing.T) {
	k := newKey(t)
	for _, spoil := range []func(*Claims){
		func(c *Claims) { c.ID.ServiceAccount = "" },
		func(c *Claims) { c.ID.Namespace = "a/sa/root" },
		func(c *Claims) { c.Audience = "" },
		func(c *Claims) { c.Expires = time.Time{} },
		func(c *Claims) { c.Workload = strings.Repeat("w", 300) },
	} {
		c := claims
		spoil(&c)
		if s, err := k.Mint(c); err == nil {
			t.Errorf("%+v became %s", c, s)
		}
	}
}

func FuzzVerify(f *testing.F) {
	k := &Key{redact.New(make([]byte, keySize))}
	good := mint(f, k, claims)
	f.Add(good)
	f.Add(forged(k, `{"sub":"spiffe://td/ns/a/sa/b","aud":"istio-ca","exp":1}`))
	f.Add(prefix)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := k.Verify(text, Audience, noon)
		if err == nil && text != good {
			t.Fatalf("%q passes as %+v", text, c)
		}
	})
}
