package bookinfo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
)

// network carries requests to handlers by Host, without sockets. A host that is
// not in it refuses; a nil handler never answers.
type network map[string]http.Handler

func (n network) RoundTrip(r *http.Request) (*http.Response, error) {
	h, ok := n[r.URL.Host]
	if !ok {
		return nil, errors.New("connection refused")
	}
	if h == nil {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	w := httptest.NewRecorder()
	served := make(chan struct{})
	go func() {
		defer close(served)
		in := httptest.NewRequestWithContext(r.Context(), r.Method, r.URL.RequestURI(), r.Body)
		in.Host, in.Header = cmp.Or(r.Host, r.URL.Host), r.Header.Clone()
		h.ServeHTTP(w, in)
	}()
	select {
	case <-served:
		return w.Result(), nil
	case <-r.Context().Done():
		<-served // handlers end with their request
		return nil, r.Context().Err()
	}
}

func (n network) client() *http.Client { return &http.Client{Transport: n} }

// store is the whole application on one network, reviews in the given version.
func store(n network, version string) http.Handler {
	ratings := Backend{Authority: "ratings:9080"}
	fill := func(name string, h http.Handler) {
		if _, set := n[name]; !set {
			n[name] = h
		}
	}
	stars := map[string]string{"v2": "black", "v3": "red"}[version]
	fill("details:9080", Details(DetailsOptions{}))
	fill("ratings:9080", Ratings(RatingsOptions{}))
	fill("reviews:9080", Reviews(ReviewsOptions{Version: version, Stars: stars, Ratings: ratings, Pod: "reviews-" + version + "-abc", Client: n.client()}))
	return Productpage(ProductpageOptions{
		Details: Backend{Authority: "details:9080"}, Reviews: Backend{Authority: "reviews:9080"}, Ratings: ratings,
		Pod: "productpage-v1-abc", Client: n.client(),
	})
}

func do(h http.Handler, method, target, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func broken(status int) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) })
}

// The page is always 200 and says in words which section is missing: tests of
// meshes and their users look for these words.
func TestPage(t *testing.T) {
	const (
		detailsDown = "Sorry, product details are currently unavailable for this book."
		reviewsDown = "Sorry, product reviews are currently unavailable for this book."
		ratingsDown = "Ratings service is currently unavailable"
	)
	for _, c := range []struct {
		intention string
		version   string
		network   network
		want      []string
		not       []string
		took      time.Duration
	}{
		{intention: "v1 shows reviews without stars and does not ask ratings", version: "v1", network: network{"ratings:9080": nil},
			want: []string{"<title>Simple Bookstore App</title>", "Book Details", "1234567890", "Book Reviews", "reviews-v1-abc", `data-reviews-version="v1"`, "not asked", "Served by <code>productpage-v1-abc"},
			not:  []string{"stars\" role", "unavailable"}},
		{intention: "v2 shows black stars", version: "v2",
			want: []string{`data-color="black" aria-label="5 of 5 stars, black"`, `aria-label="4 of 5 stars, black"`}, not: []string{"unavailable"}},
		{intention: "v3 shows red stars", version: "v3",
			want: []string{`data-color="red" aria-label="5 of 5 stars, red"`}, not: []string{"unavailable"}},
		{intention: "without details the rest is there", version: "v1", network: network{"details:9080": broken(503)},
			want: []string{"Error fetching product details!", detailsDown, "Book Reviews"}, not: []string{reviewsDown, "Book Details"}},
		{intention: "without reviews the rest is there", version: "v1", network: network{"reviews:9080": broken(503)},
			want: []string{"Error fetching product reviews!", reviewsDown, "Book Details"}, not: []string{detailsDown, "Book Reviews"}},
		{intention: "an aborted ratings shows in each review", version: "v2", network: network{"ratings:9080": broken(500)},
			want: []string{ratingsDown, "Book Reviews"}, not: []string{reviewsDown}},
		{intention: "v2 outwaits the product page when ratings hang: two tries of 3 s fail", version: "v2", network: network{"ratings:9080": nil},
			want: []string{reviewsDown, "no answer"}, not: []string{ratingsDown}, took: 6 * time.Second},
		{intention: "v3 gives up on ratings in time", version: "v3", network: network{"ratings:9080": nil},
			want: []string{ratingsDown, "Book Reviews"}, not: []string{reviewsDown}, took: 2500 * time.Millisecond},
		{intention: "details that hang cost 3 s", version: "v1", network: network{"details:9080": nil},
			want: []string{detailsDown, "Book Reviews"}, took: 3 * time.Second},
		{intention: "an answer that is not JSON is no answer", version: "v1", network: network{"details:9080": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>") })},
			want: []string{detailsDown}},
	} {
		t.Run(c.intention, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := network{}
				maps.Copy(n, c.network)
				start := time.Now()
				w := do(store(n, c.version), "GET", "/productpage?u=normal", "")
				if w.Code != 200 {
					t.Errorf("status %d, want 200", w.Code)
				}
				for _, s := range c.want {
					if !strings.Contains(w.Body.String(), s) {
						t.Errorf("page lacks %q:\n%s", s, w.Body)
					}
				}
				for _, s := range c.not {
					if strings.Contains(w.Body.String(), s) {
						t.Errorf("page has %q", s)
					}
				}
				if took := time.Since(start); took != c.took {
					t.Errorf("took %s, want %s", took, c.took)
				}
				if csp := w.Header().Get("Content-Security-Policy"); csp == "" {
					t.Error("no content security policy")
				}
			})
		})
	}
}

