package keys

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/weirmesh/weir/internal/jwt"
	"github.com/weirmesh/weir/internal/persist"
	"github.com/weirmesh/weir/mesh"
)

// set is a key set whose only key has this name.
func set(kid string) string {
	return `{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"` + kid + `","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`
}

// internet answers by address: a text, or an error.
type internet struct {
	mu    sync.Mutex
	texts map[string]string
	hang  map[string]bool
	gets  map[string]int
	first map[string]time.Time
}

func newInternet() *internet {
	return &internet{texts: map[string]string{}, hang: map[string]bool{}, gets: map[string]int{}, first: map[string]time.Time{}}
}

func (n *internet) put(uri, text string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.texts[uri] = text
}

func (n *internet) count(uri string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.gets[uri]
}

func (n *internet) RoundTrip(q *http.Request) (*http.Response, error) {
	uri := q.URL.String()
	n.mu.Lock()
	n.gets[uri]++
	text, hang := n.texts[uri], n.hang[uri]
	if n.first[uri].IsZero() {
		n.first[uri] = time.Now()
	}
	n.mu.Unlock()
	if hang {
		<-q.Context().Done()
		return nil, q.Context().Err()
	}
	time.Sleep(10 * time.Millisecond)
	r := &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Header: http.Header{}, Body: io.NopCloser(strings.NewReader(text)), Request: q}
	switch {
	case text == "":
		return nil, errors.New("connection refused")
	case strings.HasPrefix(text, "/"):
		r.StatusCode, r.Status = 302, "302 Found"
		r.Header.Set("location", text[1:])
	case text == "404":
		r.StatusCode, r.Status = 404, "404 Not Found"
	}
	return r, nil
}

// run runs a Fetcher that wants uris, and returns it with what it published last.
func run(t *testing.T, n *internet, uris ...string) (f *Fetcher, latest func(uri string) string) {
	f, latest, _ = runIn(t, n, "", uris...)
	return f, latest
}

// runIn runs one that keeps sets in a folder; end ends it before the test does.
func runIn(t *testing.T, n *internet, dir string, uris ...string) (f *Fetcher, latest func(uri string) string, end func()) {
	f = New(n, dir, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	var sets persist.Map[string, *mesh.KeySet]
	done := make(chan error)
	go func() {
		done <- f.Run(ctx, func(s persist.Map[string, *mesh.KeySet]) {
			mu.Lock()
			defer mu.Unlock()
			sets = s
		})
	}()
	end = sync.OnceFunc(func() {
		if cancel(); <-done != nil {
			t.Error("Run failed")
		}
	})
	t.Cleanup(end)
	f.Want(wants(uris...))
	latest = func(uri string) string {
		mu.Lock()
		defer mu.Unlock()
		if s := sets.At(uri); s != nil {
			return s.Text
		}
		return ""
	}
	return f, latest, end
}

func wants(uris ...string) (all persist.Map[mesh.Key, *mesh.RequestAuthentication]) {
	for _, uri := range uris {
		all = all.Set(mesh.Key("default/"+uri), &mesh.RequestAuthentication{Ref: mesh.Ref{Name: uri}, Rules: []mesh.JWTRule{{Issuer: "i", URI: uri}}})
	}
	return all
}

func marked(t *testing.T, kid, uri string) string {
	t.Helper()
	s, err := jwt.Marked(set(kid), uri)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What is fetched says where, whether it was found directly, by redirect, or by the issuer's OpenID configuration; what is no set is not taken.
func TestFetch(t *testing.T) {
	n := newInternet()
	for uri, text := range map[string]string{
		"https://a/jwks": set("a"), "https://b/jwks": "/https://a/jwks", "https://c" + discovery: `{"jwks_uri":"https://a/jwks"}`,
		"https://down/jwks": "/http://a/jwks", "http://a/jwks": set("a"), "https://d" + discovery: `{"jwks_uri":"http://a/jwks"}`, "https://e" + discovery: `{}`, "https://f/jwks": "404", "https://g/jwks": "<html>", "https://h/jwks": `{"keys":[]}`,
		"https://loop/jwks": "/https://loop/jwks", "https://big/jwks": strings.Repeat(" ", jwt.MaxKeySet) + set("a"),
	} {
		n.put(uri, text)
	}
	f := New(n, "", slog.New(slog.DiscardHandler))
	for _, c := range []struct{ uri, err string }{
		{"https://a/jwks", ""}, {"https://b/jwks", ""}, {"https://c" + discovery, ""}, {"http://a/jwks", ""},
		{"https://down/jwks", "redirected from https to http"}, {"https://d" + discovery, "which is not https"}, {"https://e" + discovery, "names no jwks_uri"}, {"https://f/jwks", "404 Not Found"}, {"https://g/jwks", "is no JSON Web Key Set"},
		{"https://h/jwks", "has no key"}, {"https://loop/jwks", "more than 3 redirects"}, {"https://big/jwks", "more than"}, {"https://nobody/jwks", "connection refused"},
	} {
		text, err := f.fetch(t.Context(), c.uri)
		switch {
		case c.err == "" && (err != nil || text != marked(t, "a", c.uri)):
			t.Errorf("%s: %s, %v", c.uri, text, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
			t.Errorf("%s: %v, want %s", c.uri, err, c.err)
		}
	}
}

// One address that is wrong and one that never answers, among 50, hold up nobody: the others are fetched and refreshed in time.
func TestOneBadAmongMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newInternet()
		var uris []string
		for i := range 50 {
			uris = append(uris, fmt.Sprintf("https://issuer-%02d/jwks", i))
			n.put(uris[i], set("1"))
		}
		n.put(uris[7], "404")
		n.hang[uris[8]] = true
		f, latest := run(t, n, uris...)
		time.Sleep(100 * time.Millisecond)
		for i, uri := range uris {
			if got := latest(uri) != ""; got != (i != 7 && i != 8) {
				t.Errorf("%s: fetched %v", uri, got)
			}
		}
		for _, uri := range uris {
			if n.texts[uri] != "404" {
				n.put(uri, set("2"))
			}
		}
		time.Sleep(refresh + refresh/10 + time.Second)
		for i, uri := range uris {
			if i != 7 && i != 8 && latest(uri) != marked(t, "2", uri) {
				t.Errorf("%s was not refreshed", uri)
			}
		}
		p := f.Problems()
		if len(p) != 2 || p[0].URI != uris[7] || !p[0].Never || p[0].Refs[0].Name != uris[7] || p[1].URI != uris[8] || p[1].Err == nil {
			t.Errorf("problems %+v", p)
		}
	})
}

