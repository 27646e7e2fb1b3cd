package h1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/weirmesh/weir/proxy/http/message"
)

// TestDifferential lets our decoder and net/http read the same generated messages, valid and mutated, and asks that they
// agree: both take the message and see the same in it, or both do not. Every way in which they may disagree is in one of
// the tables below with its reason; anything else fails the test, and so does an entry that explains nothing any more.
//
// WEIR_DIFFERENTIAL is the number of messages (make differential: 1,000,000), WEIR_SEED chooses others.
func TestDifferential(t *testing.T) {
	n, seed := 20_000, 1
	for name, v := range map[string]*int{"WEIR_DIFFERENTIAL": &n, "WEIR_SEED": &seed} {
		if s := os.Getenv(name); s != "" {
			var err error
			if *v, err = strconv.Atoi(s); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
		}
	}
	c := comparison{used: map[string]int{}, open: map[string]string{}}
	for i := range n {
		g := generator{rnd: rand.New(rand.NewPCG(uint64(i), uint64(seed)))}
		response := i%3 == 2
		in, asked := g.message(response)
		c.in = in
		c.compare(response, asked)
	}
	for _, k := range slices.Sorted(maps.Keys(c.open)) {
		t.Errorf("not explained, %d times: %s: %s", c.used[k], k, c.open[k])
	}
	t.Logf("%d messages: %d taken by both, %d by neither; disagreements explained:", n, c.taken, c.refused)
	for _, k := range slices.Sorted(maps.Keys(c.used)) {
		t.Logf("%7d  %s", c.used[k], k)
	}
	if n < 1_000_000 {
		return // too few to meet every disagreement
	}
	for _, table := range []map[string]string{weRefuse, theyRefuse, different} {
		for k := range table {
			if c.used[k] == 0 {
				t.Errorf("%q explains nothing", k)
			}
		}
	}
}

// weRefuse says why we do not take what net/http takes, by Reason. "The server" is http.Server, which looks at more than
// http.ReadRequest, which is what we compare with.
var weRefuse = map[string]string{
	"bare_lf":                      "they end lines with LF too (RFC 9112 section 2.2 allows it); who does not would read another message",
	"nul_byte":                     "they do not look into chunk extensions, names are left to the server",
	"invalid_field_value":          "they do not look into chunk extensions and reasons",
	"space_before_colon":           "names are left to the server, which refuses them",
	"folded_field":                 "they unfold; obs-fold is obsolete, and where it is not unfolded its second line is a header",
	"missing_host":                 "Host is left to the server, which refuses this",
	"invalid_host":                 "Host is left to the server, which takes more characters",
	"userinfo_in_target":           "they take user@host, where parsers disagree about which is the host",
	"fragment_in_target":           "they take # as a part of the path, others end the path there",
	"invalid_target":               "they take an asterisk with any method, other schemes, an empty host, CONNECT without port",
	"invalid_version":              "they take HTTP/0.9 and HTTP/1.2, left to the server; nobody speaks them",
	"invalid_status_line":          "they take any three digits as status, other versions and control characters in the reason",
	"invalid_content_length":       "they unfold the value first, or do not look at it in a response without body",
	"several_content_lengths":      "they take equal ones as one; from a client we do not",
	"length_and_transfer_encoding": "they let Transfer-Encoding win, as RFC 9112 section 6.3 allows; whoever does not sees another message",
	"transfer_encoding_in_http10":  "they ignore it in HTTP/1.0, whoever does not sees another message",
	"unknown_transfer_coding":      "they ignore it in HTTP/1.0, and where there is no body",
	"body_in_connect":              "the meaning of a body of CONNECT is not defined (RFC 9110 section 9.3.6)",
	"unknown_expectation":          "Expect is left to the server, which answers 417 as we do",
	"protected_field_nominated":    "Connection is the business of proxies",
	"unexpected_upgrade":           "whether 101 was asked for is left to their client",
	"invalid_chunk_size":           "they take 16 digits",
}

// theyRefuse says why net/http does not take what we take, by the beginning of its error.
var theyRefuse = map[string]string{
	"parse":                        "they parse the target as a URL; paths that are none are the application's business",
	"bad trailer key":              "they refuse Trailer with names that must not be trailers; we drop such trailers when they come",
	"invalid byte in chunk length": "they take no white space before a chunk extension (BWS of RFC 9112 section 7.1.1)",
	"malformed HTTP request":       "an empty line before a request, which RFC 9112 section 2.2 asks servers to ignore",
}

// different says what both take and see differently.
var different = map[string]string{
	"an empty port":                  "a host with an empty port is the host (RFC 3986 section 6.2.3), and compared as such",
	"absolute target":                "they keep the whole target, we have scheme, authority and path",
	"a header that Connection names": "it ends at the next hop (RFC 9110 section 7.6.1)",
	"header connection":              "as above",
	"header keep-alive":              "as above",
	"header proxy-connection":        "as above",
	"header http2-settings":          "as above, see AsksHTTP2",
	"header te":                      "as above",
	"header upgrade":                 "as above; an upgrade that is made is in Request.Upgrade",
	"header expect":                  "it is in Request.Continue",
	"header content-length":          "a response of 204, and a CONNECT, have none to pass on (RFC 9110 section 8.6)",
	"no header trailer":              "they move it to Trailer",
	"a trailer that must not be one": "we drop what frames, routes or authenticates (RFC 9110 section 6.5.1)",
}

