package wire_test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/weirmesh/weir/test/wire"
)

// chains are the ways a request can take: the same and changing protocols on every hop.
var chains = []wire.Hops{
	{wire.H1, wire.H1, wire.H1}, {wire.H1, wire.H2, wire.H1}, {wire.H1, wire.H2, wire.H2}, {wire.H1, wire.H1, wire.H2},
	{wire.H2, wire.H2, wire.H2}, {wire.H2, wire.H1, wire.H2}, {wire.H2, wire.H1, wire.H1}, {wire.H2, wire.H2, wire.H1},
}

func first(p wire.Protocol) func(wire.Hops) bool {
	return func(h wire.Hops) bool { return h[0] == p }
}

func last(p wire.Protocol) func(wire.Hops) bool {
	return func(h wire.Hops) bool { return h[len(h)-1] == p }
}

// TestChains runs testdata: clients and back ends that do not behave, against every chain of proxies they can stand at an
// end of. Only commit changes of the expected output if you understand what caused them and if they are desired.
//
// Lines of HTTP/1.1 end with CRLF and know the escapes of Go strings; a line ending in \c has no CRLF behind it (the runner
// cuts empty lines at the end, so a head ends with a line that is only \c), and {{text*n}} stands for n times text. For
// HTTP/2 the notation is that of frames in h2.go. A line "~" lets everything happen before the rest is sent. Commands:
//
//	config [all]  (input: YAML) fields of the first proxy's HttpConnectionManager, with all: of every proxy's, for what
//	              follows in the file
//	request       (input: what a client sends) The back end answers as a back end should.
//	              early: when it has read the head; incomplete: do not try the connection again; uncut: not byte by byte
//	exchange      (input: lines "> " a client sends and "< " the back end answers with, in this order) As request, and
//	              further lines of the back end are sent on its newest connection.
//	answer        (input: what the back end answers with) to a GET, or method=HEAD, or a WebSocket with upgrade
//
// The output says what the client got: each answer with its body if it is the back end's, else with the reason why a
// proxy made it; and whether the connection is open. Then what the back end read. Where chains differ, it says in which.
// Behind every case further requests are sent on the same connections, and on another one: each must be answered
// with what belongs to it.
func TestChains(t *testing.T) {
	total := 0
	lab := &wire.Lab{}
	for _, part := range []struct {
		folder string
		at     func(wire.Hops) bool
	}{
		{"h1", first(wire.H1)}, {"h2", first(wire.H2)}, {"answers1", last(wire.H1)}, {"answers2", last(wire.H2)},
	} {
		t.Run(part.folder, func(t *testing.T) {
			datadriven.Walk(t, "testdata/"+part.folder, func(t *testing.T, path string) {
				var o wire.Options
				datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
					if d.Cmd == "config" {
						o = wire.Options{Manager: d.Input, Everywhere: d.HasArg("all")}
						return ""
					}
					total++
					var results results
					for _, hops := range chains {
						// What the back end says in an exchange is written in HTTP/1.1.
						if !part.at(hops) || d.Cmd == "exchange" && !last(wire.H1)(hops) {
							continue
						}
						o.Segment = 0
						result, whole := run(t, lab, d, hops, o)
						results.add(hops, result)
						if d.HasArg("uncut") {
							continue
						}
						o.Segment = 1
						// How much of a request that is refused in the end has gone on depends on the cuts.
						if _, cut := run(t, lab, d, hops, o); cut != whole {
							t.Errorf("%s: %v: byte by byte gives\n%sinstead of\n%s", d.Pos, hops, cut, whole)
						}
					}
					return results.String()
				})
			})
		})
	}
	if total < 500 {
		t.Errorf("%d cases: where are the others?", total)
	}
}

