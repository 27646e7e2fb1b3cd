package route

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/weirmesh/weir/proxy/http/message"
)

// request builds "GET http://host/path" with "name: value" lines.
func request(line string, headers ...string) *message.Request {
	method, target, _ := strings.Cut(line, " ")
	scheme, rest, _ := strings.Cut(target, "://")
	host, path := rest, "/"
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		host, path = rest[:i], rest[i:]
	}
	r := &message.Request{}
	r.Reset()
	r.SetMethod([]byte(method))
	r.Scheme, r.Authority, r.Path = []byte(scheme), []byte(host), []byte(path)
	for _, h := range headers {
		n, v, _ := strings.Cut(h, ": ")
		r.Headers.AddName([]byte(n), []byte(v))
	}
	return r
}

func always(w When) When {
	if w.Per1M == 0 {
		w.Per1M = 1_000_000
	}
	return w
}

// The authority chooses the virtual host: exact, longest suffix, longest prefix, any.
func TestHost(t *testing.T) {
	var hosts []*VirtualHost
	for _, d := range []string{"reviews,reviews:9080", "*.example.com", "*.api.example.com", "api.*", "api.eu.*", "*", "[2001:db8::1]:80"} {
		hosts = append(hosts, &VirtualHost{Name: d, Domains: strings.Split(d, ",")})
	}
	table, err := New("9080", "", false, hosts)
	if err != nil {
		t.Fatal(err)
	}
	for authority, want := range map[string]string{
		"reviews":                "reviews,reviews:9080",
		"Reviews:9080":           "reviews,reviews:9080",
		"reviews:1":              "*",
		"a.example.com":          "*.example.com",
		"b.api.example.com":      "*.api.example.com",
		".example.com":           "*", // the star stands for at least one character
		"api.com":                "api.*",
		"api.eu.net":             "api.eu.*",
		"[2001:db8::1]:80":       "[2001:db8::1]:80",
		"":                       "*",
		strings.Repeat("a", 300): "*",
	} {
		if vh := table.Host([]byte(authority)); vh == nil || vh.Name != want {
			t.Errorf("%q → %v, want %s", authority, vh, want)
		}
	}
	if _, err := New("x", "", false, []*VirtualHost{{Name: "a", Domains: []string{"h"}}, {Name: "b", Domains: []string{"H"}}}); err == nil ||
		err.Error() != `route configuration "x": domain "h" is in virtual hosts "a" and "b"` {
		t.Errorf("duplicate domain: %v", err)
	}
	ported, _ := New("x", "", true, []*VirtualHost{{Name: "a", Domains: []string{"h"}}})
	if ported.Host([]byte("h:99")) == nil || ported.Host([]byte("h")) == nil {
		t.Error("ignore_port_in_host_matching: h:99 must find h")
	}
}

