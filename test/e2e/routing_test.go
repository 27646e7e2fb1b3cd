package e2e_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// routes are one VirtualService; each case below has a path of its own. What nothing else
// matches goes to v2, so that an answer of v1 means that the rule matched.
const routes = `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: echo}
spec:
  host: echo
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
  - {name: v9, labels: {version: v9}}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo}
spec:
  hosts: [echo]
  http:
  - match: [{uri: {exact: /exact}}]
    route: &v1 [{destination: {host: echo, subset: v1, port: {number: 8080}}}]
  - {match: [{uri: {prefix: /prefix}}], route: *v1}
  - {match: [{uri: {regex: "/regex/[0-9]+"}}], route: *v1}
  - {match: [{uri: {prefix: /ANYcase}, ignoreUriCase: true}], route: *v1}
  - {match: [{uri: {prefix: /header}, headers: {x-exact: {exact: Yes}}}, {uri: {prefix: /header}, headers: {x-prefix: {prefix: a}}},
             {uri: {prefix: /header}, headers: {x-regex: {regex: "[a-z]{3}"}}}, {uri: {prefix: /header}, headers: {x-there: {}}},
             {uri: {prefix: /header}, headers: {x-both: {exact: a}, x-all: {exact: b}}}], route: *v1}
  - {match: [{uri: {prefix: /without}, withoutHeaders: {x-not: {exact: "1"}, x-absent: {}}}], route: *v1}
  - {match: [{uri: {prefix: /query}, queryParams: {a: {exact: "1"}}}, {uri: {prefix: /query}, queryParams: {b: {regex: "x+"}}},
             {uri: {prefix: /query}, queryParams: {c: {prefix: p}}}], route: *v1}
  - {match: [{uri: {prefix: /method}, method: {exact: PUT}}, {uri: {prefix: /method}, method: {regex: "P.*H"}}], route: *v1}
  - {match: [{uri: {prefix: /authority}, authority: {prefix: special}}], route: *v1}
  - {match: [{uri: {prefix: /from-client}, sourceLabels: {app: client}}], route: *v1}
  - {match: [{uri: {prefix: /from-other}, sourceLabels: {app: other}}], route: *v1}
  - {match: [{uri: {prefix: /from-namespace}, sourceNamespace: default}], route: *v1}
  - {match: [{uri: {prefix: /from-nowhere}, sourceNamespace: elsewhere}], route: *v1}
  - {match: [{uri: {prefix: /port}, port: 8080}], route: *v1}
  - {match: [{uri: {prefix: /wrong-port}, port: 9999}], route: *v1}
  - {match: [{uri: {prefix: /rewrite/prefix/}}], rewrite: {uri: /new/}, route: *v1}
  - {match: [{uri: {exact: /rewrite/exact}}], rewrite: {uri: /whole, authority: other.example}, route: *v1}
  - {match: [{uri: {prefix: /rewrite/regex}}], rewrite: {uriRegexRewrite: {match: "/rewrite/regex/([^/]+)/([^/]+)", rewrite: "/\\2/\\1"}}, route: *v1}
  - {match: [{uri: {prefix: /redirect/uri}}], redirect: {uri: /elsewhere}}
  - {match: [{uri: {prefix: /redirect/authority}}], redirect: {authority: "other.example", redirectCode: 307}}
  - {match: [{uri: {prefix: /redirect/scheme}}], redirect: {scheme: https, port: 8443, redirectCode: 302}}
  - {match: [{uri: {prefix: /redirect/prefix}}], redirect: {prefixRewrite: /p, redirectCode: 308}}
  - {match: [{uri: {prefix: /direct}}], directResponse: {status: 418, body: {string: "short and stout"}}}
  - match: [{uri: {prefix: /headers}}]
    headers:
      request: {set: {x-set: new, x-created: yes!, x-from: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}, add: {x-add: more}, remove: [x-remove]}
      response: {set: {x-r-set: new}, add: {x-r-add: more}, remove: [x-r-remove]}
    route:
    - destination: {host: echo, subset: v1, port: {number: 8080}}
      headers: {request: {set: {x-to: v1}}, response: {set: {x-by: v1}}}
  - {match: [{uri: {prefix: /timeout}}], timeout: 2s, route: *v1}
  - {match: [{uri: {prefix: /in-time}}], timeout: 60s, route: *v1}
  - {match: [{uri: {prefix: /retry/none}}], retries: {attempts: 0}, route: *v1}
  - {match: [{uri: {prefix: /retry/5xx}}], retries: {attempts: 3, retryOn: 5xx, backoff: 1ms}, route: *v1}
  - {match: [{uri: {prefix: /retry/code}}], retries: {attempts: 2, retryOn: "409,retriable-4xx", backoff: 1ms}, route: *v1}
  - {match: [{uri: {prefix: /retry/reset}}], retries: {attempts: 2, retryOn: "reset", backoff: 1ms}, route: *v1}
  - {match: [{uri: {prefix: /retry/slow}}], retries: {attempts: 2, retryOn: "gateway-error", perTryTimeout: 2s, backoff: 1ms}, route: *v1}
  - {match: [{uri: {prefix: /retry/default}}], route: *v1}
  - {match: [{uri: {prefix: /abort}}], fault: {abort: {httpStatus: 429, percentage: {value: 25}}}, route: *v1}
  - {match: [{uri: {prefix: /nobody}}], route: [{destination: {host: echo, subset: v9, port: {number: 8080}}}]}
  - {match: [{uri: {prefix: /unknown}}], route: [{destination: {host: no-such-service, port: {number: 80}}}]}
  - {match: [{uri: {prefix: /no-subset}}], route: [{destination: {host: echo, subset: v8, port: {number: 8080}}}]}
  - match: [{uri: {prefix: /weights}}]
    route:
    - {destination: {host: echo, subset: v1, port: {number: 8080}}, weight: 0}
    - {destination: {host: echo, subset: v2, port: {number: 8080}}, weight: 100}
  - route: [{destination: {host: echo, subset: v2, port: {number: 8080}}}]
---
apiVersion: v1
kind: Service
metadata: {name: narrow}
spec: {selector: {app: echo}, ports: [{name: http, port: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: narrow}
spec: {hosts: [narrow], http: [{match: [{uri: {prefix: /narrow}}], route: [{destination: {host: narrow}}]}]}
`