// run runs a case on a chain. whole is the result without what the back end has of requests that are not complete.
func run(t *testing.T, lab *wire.Lab, d *datadriven.TestData, hops wire.Hops, o wire.Options) (result, whole string) {
	c := lab.Chain(t, hops, o)
	c.Back.Early = d.HasArg("early")
	client := c.Dial()
	switch d.Cmd {
	case "request":
		for _, part := range parts(d.Input) {
			client.Send(bytesFor(t, hops[0], part))
		}
	case "answer":
		answer(t, d, c, client)
	case "exchange":
		converse(t, c, client, d.Input)
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	examine(t, d, c)
	result = fmt.Sprintf("client: %s\nback end: %s\n", client.Report(), c.Back.Report(false))
	whole = fmt.Sprintf("client: %s\nback end: %s\n", client.Report(), c.Back.Report(true))
	where := fmt.Sprintf("%s: %v", d.Pos, hops)
	if client.Ready() && !d.HasArg("incomplete") {
		probe(t, where+", the same connection", c, client)
	}
	client.Close()
	other := c.Dial()
	for range 2 {
		probe(t, where+", another connection", c, other)
	}
	other.Close()
	c.Close()
	return result, whole
}

func parts(input string) []string { return strings.Split(input, "\n~\n") }

// bytesFor reads what one side sends.
func bytesFor(t *testing.T, p wire.Protocol, text string) []byte {
	if p == wire.H2 {
		// Between the frames of what is repeated, \n is the end of a line.
		return []byte(repeated.ReplaceAllStringFunc(text, func(s string) string { return strings.ReplaceAll(expand(s), `\n`, "\n") }))
	}
	return raw(t, text)
}

// answer asks for something, and lets the back end answer.
func answer(t *testing.T, d *datadriven.TestData, c *wire.Chain, client wire.Client) {
	back := c.Hops[len(c.Hops)-1]
	says := parts(d.Input)
	c.Back.Answer = append(c.Back.Answer, bytesFor(t, back, says[0]))
	method := "GET"
	d.MaybeScanArgs(t, "method", &method)
	switch {
	case !d.HasArg("upgrade"):
		client.Ask(method, "a", "/a")
	case c.Hops[0] == wire.H1:
		client.Send([]byte("GET /a HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"))
	default:
		client.Send([]byte("HEADERS 1\n :method: CONNECT\n :protocol: websocket\n :scheme: http\n :authority: a\n :path: /a\n sec-websocket-version: 13"))
	}
	for _, text := range says[1:] {
		c.Back.Send(bytesFor(t, back, text))
		c.Settle()
		client.Read()
	}
}

// converse sends what the two sides say.
func converse(t *testing.T, c *wire.Chain, client wire.Client, input string) {
	type part struct {
		who  string
		text []string
	}
	var parts []part
	for line := range strings.SplitSeq(input, "\n") {
		who, text, _ := strings.Cut(line, " ")
		switch {
		case who == "~": // another part
			parts = append(parts, part{})
		case who != ">" && who != "<":
			t.Fatalf("line %q begins with neither > nor <", line)
		case len(parts) == 0 || parts[len(parts)-1].who != who && parts[len(parts)-1].who != "":
			parts = append(parts, part{who, []string{text}})
		default:
			p := &parts[len(parts)-1]
			p.who, p.text = who, append(p.text, text)
		}
	}
	first := true
	for i, p := range parts {
		bytes := raw(t, strings.Join(p.text, "\n"))
		switch {
		case p.who == ">":
			if first && i+1 < len(parts) && parts[i+1].who == "<" {
				c.Back.Answer = append(c.Back.Answer, raw(t, strings.Join(parts[i+1].text, "\n")))
			}
			client.Send(bytes)
		case first:
			first = false
		default:
			c.Back.Send(bytes)
			c.Settle()
			client.Read()
		}
	}
}

// examine fails the test where no result can be right.
func examine(t *testing.T, d *datadriven.TestData, c *wire.Chain) {
	for _, p := range c.Back.Problems {
		t.Errorf("%s: %v: the back end got what it does not read: %s", d.Pos, c.Hops, p)
	}
	for _, m := range c.Back.Requests {
		if strings.Contains(m.Start+m.Get("host"), "smuggled") {
			t.Errorf("%s: %v: the back end got a request that was hidden: %s", d.Pos, c.Hops, m.Start)
		}
		if diff := m.SecondOpinion(); diff != "" {
			t.Errorf("%s: %v: net/http does not read %q as we do: %s", d.Pos, c.Hops, m.Start, diff)
		}
	}
}

// probe sends a request that must be answered with what belongs to it, and must be all that the back end sees.
func probe(t *testing.T, where string, c *wire.Chain, client wire.Client) {
	t.Helper()
	c.Forget()
	had := len(client.Answers())
	client.Ask("GET", "probe", "/probe")
	for _, p := range c.Back.Problems {
		t.Errorf("%s: the back end got what it does not read: %s", where, p)
	}
	if a := client.Answers()[had:]; len(a) != 1 || string(a[0].Body) != "GET /probe HTTP/1.1" {
		t.Errorf("%s: a further request is answered with: %s", where, client.Report())
	}
	if len(c.Back.Requests) != 1 || c.Back.Requests[0].Start != "GET /probe HTTP/1.1" || c.Back.Requests[0].Get("host") != "probe" {
		t.Errorf("%s: a further request reaches the back end as: %s", where, c.Back.Report(false))
	}
}

// results are what the chains made of one case.
type results struct {
	text  []string
	chain map[string][]string
}

func (r *results) add(hops wire.Hops, text string) {
	if r.chain == nil {
		r.chain = map[string][]string{}
	}
	if _, ok := r.chain[text]; !ok {
		r.text = append(r.text, text)
	}
	r.chain[text] = append(r.chain[text], hops.String())
}

func (r *results) String() string {
	if len(r.text) == 1 {
		return r.text[0]
	}
	var b strings.Builder
	for _, text := range r.text {
		fmt.Fprintf(&b, "%s:\n%s", strings.Join(r.chain[text], ", "), text)
	}
	return b.String()
}

var repeated = regexp.MustCompile(`\{\{(.+?)\*(\d+)\}\}`)

func expand(text string) string {
	return repeated.ReplaceAllStringFunc(text, func(s string) string {
		p := repeated.FindStringSubmatch(s)
		n, _ := strconv.Atoi(p[2])
		return strings.Repeat(p[1], n)
	})
}

// raw reads the notation of HTTP/1.1.
func raw(t *testing.T, text string) []byte {
	text = expand(text)
	var b []byte
	for line := range strings.SplitSeq(text, "\n") {
		end := "\r\n"
		if l, ok := strings.CutSuffix(line, `\c`); ok {
			line, end = l, ""
		}
		s, err := strconv.Unquote(`"` + strings.ReplaceAll(line, `"`, `\"`) + `"`)
		if err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		b = append(append(b, s...), end...)
	}
	return b
}
