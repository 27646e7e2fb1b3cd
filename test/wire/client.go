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

// Client is a client of HTTP/1.1 that sends what it is told, byte by byte.
type Client struct {
	chain *Chain
	p     *mem.Peer
	in    []byte
	heads []bool // which of the requests have the method HEAD

	Responses []*Message
	Tunnel    []byte // what came behind a 101
	tunnels   bool
	err       error  // how the connection ended
	problem   string // what could not be read
}

// Dial connects to the first proxy.
func (c *Chain) Dial() *Client {
	p, err := c.Net.Dial(address(0))
	if err != nil {
		c.t.Fatal(err)
	}
	return &Client{chain: c, p: p}
}

var headRequest = regexp.MustCompile(`(?m)^([A-Z]+) [^ ]+ HTTP/1\.1\r$`)

// Send sends b as far as it is taken, and lets everything happen that follows.
func (c *Client) Send(b []byte) {
	for _, m := range headRequest.FindAllSubmatch(b, -1) {
		c.heads = append(c.heads, string(m[1]) == "HEAD")
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
func (c *Client) Read() {
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
		if done := c.final(); done < len(c.heads) && c.heads[done] {
			method = "HEAD"
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
		c.Responses = append(c.Responses, m)
		c.in = c.in[n:]
		c.tunnels = m.status() == 101
	}
	if c.tunnels {
		c.Tunnel, c.in = append(c.Tunnel, c.in...), nil
	}
}

// final is the number of final responses so far.
func (c *Client) final() (n int) {
	for _, m := range c.Responses {
		if s := m.status(); s >= 200 || s == 101 {
			n++
		}
	}
	return n
}

// Answered reports whether another request may be sent.
func (c *Client) Answered() bool {
	return c.err == nil && c.problem == "" && c.final() > 0 && !c.tunnels && len(c.in) == 0
}

// Close ends the connection.
func (c *Client) Close() {
	c.p.Close()
	c.chain.Settle()
}

// Report tells what the client got, with the reasons the proxies give for their own answers.
func (c *Client) Report() string {
	all := c.Responses
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
		why := c.chain.why(final)
		final++
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
		parts = append(parts, text)
	}
	if len(c.Tunnel) > 0 {
		parts = append(parts, "tunnel "+short(c.Tunnel))
	}
	if len(all) == 0 {
		parts = append(parts, "nothing")
	}
	if c.problem != "" {
		parts = append(parts, "UNREADABLE: "+c.problem)
	} else if len(c.in) > 0 && len(all) == len(c.Responses) {
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
	return strings.Join(parts, "; ")
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

// Report tells what the back end received.
func (b *Backend) Report() string {
	if len(b.Requests) == 0 {
		return "nothing"
	}
	var lines []string
	for _, m := range b.Requests {
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
	return strings.Join(lines, "; ")
}

// ours are fields that proxies add, and those that Report shows in another way.
var ours = regexp.MustCompile(`^(?i:host|content-length|transfer-encoding|x-request-id|x-forwarded-proto|x-envoy-.*|server|date|content-type|sec-websocket-(key|version))$`)

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