func TestRequestsAreRoutedAsTheVirtualServiceSays(t *testing.T) {
	t.Parallel()
	m, client, pods := echoMesh(t, nil, echoPod("echo-1", "v1"), echoPod("echo-2", "v2"))
	m.Config("routes.yaml", routes)

	// Which version a request reaches.
	for _, c := range []struct {
		request string // method (GET unless given) and path
		headers []string
		want    string
	}{
		{"/exact", nil, "v1"}, {"/exact?q=1", nil, "v1"}, {"/exact/", nil, "v2"}, {"/Exact", nil, "v2"}, {"/exac", nil, "v2"},
		{"/prefix", nil, "v1"}, {"/prefix/x", nil, "v1"}, {"/prefixed", nil, "v1"}, {"/x/prefix", nil, "v2"},
		{"/regex/12", nil, "v1"}, {"/regex/12?q", nil, "v1"}, {"/regex/12x", nil, "v2"}, {"/x/regex/12", nil, "v2"},
		{"/anyCASE/x", nil, "v1"},
		{"/header", nil, "v2"}, {"/header", []string{"x-exact: Yes"}, "v1"}, {"/header", []string{"X-Exact: Yes"}, "v1"}, {"/header", []string{"x-exact: yes"}, "v2"},
		{"/header", []string{"x-prefix: abc"}, "v1"}, {"/header", []string{"x-prefix: bc"}, "v2"},
		{"/header", []string{"x-regex: abc"}, "v1"}, {"/header", []string{"x-regex: abcd"}, "v2"},
		{"/header", []string{"x-there: anything"}, "v1"},
		{"/header", []string{"x-both: a"}, "v2"}, {"/header", []string{"x-both: a", "x-all: b"}, "v1"},
		{"/without", nil, "v1"}, {"/without", []string{"x-not: 2"}, "v1"}, {"/without", []string{"x-not: 1"}, "v2"}, {"/without", []string{"x-absent: x"}, "v2"},
		{"/query", nil, "v2"}, {"/query?a=1", nil, "v1"}, {"/query?a=2", nil, "v2"}, {"/query?z=0&a=1", nil, "v1"}, {"/query?b=xxx", nil, "v1"}, {"/query?b=xxy", nil, "v2"},
		{"/query?c=pq", nil, "v1"}, {"/query?c=q", nil, "v2"},
		{"PUT /method", nil, "v1"}, {"PATCH /method", nil, "v1"}, {"POST /method", nil, "v2"},
		{"/authority", []string{"host: special.example"}, "v1"}, {"/authority", nil, "v2"},
		{"/from-client", nil, "v1"}, {"/from-other", nil, "v2"}, {"/from-namespace", nil, "v1"}, {"/from-nowhere", nil, "v2"},
		{"/port", nil, "v1"}, {"/wrong-port", nil, "v2"},
		{"/weights", nil, "v2"},
		// Paths are made canonical before anything is matched.
		{"/x/../exact", nil, "v1"}, {"//exact", nil, "v2"}, {"/%65xact", nil, "v1"}, {"/./prefix", nil, "v1"},
	} {
		method, path, ok := strings.Cut(c.request, " ")
		if !ok {
			method, path = http.MethodGet, c.request
		}
		r := client.Do(method, "http://echo:8080"+path, nil, c.headers...)
		if r.Status != http.StatusOK || r.Report(t).Version != c.want {
			t.Errorf("%s %v: %v, want %s", c.request, c.headers, r, c.want)
		}
	}

	// What the destination is sent.
	for _, c := range []struct{ path, target, host string }{
		{"/rewrite/prefix/a/b?q=1", "/new/a/b?q=1", "echo:8080"},
		{"/rewrite/exact?q=1", "/whole?q=1", "other.example"},
		{"/rewrite/regex/one/two", "/two/one", "echo:8080"},
	} {
		r := client.Get("http://echo:8080" + c.path).Report(t)
		if r.Target != c.target || r.Host != c.host {
			t.Errorf("%s: came as %s for %s, want %s for %s", c.path, r.Target, r.Host, c.target, c.host)
		}
	}

	// What the proxy answers by itself.
	for _, c := range []struct {
		path, location string
		status         int
		body           string
	}{
		{"/redirect/uri/x?q=1", "http://echo:8080/elsewhere", 301, ""},
		{"/redirect/authority/x?q=1", "http://other.example/redirect/authority/x?q=1", 307, ""},
		{"/redirect/scheme/x", "https://echo:8443/redirect/scheme/x", 302, ""},
		{"/redirect/prefix/x?q=1", "http://echo:8080/p/x?q=1", 308, ""},
		{"/direct/x", "", 418, "short and stout"},
	} {
		r := client.Get("http://echo:8080" + c.path)
		location := r.Header.Get("Location")
		if c.path == "/redirect/uri/x?q=1" {
			location, _, _ = strings.Cut(location, "?") // whether the query stays is told below
		}
		if r.Status != c.status || location != c.location || string(r.Body) != c.body {
			t.Errorf("%s: %v to %q", c.path, r, r.Header.Get("Location"))
		}
	}

	m.Run("headers are set, added and removed", func(t *testing.T) {
		r := client.Get("http://echo:8080/headers?header=x-r-set:%20old&header=x-r-add:%20one&header=x-r-remove:%20x",
			"x-set: old", "x-add: one", "x-remove: x", "x-other: stays")
		got := r.Report(t)
		for name, want := range map[string][]string{"x-set": {"new"}, "x-created": {"yes!"}, "x-add": {"one", "more"}, "x-remove": nil, "x-other": {"stays"}, "x-to": {"v1"}, "x-from": {"127.0.0.1"}} {
			var values []string
			for _, h := range got.Headers {
				if strings.EqualFold(h.Name, name) {
					values = append(values, strings.Split(h.Value, ",")...)
				}
			}
			if !slices.Equal(values, want) {
				t.Errorf("request header %s: %q, want %q", name, values, want)
			}
		}
		for name, want := range map[string][]string{"X-R-Set": {"new"}, "X-R-Add": {"one", "more"}, "X-R-Remove": nil, "X-By": {"v1"}} {
			if !slices.Equal(r.Header[name], want) {
				t.Errorf("response header %s: %q, want %q", name, r.Header[name], want)
			}
		}
	})

	m.Run("a timeout is a 504 that says so", func(t *testing.T) {
		r := client.Get("http://echo:8080/timeout?delay=20s", "x-request-id: too-late")
		if r.Status != http.StatusGatewayTimeout || string(r.Body) != "upstream request timeout" || r.Took > 15*time.Second {
			t.Errorf("%v after %v", r, r.Took)
		}
		client.AccessLog("too-late", "504 UT response_timeout")
		pods[0].AccessLog("too-late", " 0 DC downstream_remote_disconnect")
		client.Get("http://echo:8080/in-time?delay=1ms").Report(t)
	})

	for _, c := range []struct {
		path           string
		attempts, want int
	}{
		{"/retry/none?status=503", 1, 503},
		{"/retry/5xx?status=503", 4, 503},
		{"/retry/5xx?status=404", 1, 404},
		{"/retry/5xx?reset=request", 4, 503},
		{"/retry/code?status=409", 3, 409},
		// The server's proxy answers for an application that resets, and says that a GET may be
		// repeated.
		{"/retry/reset?reset=request", 3, 503},
		{"/retry/slow?delay=20s", 3, 504},
		// The default policy is for connection failures.
		{"/retry/default?status=500", 1, 500},
		{"/retry/default?status=503&header=x-weir-undelivered:%20true", 1, 503},
		{"/retry/default?reset=request", 3, 503},
		{"POST /retry/default?reset=request", 1, 503},
	} {
		m.Run(fmt.Sprintf("%s is tried %d times", c.path, c.attempts), func(t *testing.T) {
			id := strings.NewReplacer("/", "-", "?", "-", "=", "-", " ", "-", "%", "-", ":", "-").Replace(c.path)
			method, path, ok := strings.Cut(c.path, " ")
			if !ok {
				method, path = http.MethodGet, c.path
			}
			r := client.Do(method, "http://echo:8080"+path, nil, "x-request-id: id"+id)
			if r.Status != c.want || r.Header.Get("x-weir-undelivered") != "" && strings.Contains(c.path, "header") {
				t.Errorf("got %v", r)
			}
			client.AccessLog("id" + id) // it is over
			m.Eventually("every attempt is logged", func() error {
				if n := len(pods[0].AccessLog("id" + id)); n != c.attempts {
					return fmt.Errorf("%d attempts arrived", n)
				}
				return nil
			})
		})
	}

	m.Run("a quarter of the requests is aborted", func(t *testing.T) {
		const n = 800
		aborted := 0
		for range n {
			switch r := client.Get("http://echo:8080/abort"); {
			case r.Status == 429 && string(r.Body) == "fault filter abort":
				aborted++
			case r.Status != 200:
				t.Fatal(r)
			}
		}
		if share := float64(aborted) / n; share < 0.18 || share > 0.32 { // 4.5 standard deviations
			t.Errorf("%.1f %% were aborted", 100*share)
		}
		client.AccessLog("/abort", "429 FI fault_filter_abort")
	})

	for _, c := range []struct {
		name, url, id string
		status        int
		log           []string
	}{
		{"nobody has the subset's labels", "http://echo:8080/nobody", "nobody-there", 503, []string{"503 UH no_healthy_upstream", "outbound|8080|v9|echo.default.svc.cluster.local"}},
		{"the destination does not exist", "http://echo:8080/unknown", "unknown-host", 503, []string{"503 NC cluster_not_found"}},
		{"the subset is not defined", "http://echo:8080/no-subset", "unknown-subset", 503, []string{"503 NC cluster_not_found"}},
		{"no route matches", "http://narrow:8080/wide", "no-route", 404, []string{"404 NR route_not_found"}},
	} {
		m.Run(c.name, func(t *testing.T) {
			r := client.Get(c.url, "x-request-id: "+c.id)
			if r.Status != c.status {
				t.Errorf("got %v", r)
			}
			client.AccessLog(append(c.log, c.id)...)
		})
	}
	if r := client.Get("http://narrow:8080/narrow/x"); r.Status != 200 {
		t.Error(r)
	}
}

// Requests to an endpoint where nobody listens are tried elsewhere, by default.
func TestADeadEndpointIsAvoidedByRetries(t *testing.T) {
	t.Parallel()
	dead := echoPod("echo-dead", "v1")
	dead.Program, dead.NoProxy = nil, true
	_, client, _ := echoMesh(t, nil, echoPod("echo-0", "v1"), dead)
	if e := client.Endpoints("outbound|8080||echo.default.svc.cluster.local"); len(e) != 2 {
		t.Fatalf("the dead endpoint is not there to be avoided: %v", e)
	}
	for range 60 {
		client.Get("http://echo:8080/").Report(t)
	}
}
