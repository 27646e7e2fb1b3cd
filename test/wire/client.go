package wire

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/weirmesh/weir/proxy/loop/mem"
)

// Client is a client of the first proxy.
type Client interface {
	// Ask sends a request as it should be.
	Ask(method, host, path string)
	// Send sends what it is told: bytes for HTTP/1.1, the notation of frames for HTTP/2.
	Send(b []byte)
	// Read takes what has arrived.
	Read()
	// Answers are the final responses so far, in order.
	Answers() []*Message
	// Ready reports whether another request may be sent.
	Ready() bool
	// Report tells what the client got, with the reasons the proxies give for their own answers.
	Report() string
	Close()
}

// Dial connects to the first proxy.
func (c *Chain) Dial() Client {
	p, err := c.Net.Dial(address(0))
	if err != nil {
		c.t.Fatal(err)
	}
	if c.Hops[0] == H2 {
		return newClient2(c, p)
	}
	return &client1{chain: c, p: p}
}

// client1 speaks HTTP/1.1.
type client1 struct {
	chain   *Chain
	p       *mem.Peer
	in      []byte
	methods []string // of the requests

	responses []*Message
	tunnel    []byte // what came behind a 101
	tunnels   bool
	err       error  // how the connection ended
	problem   string // what could not be read
}

var headRequest = regexp.MustCompile(`(?m)^([A-Z]+) [^ ]+ HTTP/1\.1\r$`)