type comparison struct {
	in             []byte
	taken, refused int
	used           map[string]int
	open           map[string]string // not explained, with an example
}

// disagree notes a disagreement.
func (c *comparison) disagree(table map[string]string, key string, ours, theirs any) {
	c.used[key]++
	if _, ok := table[key]; !ok && c.open[key] == "" {
		c.open[key] = fmt.Sprintf("we %v, they %v: %q", ours, theirs, c.in)
	}
}

func (c *comparison) compare(response bool, asked string) {
	q := &message.Request{}
	q.SetMethod([]byte(asked))
	p := parse(c.in, response, q)
	r := readTheirs(c.in, response, asked)
	why, _, _ := strings.Cut(fmt.Sprint(r.err), " \"")
	switch {
	case p.ok && r.err == nil:
		c.taken++
		c.same(p, r)
	case p.ok:
		c.disagree(theyRefuse, why, "take it", r.err)
	case r.err != nil:
		c.refused++
	case p.d.state != failed:
		c.disagree(different, "they do not wait", "wait", "take it")
	default:
		c.disagree(weRefuse, p.d.Reason().String(), p.d.Reason(), "take it")
	}
}

// theirs is what net/http reads.
type theirs struct {
	req  *http.Request
	resp *http.Response
	body string
	used int
	err  error
}

func readTheirs(in []byte, response bool, asked string) (r theirs) {
	src := bytes.NewReader(in)
	b := bufio.NewReader(src)
	var body io.Reader
	if response {
		if r.resp, r.err = http.ReadResponse(b, &http.Request{Method: asked}); r.err == nil {
			body = r.resp.Body
		}
	} else if r.req, r.err = http.ReadRequest(b); r.err == nil {
		body = r.req.Body
	}
	if r.err == nil {
		var all []byte
		all, r.err = io.ReadAll(body)
		r.body = string(all)
	}
	r.used = len(in) - src.Len() - b.Buffered()
	return r
}

// same compares what both took.
func (c *comparison) same(p *parsed, r theirs) {
	differ := func(key string, ours, theirs any) { c.disagree(different, key, ours, theirs) }
	var h, trailer http.Header
	headers := &p.req.Headers
	if r.resp != nil {
		h, trailer, headers = r.resp.Header, r.resp.Trailer, &p.resp.Headers
		if p.resp.Status != r.resp.StatusCode {
			differ("status", p.resp.Status, r.resp.StatusCode)
		}
	} else {
		h, trailer = r.req.Header, r.req.Trailer
		if got := string(p.req.RawMethod); got != r.req.Method {
			differ("method", got, r.req.Method)
		}
		if got := string(p.req.Authority); got != r.req.Host {
			key := "host"
			if got+":" == r.req.Host {
				key = "an empty port"
			}
			differ(key, got, r.req.Host)
		}
		target := string(p.req.Path)
		if p.req.Method == message.CONNECT {
			target = string(p.req.Authority)
		}
		switch {
		case target == r.req.RequestURI:
		case p.req.Scheme != nil && strings.TrimSuffix(r.req.URL.Host, ":") == string(p.req.Authority) && strings.HasSuffix(r.req.RequestURI, strings.TrimLeft(target, "/*")):
			differ("absolute target", target, r.req.RequestURI)
		default:
			differ("target", target, r.req.RequestURI)
		}
		if p.d.KeepAlive() == r.req.Close {
			differ("keep-alive", p.d.KeepAlive(), !r.req.Close)
		}
		if (p.req.Protocol == message.HTTP11) != (r.req.ProtoMinor == 1) {
			differ("version", p.req.Protocol, r.req.Proto)
		}
	}
	if string(p.body) != r.body {
		differ("body", string(p.body), r.body)
	}
	if p.used != r.used {
		differ("bytes used", p.used, r.used)
	}
	fieldsDiffer(headers, h, "header", c.nominated(), differ)
	fieldsDiffer(&p.trail, trailer, "trailer", nil, differ)
}

// nominated are the names in Connection, which net/http does not always show.
func (c *comparison) nominated() (names []string) {
	for line := range strings.SplitSeq(strings.ToLower(string(c.in)), "\r\n") {
		if list, ok := strings.CutPrefix(line, "connection:"); ok {
			for name := range strings.SplitSeq(list, ",") {
				names = append(names, strings.Trim(name, " \t"))
			}
		}
	}
	return names
}

// fieldsDiffer compares fields by name: each name has the same values in the same order.
func fieldsDiffer(ours *message.Headers, theirs http.Header, what string, nominated []string, differ func(key string, ours, theirs any)) {
	all := map[string][]string{}
	for _, f := range ours.Fields() {
		all[string(f.Name)] = append(all[string(f.Name)], string(f.Value))
	}
	for name, values := range theirs {
		name = strings.ToLower(name)
		got := all[name]
		delete(all, name)
		switch {
		case slices.Equal(got, values):
		case got == nil && what == "trailer" && !message.AllowedTrailer(message.IDOf(name)):
			differ("a trailer that must not be one", got, values)
		case got == nil && slices.Contains(nominated, name):
			differ("a header that Connection names", got, values)
		default:
			differ(what+" "+name, got, values)
		}
	}
	for name, values := range all {
		differ("no "+what+" "+name, values, nil)
	}
}