// Whatever a back end sends is text on the page, not markup.
func TestPageEscapes(t *testing.T) {
	evil := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `{"podname":"<script>p</script>","clustername":"null","reviews":[{"reviewer":"<script>r</script>","text":"<script>t</script>","rating":{"stars":99,"color":"\"onload=x"}}]}`)
	})
	w := do(store(network{"reviews:9080": evil}, "v1"), "GET", "/productpage", "")
	if strings.Contains(w.Body.String(), "<script") || strings.Contains(w.Body.String(), `="onload`) || !strings.Contains(w.Body.String(), "5 of 5 stars") {
		t.Errorf("page is not escaped:\n%s", w.Body)
	}
}

func TestAPI(t *testing.T) {
	const sorry = `{"error":"Sorry, product `
	for _, c := range []struct {
		target  string
		network network
		status  int
		want    string // beginning of the body
	}{
		{target: "/health", status: 200, want: "Product page is healthy"},
		{target: "/", status: 200, want: "<!doctype html>"},
		{target: "/index.html", status: 200, want: "<!doctype html>"},
		{target: "/nowhere", status: 404, want: "404"},
		{target: "/api/v1/products", status: 200, want: `[{"id":0,"title":"The Comedy of Errors","descriptionHtml":"`},
		{target: "/api/v1/products/0", status: 200, want: `{"id":0,"author":"William Shakespeare","year":1595,"type":"paperback","pages":200,"publisher":"PublisherA","language":"English","ISBN-10":"1234567890","ISBN-13":"123-1234567890"}`},
		{target: "/api/v1/products/0/reviews", status: 200, want: `{"id":"0","podname":"reviews-v3-abc","clustername":"null","version":"v3","reviews":[{"reviewer":"Reviewer1","text":"`},
		{target: "/api/v1/products/0/ratings", status: 200, want: `{"id":0,"ratings":{"Reviewer1":5,"Reviewer2":4}}`},
		{target: "/api/v1/products/nought", status: 400, want: `{"error":"please provide numeric product ID"}`},
		{target: "/api/v1/products/0", network: network{"details:9080": broken(555)}, status: 555, want: sorry + `details are currently unavailable for this book."}`},
		{target: "/api/v1/products/0/reviews", network: network{"reviews:9080": broken(204)}, status: 502, want: sorry + `reviews are`},
		{target: "/api/v1/products/0/ratings", network: network{"ratings:9080": nil}, status: 500, want: sorry + `ratings are`},
	} {
		t.Run(c.target, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := network{}
				maps.Copy(n, c.network)
				w := do(store(n, "v3"), "GET", c.target, "")
				if w.Code != c.status || !strings.HasPrefix(w.Body.String(), c.want) {
					t.Errorf("status %d, body %s\nwant %d, %s…", w.Code, w.Body, c.status, c.want)
				}
			})
		})
	}
}