func (c *client1) Ask(method, host, path string) {
	c.Send(fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: %s\r\n\r\n", method, path, host))
}

// Queue sends without letting anything happen.
func (c *client1) Queue(text string) { _, _ = c.p.Send([]byte(text)) }

// Send sends b as far as it is taken, and lets everything happen that follows.
func (c *client1) Send(b []byte) {
	for _, m := range headRequest.FindAllSubmatch(b, -1) {
		c.methods = append(c.methods, string(m[1]))
	}
	for len(b) > 0 && c.err == nil {
		n, err := c.p.Send(b)
		b = b[n:]
		c.chain.Settle()
		c.Read()
		if err != nil || n == 0 {
			break
		}
	}
}

// Read takes what has arrived.
func (c *client1) Read() {
	for {
		b, err := c.p.Recv()
		c.in = append(c.in, b...)
		if err != nil && c.err == nil {
			c.err = err
		}
		if len(b) == 0 || err != nil {
			break
		}
		c.chain.Settle()
	}
	for len(c.in) > 0 && c.problem == "" && !c.tunnels {
		method := ""
		if done := len(c.Answers()); done < len(c.methods) {
			method = c.methods[done]
		}
		m, n, err := readResponse(c.in, method, c.err != nil)
		switch {
		case err != nil:
			c.problem = err.Error()
			return
		case m == nil, !m.Complete && c.err == nil:
			return
		case !m.Complete:
			n = len(c.in)
		}
		c.responses = append(c.responses, m)
		c.in = c.in[n:]
		c.tunnels = m.status() == 101 || method == "CONNECT" && m.status()/100 == 2
	}
	if c.tunnels {
		c.tunnel, c.in = append(c.tunnel, c.in...), nil
	}
}

// Answers is described at Client.
func (c *client1) Answers() (final []*Message) {
	for _, m := range c.responses {
		if s := m.status(); s >= 200 || s == 101 {
			final = append(final, m)
		}
	}
	return final
}

// Ready is described at Client.
func (c *client1) Ready() bool {
	return c.err == nil && c.problem == "" && len(c.Answers()) > 0 && !c.tunnels && len(c.in) == 0
}

// Close ends the connection.
func (c *client1) Close() {
	c.p.Close()
	c.chain.Settle()
}

// Report tells what the client got, with the reasons the proxies give for their own answers.
func (c *client1) Report() string {
	all := c.responses
	if m, _, err := readResponse(c.in, "", false); m != nil && err == nil {
		m.Complete = false
		all = append(slices.Clone(all), m)
	}
	var parts []string
	final := 0
	for _, m := range all {
		text := m.Start[9:12]
		if s := m.status(); s < 200 && s != 101 {
			parts = append(parts, text+shown(m.Fields))
			continue
		}
		parts = append(parts, text+m.report(c.chain.why(final)))
		final++
	}
	if len(c.tunnel) > 0 {
		parts = append(parts, "tunnel "+short(c.tunnel))
	}
	if len(all) == 0 {
		parts = append(parts, "nothing")
	}
	if c.problem != "" {
		parts = append(parts, "UNREADABLE: "+c.problem)
	} else if len(c.in) > 0 && len(all) == len(c.responses) {
		parts = append(parts, "the beginning of another: "+short(c.in))
	}
	switch {
	case c.err == nil:
		parts = append(parts, "open")
	case errors.Is(c.err, io.EOF):
		parts = append(parts, "closed")
	default:
		parts = append(parts, "reset")
	}
	return joined(parts)
}

// joined says once what is repeated.
func joined(parts []string) string {
	var b strings.Builder
	for i := 0; i < len(parts); {
		n := 1
		for i+n < len(parts) && parts[i+n] == parts[i] {
			n++
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(parts[i])
		if n > 1 {
			fmt.Fprintf(&b, " (%d times)", n)
		}
		i += n
	}
	return b.String()
}

// report tells all of a response but its status.
func (m *Message) report(why string) (text string) {
	switch {
	case why != "":
		text += " " + why
	case len(m.Body) > 0:
		text += " " + short(m.Body)
	}
	text += shown(m.Fields)
	if len(m.Trailers) > 0 {
		text += " trailers" + shown(m.Trailers)
	}
	if !m.Complete {
		text += " incomplete"
	}
	return text
}

// why is what the proxies say about the i-th exchange, "" if the back end answered it.
func (c *Chain) why(i int) string {
	const upstream = "via_upstream"
	for place := range c.nodes {
		e, ok := c.Entry(place, i)
		switch {
		case !ok:
			return ""
		case e.Details == upstream:
		case place == 0:
			return e.Details
		default:
			return fmt.Sprintf("proxy %d: %s", place+1, e.Details)
		}
	}
	return ""
}

// Report tells what the back end received, without partial requests if whole.
func (b *Backend) Report(whole bool) string {
	var lines []string
	for _, m := range b.Requests {
		if whole && !m.Complete {
			continue
		}
		start := short([]byte(strings.TrimSuffix(m.Start, " HTTP/1.1")))
		start = start[1 : len(start)-1]
		text := fmt.Sprintf("%s host=%s%s", start, m.Get("host"), shown(m.Fields))
		switch {
		case m.Length >= 0:
			text += fmt.Sprintf(" body of %d", m.Length)
		case m.Length == untilEnd:
			text += " body"
		}
		if len(m.Body) > 0 {
			text += " " + short(m.Body)
		}
		if len(m.Trailers) > 0 {
			text += " trailers" + shown(m.Trailers)
		}
		if !m.Complete {
			text += " incomplete"
		}
		lines = append(lines, text)
	}
	if len(lines) == 0 {
		return "nothing"
	}
	return joined(lines)
}

// ours are fields that proxies add, and those that Report shows in another way.
var ours = regexp.MustCompile(`^(?i:host|content-length|transfer-encoding|x-request-id|x-forwarded-proto|x-envoy-.*|x-weir-why|server|date|content-type|sec-websocket-(key|version))$`)

func shown(fs []Field) string {
	var b strings.Builder
	for _, f := range fs {
		if !ours.MatchString(f.Name) && (f.Name != "connection" || f.Value != "close") {
			q := short([]byte(f.Value))
			fmt.Fprintf(&b, " [%s: %s]", f.Name, q[1:len(q)-1])
		}
	}
	return b.String()
}

var fills = regexp.MustCompile(`x{50,}|a{50,}|A{50,}`)

func fill(s string) string { return fmt.Sprintf("<%d %c>", len(s), s[0]) }

func short(b []byte) string {
	return fills.ReplaceAllStringFunc(strconv.Quote(string(b)), fill)
}

// SecondOpinion lets net/http read the same bytes. It returns what it sees differently, "" if nothing.
func (m *Message) SecondOpinion() string {
	if len(m.raw) == 0 {
		return "" // it is not complete, or became a tunnel
	}
	q, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(m.raw)))
	if err != nil {
		if strings.Contains(err.Error(), "parse ") || strings.Contains(err.Error(), "invalid URI") {
			return "" // it wants to understand the URL, which is the application's business
		}
		return err.Error()
	}
	body, err := io.ReadAll(q.Body)
	switch {
	case err != nil:
		return err.Error()
	case q.Method+" "+q.RequestURI+" HTTP/1.1" != m.Start:
		return fmt.Sprintf("%s %s", q.Method, q.RequestURI)
	case q.Host != m.Get("host"):
		return "host " + q.Host
	case !bytes.Equal(body, m.Body):
		return fmt.Sprintf("body %q", body)
	case len(q.Trailer) < len(m.Trailers):
		return fmt.Sprintf("%d trailers", len(q.Trailer))
	}
	return ""
}