func TestWhen(t *testing.T) {
	re := func(s string) *regexp.Regexp { return regexp.MustCompile("^(?:" + s + ")$") }
	h := func(v ValueMatch) When {
		v.ID = message.IDOf(v.Name)
		return When{Path: "/", Headers: []ValueMatch{v}}
	}
	q := func(v ValueMatch) When { return When{Path: "/", Query: []ValueMatch{v}} }
	for _, c := range []struct {
		name string
		when When
		yes  []*message.Request
		no   []*message.Request
	}{
		{"a prefix matches anything behind it", When{Kind: PathPrefix, Path: "/api"},
			[]*message.Request{request("GET http://h/api"), request("GET http://h/apix?q")}, []*message.Request{request("GET http://h/ap"), request("GET http://h/API")}},
		{"a separated prefix ends at a slash", When{Kind: PathSeparatedPrefix, Path: "/api"},
			[]*message.Request{request("GET http://h/api"), request("GET http://h/api/1"), request("GET http://h/api?x=1")}, []*message.Request{request("GET http://h/apix")}},
		{"an exact path ignores the query", When{Kind: PathExact, Path: "/a"},
			[]*message.Request{request("GET http://h/a"), request("GET http://h/a?b")}, []*message.Request{request("GET http://h/a/")}},
		{"case may be ignored", When{Kind: PathExact, Path: "/Ab", IgnoreCase: true},
			[]*message.Request{request("GET http://h/aB")}, []*message.Request{request("GET http://h/a")}},
		{"a regular expression matches the whole path", When{Kind: PathRegex, Regex: re("/v[0-9]+/.*")},
			[]*message.Request{request("GET http://h/v1/x?y")}, []*message.Request{request("GET http://h/x/v1/y")}},
		{"a header by its exact value", h(ValueMatch{Name: "end-user", Kind: ValueExact, Value: "jason"}),
			[]*message.Request{request("GET http://h/", "end-user: jason")}, []*message.Request{request("GET http://h/"), request("GET http://h/", "end-user: Jason")}},
		{"an inverted header match holds when the header is missing", h(ValueMatch{Name: "end-user", Kind: ValueExact, Value: "jason", Invert: true}),
			[]*message.Request{request("GET http://h/"), request("GET http://h/", "end-user: x")}, []*message.Request{request("GET http://h/", "end-user: jason")}},
		{"presence", h(ValueMatch{Name: "x-a"}),
			[]*message.Request{request("GET http://h/", "x-a: ")}, []*message.Request{request("GET http://h/")}},
		{"absence", h(ValueMatch{Name: "x-a", Invert: true}),
			[]*message.Request{request("GET http://h/")}, []*message.Request{request("GET http://h/", "x-a: 1")}},
		{"several fields of a name are one list", h(ValueMatch{Name: "x-a", Kind: ValueExact, Value: "1,2"}),
			[]*message.Request{request("GET http://h/", "x-a: 1", "x-a: 2")}, []*message.Request{request("GET http://h/", "x-a: 1")}},
		{"the method", h(ValueMatch{Name: ":method", Kind: ValueExact, Value: "POST"}),
			[]*message.Request{request("POST http://h/")}, []*message.Request{request("GET http://h/")}},
		{"the authority", h(ValueMatch{Name: ":authority", Kind: ValuePrefix, Value: "api."}),
			[]*message.Request{request("GET http://api.x/")}, []*message.Request{request("GET http://x/")}},
		{"suffix, contains, range and regex", When{Path: "/", Headers: []ValueMatch{
			{Name: "a", Kind: ValueSuffix, Value: "z"}, {Name: "b", Kind: ValueContains, Value: "MID", IgnoreCase: true},
			{Name: "c", Kind: ValueRange, Low: 1, High: 3}, {Name: "d", Kind: ValueRegex, Regex: re("x+")}}},
			[]*message.Request{request("GET http://h/", "a: xyz", "b: a-mid-b", "c: 2", "d: xx")},
			[]*message.Request{request("GET http://h/", "a: xyz", "b: a-mid-b", "c: 3", "d: xx"), request("GET http://h/", "a: xyz", "b: a-mid-b", "c: 2", "d: xy")}},
		{"a query parameter by value", q(ValueMatch{Name: "v", Kind: ValueExact, Value: "2"}),
			[]*message.Request{request("GET http://h/?a=1&v=2")}, []*message.Request{request("GET http://h/?v=22"), request("GET http://h/?xv=2"), request("GET http://h/")}},
		{"a query parameter by presence", q(ValueMatch{Name: "v"}),
			[]*message.Request{request("GET http://h/?v"), request("GET http://h/?v=")}, []*message.Request{request("GET http://h/?w")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			table, err := New("t", "", false, []*VirtualHost{{Domains: []string{"*"}, Entries: []*Entry{{When: always(c.when)}}}})
			if err != nil {
				t.Fatal(err)
			}
			for i, r := range c.yes {
				if _, e := table.Match(r, 0); e == nil {
					t.Errorf("request %d should match", i)
				}
			}
			for i, r := range c.no {
				if _, e := table.Match(r, 0); e != nil {
					t.Errorf("request %d should not match", i)
				}
			}
		})
	}
}