// An issuer that is away for an hour changes nothing, and keys are there within 5 s of one that comes up for the first time.
func TestAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newInternet()
		const here, late = "https://here/jwks", "https://late/jwks"
		n.put(here, set("1"))
		f, latest := run(t, n, here, late)
		time.Sleep(time.Second)
		n.put(here, "")
		for range 60 {
			time.Sleep(time.Minute)
			if got, err := f.Newest(t.Context(), here); err != nil || got != marked(t, "1", here) || latest(here) != got {
				t.Fatalf("away: %s, %v", got, err)
			}
		}
		if n := n.count(late); n > 3600/2 {
			t.Errorf("fetched %d times in an hour", n)
		}
		if p := f.Problems(); len(p) != 2 || p[0].Never || time.Since(p[0].Since) < 54*time.Minute {
			t.Errorf("problems %+v", p)
		}
		n.put(late, set("1"))
		time.Sleep(5 * time.Second)
		if latest(late) != marked(t, "1", late) {
			t.Error("the late one is not there after 5 s")
		}
		if _, err := f.Newest(t.Context(), "https://other/jwks"); status.Code(err) != codes.NotFound {
			t.Errorf("an address that nobody names: %v", err)
		}
		f.Want(wants(late))
		synctest.Wait()
		if _, err := f.Newest(t.Context(), here); status.Code(err) != codes.NotFound || latest(here) == "" {
			t.Errorf("an address that nobody names any more: %v", err)
		}
	})
}

// A control plane that begins anew while an issuer is away has the keys that were fetched last from its first moment, says how old they are, and forgets them when nobody
// names the address any more. Another issuer is fetched as ever; private keys that one shows by mistake are kept nowhere.
func TestBegunAnewWhileAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, dir := newInternet(), t.TempDir()
		const away, there, never = "https://away/jwks", "https://there/jwks", "https://never/jwks"
		n.put(away, strings.Replace(set("1"), `"kty"`, `"d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","kty"`, 1))
		n.put(there, set("1"))
		_, _, end := runIn(t, n, dir, away, there, never)
		time.Sleep(30 * time.Minute)
		end()
		n.put(away, "")
		n.put(there, set("2"))
		time.Sleep(2 * time.Hour)

		kept := New(n, dir, slog.New(slog.DiscardHandler)).Known()
		if a := kept.At(away); a == nil || a.Text != marked(t, "1", away) || kept.At(there).Text != marked(t, "1", there) || kept.At(never) != nil {
			t.Fatalf("at the first moment there is %v", a)
		}
		f, latest, end := runIn(t, n, dir, away, there, never)
		time.Sleep(10 * time.Second)
		if latest(away) != marked(t, "1", away) || latest(there) != marked(t, "2", there) {
			t.Errorf("away %q, there %q", latest(away), latest(there))
		}
		if got, err := f.Newest(t.Context(), away); err != nil || got != marked(t, "1", away) {
			t.Errorf("who asks is told %q, %v", got, err)
		}
		p := f.Problems()
		if len(p) != 2 || p[0].URI != away || p[0].Never || !p[0].Early || time.Since(p[0].Last).Round(time.Hour) != 3*time.Hour || !p[1].Never {
			t.Errorf("problems %+v", p)
		}
		if age := f.Oldest().Round(time.Hour); age != 3*time.Hour {
			t.Errorf("the oldest set is said to be %v old", age)
		}
		end()

		again, _, end := runIn(t, n, dir, away, there) // twice is no other
		time.Sleep(time.Second)
		if all, _ := again.Kept(); again.Known().At(away) == nil || len(all) != 2 || time.Since(all[0].Fetched).Round(time.Hour) != 3*time.Hour {
			t.Errorf("away %q, kept %+v", latest(away), all)
		}
		again.Want(wants(there))
		time.Sleep(time.Second)
		end()
		if kept := New(n, dir, slog.New(slog.DiscardHandler)).Known(); kept.At(away) != nil || kept.At(there) == nil {
			t.Error("what nobody names any more is kept, or the rest is not")
		}
	})
}