// Signing in makes every call carry end-user, which nobody else can set; trace and
// session headers travel two hops, others stay behind.
func TestHeadersTravel(t *testing.T) {
	seen := map[string]http.Header{}
	hosts := map[string]string{}
	n := network{}
	page := store(n, "v2")
	for name, h := range n {
		n[name] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			seen[name], hosts[name] = r.Header, r.Host
			h.ServeHTTP(w, r)
		})
	}
	login := do(page, "POST", "/login", "username=jason&passwd=x", "Content-Type", "application/x-www-form-urlencoded")
	if login.Code != 302 || login.Header().Get("Location") != "productpage" {
		t.Fatalf("login: %d %v", login.Code, login.Header())
	}
	cookie, _, _ := strings.Cut(login.Header().Get("Set-Cookie"), ";")
	travels := []string{
		"X-Request-Id", "1", "X-B3-Traceid", "2", "X-B3-Spanid", "3", "X-B3-Parentspanid", "4", "X-B3-Sampled", "5", "X-B3-Flags", "6",
		"B3", "7", "Traceparent", "8", "Tracestate", "9", "X-Ot-Span-Context", "10", "Authorization", "11", "User-Agent", "12", "Sw8", "13",
		"X-Datadog-Trace-Id", "14", "X-Datadog-Parent-Id", "15", "X-Cloud-Trace-Context", "16", "Grpc-Trace-Bin", "17", "Jwt", "18",
	}
	w := do(page, "GET", "/productpage", "", append(slices.Clone(travels), "Cookie", cookie, "End-User", "mallory", "X-Secret", "stays", "Accept", "text/html")...)
	if !strings.Contains(w.Body.String(), `<span class="name">jason</span>`) {
		t.Error("the page does not show who is signed in")
	}
	want := http.Header{"Cookie": {"user=jason"}, "End-User": {"jason"}}
	for i := 0; i < len(travels); i += 2 {
		want.Set(travels[i], travels[i+1])
	}
	for _, name := range []string{"details:9080", "reviews:9080", "ratings:9080"} {
		if diff := gocmp.Diff(want, seen[name]); diff != "" {
			t.Errorf("headers at %s (-want +got):\n%s", name, diff)
		}
		if hosts[name] != name {
			t.Errorf("host %q at %s", hosts[name], name)
		}
	}

	do(page, "GET", "/productpage", "", "End-User", "mallory")
	if got := seen["reviews:9080"].Get("End-User"); got != "" {
		t.Errorf("a client chose the end-user %q without signing in", got)
	}
	logout := do(page, "GET", "/logout", "", "Cookie", cookie)
	if c := logout.Header().Get("Set-Cookie"); logout.Code != 302 || !strings.Contains(c, "Max-Age=0") {
		t.Errorf("logout: %d, cookie %q", logout.Code, c)
	}
}

func TestLoginNames(t *testing.T) {
	page := store(network{}, "v1")
	for name, status := range map[string]int{
		"jason": 302, "Łukasz Świerk": 302, "": 400, "  ": 400, "a\r\nb": 400, "a\x00": 400, strings.Repeat("x", 65): 400, "\xff": 400,
	} {
		w := do(page, "POST", "/login", url.Values{"username": {name}}.Encode(), "Content-Type", "application/x-www-form-urlencoded")
		if w.Code != status {
			t.Errorf("login as %q: %d, want %d", name, w.Code, status)
		}
		if status != 302 {
			continue
		}
		cookie, _, _ := strings.Cut(w.Header().Get("Set-Cookie"), ";")
		if page := do(page, "GET", "/", "", "Cookie", cookie); !strings.Contains(page.Body.String(), ">"+name+"<") {
			t.Errorf("signed in as %q, the page does not say so", name)
		}
	}
	if w := do(page, "GET", "/", "", "Cookie", "user=a%0Db"); strings.Contains(w.Body.String(), `class="user"`) {
		t.Error("a forged cookie signs in a name that login refuses")
	}
}

// Where names do not resolve the address is dialled, and the Host stays the name.
func TestBackendAddress(t *testing.T) {
	var host string
	n := network{"127.1.2.3:9080": http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { host = r.Host })}
	b := Backend{Authority: "ratings:9080", Address: "127.1.2.3:9080"}
	if status, _, err := b.get(context.Background(), n.client(), "/", nil, time.Second); status != 200 || err != nil || host != "ratings:9080" {
		t.Errorf("status %d, err %v, host %q", status, err, host)
	}
}