func TestRewrite(t *testing.T) {
	for _, c := range []struct {
		when       When
		f          Forward
		path, want string
	}{
		{When{Kind: PathPrefix, Path: "/old"}, Forward{PrefixRewrite: "/new"}, "/old/x?q=1", "/new/x?q=1"},
		{When{Kind: PathPrefix, Path: "/old/"}, Forward{PrefixRewrite: "/"}, "/old/x", "/x"},
		{When{Kind: PathExact, Path: "/old"}, Forward{PrefixRewrite: "/new"}, "/old?q", "/new?q"},
		{When{Kind: PathRegex, Regex: regexp.MustCompile(".*")}, Forward{PrefixRewrite: "/new"}, "/a/b", "/new"},
		{When{Path: "/"}, Forward{RegexRewrite: regexp.MustCompile("/v([0-9]+)/(.*)"), Substitution: "/${2}/ver${1}"}, "/v2/item?a=b", "/item/ver2?a=b"},
		{When{Path: "/"}, Forward{}, "/same?x", "/same?x"},
	} {
		e := &Entry{When: c.when, Forward: &c.f}
		if got := string(e.AppendRewritten(nil, []byte(c.path))); got != c.want {
			t.Errorf("%s → %s, want %s", c.path, got, c.want)
		}
	}
}

func TestRedirect(t *testing.T) {
	for _, c := range []struct {
		d          Redirect
		when       When
		from, want string
	}{
		{Redirect{Path: "/x"}, When{}, "GET http://h/a?q=1", "http://h/x?q=1"},
		{Redirect{Path: "/x?y=1"}, When{}, "GET http://h/a?q=1", "http://h/x?y=1"},
		{Redirect{Scheme: "https"}, When{}, "GET http://h:80/a", "https://h/a"},
		{Redirect{Scheme: "https"}, When{}, "GET http://h:8080/a", "https://h:8080/a"},
		{Redirect{Scheme: "https", Port: 443}, When{}, "GET http://h:8080/a", "https://h/a"},
		{Redirect{Host: "other"}, When{}, "GET http://h:8080/a?b", "http://other/a?b"},
		{Redirect{PrefixRewrite: "/new"}, When{Kind: PathPrefix, Path: "/old"}, "GET http://h/old/1", "http://h/new/1"},
		{Redirect{StripQuery: true}, When{}, "GET http://[::1]/a?b", "http://[::1]/a"},
	} {
		e := &Entry{When: c.when, Redirect: &c.d}
		if got := string(e.AppendLocation(nil, request(c.from))); got != c.want {
			t.Errorf("%+v %s → %s, want %s", c.d, c.from, got, c.want)
		}
	}
}

func TestParseRetryOn(t *testing.T) {
	on, codes, unknown := ParseRetryOn("connect-failure, 503,unavailable,bogus")
	if on != OnConnectFailure|OnUnavailable|OnRetriableStatusCodes || len(codes) != 1 || codes[0] != 503 || len(unknown) != 1 {
		t.Errorf("%v %v %v", on, codes, unknown)
	}
	r := &Retry{On: on, StatusCodes: codes}
	if !r.Retriable(503, -1) || r.Retriable(500, -1) || !r.Retriable(200, 14) || r.Retriable(200, 13) {
		t.Error("retriable answers are 503 and grpc unavailable")
	}
}

// Weights are honoured, a single cluster needs no draw.
func TestChoose(t *testing.T) {
	f := &Forward{Clusters: []Weighted{{Name: "a", Weight: 1}, {Name: "b", Weight: 0}, {Name: "c", Weight: 3}}, Total: 4}
	got := map[string]int{}
	for i := range uint64(400) {
		got[f.Choose(i).Name]++
	}
	if got["a"] != 100 || got["b"] != 0 || got["c"] != 300 {
		t.Errorf("%v", got)
	}
}