// What is in the folder and is no set of public keys from the address that its name says is not used, and taken away.
func TestKeptNonsense(t *testing.T) {
	dir, log := t.TempDir(), slog.New(slog.DiscardHandler)
	const uri = "https://a/jwks"
	good := &Kept{URI: uri, Fetched: time.Now(), Keys: marked(t, "1", uri)}
	other := &Kept{URI: uri, Fetched: time.Now(), Keys: marked(t, "1", "https://b/jwks")}
	text := func(k *Kept) string {
		b, err := json.Marshal(k)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, bad := range []string{"", "{", "[]", "null", text(other), text(&Kept{URI: uri, Fetched: time.Now(), Keys: jwt.Placeholder(uri)}), text(&Kept{URI: uri, Keys: good.Keys}), text(good)[:100]} {
		path := filepath.Join(dir, good.FileName())
		if err := os.WriteFile(path, []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if f := New(nil, dir, log); f.Known().At(uri) != nil {
			t.Errorf("%q is used", bad)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%q stays: %v", bad, err)
		}
	}
	older := *good
	older.Fetched, older.Keys = good.Fetched.Add(-time.Hour), marked(t, "0", uri)
	for _, k := range []*Kept{good, &older} { // what is newer stays
		Restore(dir, []*Kept{k}, log)
		if s := New(nil, dir, log).Known().At(uri); s == nil || s.Text != good.Keys {
			t.Errorf("%v", s)
		}
	}
}

func FuzzParseKept(f *testing.F) {
	k := &Kept{URI: "https://a/jwks", Fetched: time.Unix(1, 0), Keys: set("1")}
	k.Keys, _ = jwt.Marked(k.Keys, k.URI)
	b, err := json.Marshal(k)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(k.FileName(), b)
	f.Fuzz(func(t *testing.T, name string, b []byte) {
		k, err := ParseKept(name, b)
		if err != nil {
			return
		}
		if set, err := jwt.ParseKeys(k.Keys); err != nil || set.URI != k.URI || k.FileName() != name || set.Placeholder {
			t.Fatalf("%q: %+v, %v", b, k, err)
		}
	})
}

// Who asks gets what was fetched after the question, all at once by one fetch; questions in vain become rarer, to three or four a second.
func TestNewest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newInternet()
		const uri = "https://a/jwks"
		n.put(uri, set("0"))
		f, _ := run(t, n, uri)
		time.Sleep(time.Minute)
		for i := 1; i <= 20; i++ {
			n.put(uri, set(fmt.Sprint(i)))
			want, before, began := marked(t, fmt.Sprint(i), uri), n.count(uri), time.Now()
			var asking sync.WaitGroup
			for range 100 {
				asking.Go(func() {
					if got, err := f.Newest(t.Context(), uri); err != nil || got != want {
						t.Errorf("%s, %v", got, err)
					}
				})
			}
			asking.Wait()
			if took := time.Since(began); took > 200*time.Millisecond || n.count(uri) > before+2 {
				t.Fatalf("took %v and %d fetches", took, n.count(uri)-before)
			}
			time.Sleep(500 * time.Millisecond)
		}
		before := n.count(uri)
		for range 600 { // a minute of nonsense
			go f.Newest(t.Context(), uri) //nolint:errcheck // that there is none
			time.Sleep(100 * time.Millisecond)
		}
		if n := n.count(uri) - before; n > int(time.Minute/spacingMax)+5 {
			t.Errorf("%d fetches in a minute of questions in vain", n)
		}
		time.Sleep(time.Minute)
	})
}
