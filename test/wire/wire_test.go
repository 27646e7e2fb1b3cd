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

// chains are the ways a request can take: same and changing protocols on every hop.
var chains = map[wire.Protocol][]wire.Hops{
	wire.H1: {
		{wire.H1, wire.H1, wire.H1}, {wire.H1, wire.H2, wire.H1},
	},
}

// TestH1 runs testdata/h1/*: clients of HTTP/1.1 against every chain that begins with it. Only commit changes of the
// expected output if you understand what caused them and if they are desired.
//
// Input lines end with CRLF and know the escapes of Go strings; a line ending in \c has no CRLF behind it (the runner
// cuts empty lines at the end, so a head ends with a line that is only \c), and {{text*n}} stands for n times text. Commands:
//
//	config     (input: YAML) fields of the first proxy's HttpConnectionManager, with all: of every proxy's, for what
//	           follows in the file
//	request    (input: what a client sends) A line "~" lets everything happen before the rest is sent.
//	           early: the back end answers when it has read the head
//	           incomplete: do not try the connection again
//	exchange   (input: lines "> " a client sends and "< " the back end answers with, in this order) As request, and
//	           further lines of the back end are sent on its newest connection.
//
// The output says what the client got: each answer with its body if it is the back end's, else with the reason why a
// proxy made it; and whether the connection is open. Then what the back end read. Where chains differ, it says in which.
// Behind every case further requests are sent on the same connections, and on another one: each must be answered
// with what belongs to it.
func TestH1(t *testing.T) {
	n := 0
	datadriven.Walk(t, "testdata/h1", func(t *testing.T, path string) {
		var o wire.Options
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "config" {
				o = wire.Options{Manager: d.Input, Everywhere: d.HasArg("all")}
				return ""
			}
			n++
			var results results
			for _, hops := range chains[wire.H1] {
				o.Segment = 0
				whole := runH1(t, d, hops, o)
				results.add(hops, whole)
				if d.HasArg("large") {
					continue
				}
				o.Segment = 1
				if cut := runH1(t, d, hops, o); cut != whole {
					t.Errorf("%s: %v: byte by byte gives\n%sinstead of\n%s", d.Pos, hops, cut, whole)
				}
			}
			return results.String()
		})
	})
	if n < 250 {
		t.Errorf("%d cases: where are the others?", n)
	}
}

func runH1(t *testing.T, d *datadriven.TestData, hops wire.Hops, o wire.Options) string {
	c := wire.NewChain(t, hops, o)
	c.Back.Early = d.HasArg("early")
	client := c.Dial()
	switch d.Cmd {
	case "request":
		for part := range strings.SplitSeq(d.Input, "\n~\n") {
			client.Send(raw(t, part))
		}
	case "exchange":
		converse(t, c, client, d.Input)
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	report := report(t, d, c, client)
	where := fmt.Sprintf("%s: %v", d.Pos, hops)
	if client.Answered() && !d.HasArg("incomplete") {
		probe(t, where+", the same connection", c, client)
	}
	client.Close()
	other := c.Dial()
	for range 2 {
		probe(t, where+", another connection", c, other)
	}
	other.Close()
	c.Close()
	return report
}

// converse sends what the two sides say.
func converse(t *testing.T, c *wire.Chain, client *wire.Client, input string) {
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

// report tells the result of a case, and fails the test where no result can be right.
func report(t *testing.T, d *datadriven.TestData, c *wire.Chain, client *wire.Client) string {
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
	return fmt.Sprintf("client: %s\nback end: %s\n", client.Report(), c.Back.Report())
}

// probe sends a request that must be answered with what belongs to it, and must be all that the back end sees.
func probe(t *testing.T, where string, c *wire.Chain, client *wire.Client) {
	t.Helper()
	c.Forget()
	had := len(client.Responses)
	client.Send([]byte("GET /probe HTTP/1.1\r\nHost: probe\r\n\r\n"))
	for _, p := range c.Back.Problems {
		t.Errorf("%s: the back end got what it does not read: %s", where, p)
	}
	if n := len(client.Responses) - had; n != 1 || string(client.Responses[had].Body) != "GET /probe HTTP/1.1" {
		t.Errorf("%s: a further request is answered with: %s", where, client.Report())
	}
	if len(c.Back.Requests) != 1 || c.Back.Requests[0].Start != "GET /probe HTTP/1.1" || c.Back.Requests[0].Get("host") != "probe" {
		t.Errorf("%s: a further request reaches the back end as: %s", where, c.Back.Report())
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

// raw reads the notation of the test files.
func raw(t *testing.T, text string) []byte {
	text = repeated.ReplaceAllStringFunc(text, func(s string) string {
		p := repeated.FindStringSubmatch(s)
		n, _ := strconv.Atoi(p[2])
		return strings.Repeat(p[1], n)
	})
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