func BenchmarkMatch(b *testing.B) {
	table, _ := New("9080", "", false, []*VirtualHost{
		{Name: "reviews", Domains: []string{"reviews", "reviews.default.svc.cluster.local:9080"}, Entries: []*Entry{
			{When: always(When{Path: "/", Headers: []ValueMatch{{Name: "end-user", Kind: ValueExact, Value: "jason"}}})},
			{When: always(When{Path: "/"})},
		}},
		{Name: "allow_any", Domains: []string{"*"}, Entries: []*Entry{{When: always(When{Path: "/"})}}},
	})
	r := request("GET http://reviews.default.svc.cluster.local:9080/reviews/0", "user-agent: x", "accept: */*", "x-request-id: 1", "end-user: bob")
	b.ReportAllocs()
	for b.Loop() {
		if _, e := table.Match(r, 0); e == nil {
			b.Fatal("no match")
		}
	}
}

// The request path allocates nothing.
func TestMatchDoesNotAllocate(t *testing.T) {
	table, _ := New("9080", "", true, []*VirtualHost{
		{Domains: []string{"reviews"}, Entries: []*Entry{
			{When: always(When{Kind: PathRegex, Regex: regexp.MustCompile("^(?:/x.*)$")})},
			{When: always(When{Path: "/", Headers: []ValueMatch{{Name: "end-user", Kind: ValueExact, Value: "jason"}}})},
			{When: always(When{Path: "/", Query: []ValueMatch{{Name: "q", Kind: ValueExact, Value: "1"}}})},
		}}})
	r := request("GET http://reviews:9080/reviews/0?q=1", "end-user: bob")
	if n := testing.AllocsPerRun(1000, func() {
		if _, e := table.Match(r, 0); e == nil {
			t.Fatal("no match")
		}
	}); n != 0 {
		t.Errorf("%v allocations a match", n)
	}
}

// Operators are shown the hosts that somebody may have meant: slips of the pen, names without the rest of them, never "*".
func TestNear(t *testing.T) {
	hosts := []*VirtualHost{{Name: "all", Domains: []string{"*"}}}
	for _, d := range []string{"bookinfo.example.com,bookinfo.example.com:*", "shop.example.com", "*.wild.example.org", "reviews.default.svc.cluster.local", "Ratings.default.svc.cluster.local", "[2001:db8::1]:80"} {
		hosts = append(hosts, &VirtualHost{Name: d, Domains: strings.Split(d, ",")})
	}
	table, err := New("t", "", false, hosts)
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{
		"bookinfo.exmaple.com":      "bookinfo.example.com",
		"BOOKINFO.example.co:8080":  "bookinfo.example.com",
		"reviews":                   "reviews.default.svc.cluster.local",
		"rating.default.svc":        "ratings.default.svc.cluster.local reviews.default.svc.cluster.local",
		"shop":                      "shop.example.com",
		"a.wlid.example.org":        "*.wild.example.org",
		"[2001:db8::2]:80":          "[2001:db8::1]",
		strings.Repeat("x", 300):    "",
		"":                          "",
		"reviews.default.svc.local": "reviews.default.svc.cluster.local ratings.default.svc.cluster.local",
	} {
		got := table.Near(host)
		if w := strings.Fields(want); len(got) < len(w) || len(got) > 3 || strings.Join(got[:len(w)], " ") != want || want == "" && len(got) > 0 {
			t.Errorf("near %q are %q, want %q first", host, got, want)
		}
	}
	if table.Knows("nobody.example") || !table.Knows("shop.example.com") || !table.Knows("x.wild.example.org") {
		t.Error("who is known?")
	}
}

func BenchmarkNear(b *testing.B) {
	var hosts []*VirtualHost
	for i := range 5000 {
		hosts = append(hosts, &VirtualHost{Domains: []string{fmt.Sprintf("service-%d.team-%d.example.com", i, i%50)}})
	}
	table, err := New("t", "", false, hosts)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		table.Near("serivce-17.team-4.exampel.com")
	}
}