func TestRatings(t *testing.T) {
	const local = `{"id":7,"ratings":{"Reviewer1":5,"Reviewer2":4}}`
	for _, c := range []struct {
		intention string
		o         RatingsOptions
		after     time.Duration // since the start
		method    string
		target    string
		body      string
		status    int
		want      string
		took      time.Duration
	}{
		{intention: "default ratings", target: "/ratings/7", status: 200, want: local},
		{intention: "health", target: "/health", status: 200, want: `{"status":"Ratings is healthy"}`},
		{intention: "id must be a number", target: "/ratings/x", status: 400, want: `{"error":"please provide numeric product ID"}`},
		{intention: "post replaces", method: "POST", target: "/ratings/7", body: `{"Reviewer1":1}`, status: 200, want: `{"id":7,"ratings":{"Reviewer1":1}}`},
		{intention: "post of junk", method: "POST", target: "/ratings/7", body: `5 stars`, status: 400, want: `{"error":"please provide valid ratings JSON"}`},
		{intention: "post of null", method: "POST", target: "/ratings/7", body: `null`, status: 400, want: `{"error":"please provide valid ratings JSON"}`},
		{intention: "v2 without its database", o: RatingsOptions{Version: "v2"}, target: "/ratings/7", status: 500, want: `{"error":"could not connect to ratings database"}`},
		{intention: "v2 with its database", o: RatingsOptions{Version: "v2", Database: func(context.Context) error { return nil }}, target: "/ratings/7", status: 200, want: local},
		{intention: "v2 does not take ratings", o: RatingsOptions{Version: "v2"}, method: "POST", target: "/ratings/7", body: `{}`, status: 501, want: `{"error":"Post not implemented for database backed ratings"}`},
		{intention: "v-faulty, heads", o: RatingsOptions{Version: "v-faulty", Coin: func() bool { return true }}, target: "/ratings/7", status: 503, want: `{"error":"Service unavailable"}`},
		{intention: "v-faulty, tails", o: RatingsOptions{Version: "v-faulty", Coin: func() bool { return false }}, target: "/ratings/7", status: 200, want: local},
		{intention: "v-delayed, heads", o: RatingsOptions{Version: "v-delayed", Coin: func() bool { return true }}, target: "/ratings/7", status: 200, want: local, took: 7 * time.Second},
		{intention: "v-unavailable in its first minute", o: RatingsOptions{Version: "v-unavailable"}, after: 59 * time.Second, target: "/ratings/7", status: 200, want: local},
		{intention: "v-unavailable in its second minute", o: RatingsOptions{Version: "v-unavailable"}, after: 61 * time.Second, target: "/ratings/7", status: 503, want: `{"error":"Service unavailable"}`},
		{intention: "v-unhealthy says so", o: RatingsOptions{Version: "v-unhealthy"}, after: 16 * time.Minute, target: "/health", status: 500, want: `{"status":"Ratings is not healthy"}`},
		{intention: "v-unhealthy fails", o: RatingsOptions{Version: "v-unhealthy"}, after: 16 * time.Minute, target: "/ratings/7", status: 503, want: `{"error":"Service unavailable"}`},
	} {
		t.Run(c.intention, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := Ratings(c.o)
				<-time.After(c.after)
				start := time.Now()
				w := do(h, cmp.Or(c.method, "GET"), c.target, c.body)
				if w.Code != c.status || w.Body.String() != c.want || w.Header().Get("Content-Type") != "application/json" {
					t.Errorf("%d %s, want %d %s", w.Code, w.Body, c.status, c.want)
				}
				if took := time.Since(start); took != c.took {
					t.Errorf("took %s, want %s", took, c.took)
				}
			})
		})
	}
}

func TestRatedProductsAreBounded(t *testing.T) {
	h := Ratings(RatingsOptions{})
	for id := range maxRated + 1 {
		w := do(h, "POST", fmt.Sprintf("/ratings/%d", id), `{"Reviewer1":1}`)
		if want := id < maxRated; (w.Code == 200) != want {
			t.Fatalf("rating product %d: %d", id, w.Code)
		}
	}
	if w := do(h, "POST", "/ratings/0", `{"Reviewer1":2}`); w.Code != 200 {
		t.Errorf("changing a known rating: %d", w.Code)
	}
	if w := do(h, "POST", "/ratings/0", `{"x":`+strings.Repeat(" ", maxBody)+`1}`); w.Code != 400 {
		t.Errorf("a body over the limit: %d", w.Code)
	}
}

// Details v2 asks Google Books; the mesh may hold the door open or shut.
func TestDetailsExternal(t *testing.T) {
	const book = `{"items":[{"volumeInfo":{"authors":["W. S."],"publishedDate":"2002","pageCount":80,"publisher":"Dover","language":"en","printType":"BOOK","industryIdentifiers":[{"type":"ISBN_13","identifier":"13"},{"type":"ISBN_10","identifier":"10"}]}}]}`
	google := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.RequestURI() == "/books/v1/volumes?q=isbn:0486424618" {
			io.WriteString(w, book)
		}
	})
	for _, c := range []struct {
		intention string
		network   network
		status    int
		want      string
	}{
		{"found", network{"www.googleapis.com": google}, 200, `{"id":3,"author":"W. S.","year":"2002","type":"paperback","pages":80,"publisher":"Dover","language":"English","ISBN-10":"10","ISBN-13":"13"}`},
		{"egress is shut", network{"www.googleapis.com": broken(502)}, 502, `{"error":"calling www.googleapis.com: status 502"}`},
		{"nothing there", network{}, 502, `{"error":"Get \"http://www.googleapis.com/books/v1/volumes?q=isbn:0486424618\": connection refused"}`},
	} {
		t.Run(c.intention, func(t *testing.T) {
			h := Details(DetailsOptions{External: true, PlainText: true, Client: c.network.client()})
			w := do(h, "GET", "/details/3", "")
			if w.Code != c.status || w.Body.String() != c.want {
				t.Errorf("%d %s\nwant %d %s", w.Code, w.Body, c.status, c.want)
			}
		})
	}
}

func FuzzDecodeBook(f *testing.F) {
	f.Add([]byte(`{"items":[{"volumeInfo":{}}]}`))
	f.Add([]byte(`{"items":[]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		d, err := decodeBook(body)
		if err == nil && (d.Type == "" || d.Language == "") {
			t.Errorf("details with holes: %+v", d)
		}
	})
}

func TestMetrics(t *testing.T) {
	page := store(network{"reviews:9080": broken(503)}, "v1")
	do(page, "GET", "/productpage", "")
	want := "# HELP request_result_total Results of requests\n# TYPE request_result_total counter\n" +
		"request_result_total{destination_app=\"details\",response_code=\"200\"} 1\n" +
		"request_result_total{destination_app=\"reviews\",response_code=\"503\"} 2\n"
	if got := do(page, "GET", "/metrics", "").Body.String(); got != want {
		t.Errorf("metrics:\n%s\nwant:\n%s", got, want)
	}
}

// Every asset the pages name is there, may be cached for ever, and nothing else
// of the binary can be read.
func TestStatic(t *testing.T) {
	page := store(network{}, "v1")
	body := do(page, "GET", "/productpage", "").Body.String() + do(page, "GET", "/", "").Body.String()
	found := 0
	for quoted := range strings.SplitSeq(body, `"`) {
		if !strings.HasPrefix(quoted, "static/") {
			continue
		}
		found++
		w := do(page, "GET", "/"+quoted, "")
		if w.Code != 200 || w.Header().Get("Cache-Control") != "public, max-age=31536000, immutable" || w.Body.Len() == 0 {
			t.Errorf("%s: %d %v", quoted, w.Code, w.Header())
		}
		if w := do(page, "GET", "/"+quoted, "", "If-None-Match", w.Header().Get("ETag")); w.Code != 304 {
			t.Errorf("%s again: %d, want 304", quoted, w.Code)
		}
	}
	if found < 4 {
		t.Errorf("the pages name %d assets", found)
	}
	for _, target := range []string{"/static/", "/static/layout.html", "/static/%2e%2e/layout.html"} {
		if w := do(page, "GET", target, ""); w.Code == 200 {
			t.Errorf("%s can be read", target)
		}
	}
	for _, outside := range []string{"http://", "https://"} {
		for _, attr := range []string{`src="`, `stylesheet" href="`} {
			if strings.Contains(body, attr+outside) {
				t.Error("a page loads something from elsewhere")
			}
		}
	}
}
