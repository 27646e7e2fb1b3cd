package h1

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
)

// generator makes messages by the grammar of RFC 9112, and now and then something next to it.
type generator struct {
	rnd *rand.Rand
	b   bytes.Buffer
}

func (g *generator) pick(of ...string) string { return of[g.rnd.IntN(len(of))] }

// rarely is true once in n times.
func (g *generator) rarely(n int) bool { return g.rnd.IntN(n) == 0 }

// message makes a request, or a response and the method it answers.
func (g *generator) message(response bool) (in []byte, asked string) {
	asked = "GET"
	if response {
		asked = g.pick("GET", "GET", "GET", "HEAD", "POST")
		g.response()
	} else {
		g.request()
	}
	in = g.b.Bytes()
	if g.rarely(2) {
		for range 1 + g.rnd.IntN(3) {
			in = g.mutate(in)
		}
	}
	return in, asked
}

func (g *generator) request() {
	method := g.pick("GET", "GET", "POST", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "M-SEARCH", "PRI")
	host := g.host()
	target := g.target(method, host)
	version := "HTTP/1.1"
	switch {
	case g.rarely(8):
		version = "HTTP/1.0"
	case g.rarely(50):
		version = g.pick("HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "HTTP/1.", "http/1.1", "HTTP/1.10", "HTTP/3")
	}
	space := func() string {
		if g.rarely(100) {
			return g.pick("  ", "\t", "", "\v", " \t")
		}
		return " "
	}
	g.b.WriteString(method + space() + target + space() + version)
	g.eol()
	var fields []string
	for range 1 {
		fields = append(fields, "Host: "+host)
	}
	switch {
	case g.rarely(40):
		fields = append(fields, "Host: "+g.host())
	case g.rarely(40):
		fields = fields[:0]
	}
	for range g.rnd.IntN(5) {
		fields = append(fields, g.field())
	}
	if g.rarely(20) {
		fields = append(fields, "Expect: "+g.pick("100-continue", "100-Continue", "x"))
	}
	body := g.pick("none", "none", "length", "length", "chunks", "chunks", "odd")
	g.framed(fields, body)
}

func (g *generator) response() {
	version := "HTTP/1.1"
	switch {
	case g.rarely(8):
		version = "HTTP/1.0"
	case g.rarely(50):
		version = g.pick("HTTP/1.2", "HTTP/2", "HTTP/2.0", "ICY", "http/1.1")
	}
	status := g.pick("200", "200", "200", "204", "304", "206", "301", "404", "500", "599", "100", "103", "101", "205")
	if g.rarely(40) {
		status = g.pick("99", "099", "600", "999", "2000", "20", "abc", "+200", "-200", "2 0", "")
	}
	reason := g.pick(" OK", " OK", " Not Found", " ", "", " caf\xc3\xa9", " a  b")
	g.b.WriteString(version + " " + status + reason)
	g.eol()
	var fields []string
	for range g.rnd.IntN(5) {
		fields = append(fields, g.field())
	}
	g.framed(fields, g.pick("none", "length", "length", "chunks", "chunks", "odd"))
}

// framed writes fields in some order, the fields that frame among them, and the body they frame.
func (g *generator) framed(fields []string, kind string) {
	text := strings.Repeat("a", g.rnd.IntN(20)) + g.pick("", "\r\n", "0\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "\x00\xff")
	body := ""
	switch kind {
	case "length":
		n := fmt.Sprint(len(text))
		if g.rarely(10) {
			n = g.pick("0"+n, "+"+n, n+","+n, n+", "+n, " "+n+" ", "0x"+n, n+".0", "-"+n, "", "99999999999999999999", n+"\t")
		}
		fields = append(fields, g.name("Content-Length")+": "+n)
		if g.rarely(20) {
			fields = append(fields, "Content-Length: "+g.pick(n, "3", "0"))
		}
		body = text
	case "chunks":
		fields = append(fields, g.name("Transfer-Encoding")+": "+g.coding())
		if g.rarely(15) {
			fields = append(fields, g.pick("Content-Length: 3", "Transfer-Encoding: chunked", "Transfer-Encoding: identity", "Content-Length: 0"))
		}
		body = g.chunks(text)
		if g.rarely(4) {
			fields = append(fields, "Trailer: "+g.pick("X-Sum", "x-a, x-b", "Content-Length", "Host", ""))
		}
	case "odd":
		body = text
	}
	g.rnd.Shuffle(len(fields), func(i, j int) { fields[i], fields[j] = fields[j], fields[i] })
	for _, f := range fields {
		g.b.WriteString(f)
		g.eol()
	}
	g.eol()
	g.b.WriteString(body)
	if g.rarely(4) {
		g.b.WriteString("GET /next HTTP/1.1\r\nHost: next\r\n\r\n")
	}
}

func (g *generator) eol() {
	if g.rarely(200) {
		g.b.WriteString(g.pick("\n", "\r", "\r\r\n", "\n\r", "\r\n ", "\r\n\t"))
		return
	}
	g.b.WriteString("\r\n")
}

func (g *generator) host() string {
	if g.rarely(20) {
		return g.pick("", "a b", "a,b", "u@a", "a/b", "a:", ":80", "a:http", "a:99999", "[::1", "[x]", "a%41", "a%zz", "a\x00b", "caf\xc3\xa9", "a:1:2", "a?b", "a#b", "a\\b")
	}
	return g.pick("example.com", "a", "a:80", "127.0.0.1:8080", "[::1]:80", "[2001:db8::1]", "A.B-c_d.", "*.a")
}

func (g *generator) target(method, host string) string {
	path := g.pick("/", "/a/b?c=d", "/a%20b", "//a", "/a/../b", "/%2e%2e/", "/?", "/a;b=c", "/a:b", "/\xc3\xa9", "/a%", "/a\"b", "/a|b", "/a\\b", "/?a%zz", "/*")
	switch {
	case method == "CONNECT" && !g.rarely(5):
		return g.pick(host, "b:443", "b", "b:", "[::1]:443")
	case method == "OPTIONS" && g.rarely(3):
		return "*"
	case g.rarely(8):
		return g.pick("http://", "https://", "HTTP://", "ftp://", "http:/", "http:") + g.pick(host, "b", "b:8080", "", "u@b") + g.pick(path, "", "?q")
	case g.rarely(40):
		return g.pick("*", "", "a", "?q", "a:80", "/a b", "/a#b", "/\x00", "/\x7f", "./a")
	}
	return path
}

// name is a name, sometimes in another spelling.
func (g *generator) name(s string) string {
	switch {
	case g.rarely(10):
		return strings.ToLower(s)
	case g.rarely(10):
		return strings.ToUpper(s)
	case g.rarely(60):
		return g.pick(s+" ", s+"\t", " "+s, strings.ReplaceAll(s, "-", "_"), s+"\x00", "\v"+s)
	}
	return s
}

func (g *generator) coding() string {
	if g.rarely(8) {
		return g.pick("Chunked", "CHUNKED", " chunked ", "\tchunked", "chunked,", ",chunked", "gzip, chunked", "chunked, gzip", "identity", "xchunked", "\"chunked\"", "chunked;q=1", "\vchunked", "chunked\x00", "", "chunked, chunked", "chunked identity")
	}
	return "chunked"
}

func (g *generator) field() string {
	name := g.name(g.pick("X-A", "X-B", "x-a", "Accept", "Cookie", "User-Agent", "Content-Type", "X", "Range", "Via", "x!#$%&'*+.^_`|~9"))
	value := g.pick("1", "a b", "a, b", "", "\"q\\\"q\"", "caf\xc3\xa9", "\xff", "a\tb", "x=1; y=2", "text/plain;charset=utf-8", ":", "a:b", strings.Repeat("z", g.rnd.IntN(40)))
	switch {
	case g.rarely(12):
		name, value = "Connection", g.pick("close", "keep-alive", "Close", "x-a", "close, x-b", "upgrade", "host", "content-length", "transfer-encoding", "te", "", ",", "cookie")
	case g.rarely(30):
		name = g.pick("Keep-Alive", "TE", "Proxy-Connection", "Upgrade", "Trailer", "HTTP2-Settings", "Date", "Set-Cookie", "Pragma")
	case g.rarely(60):
		name = g.pick("", "X Y", "X(Y)", "X\x00", "X\xc3\xa9", "X\r", ":path", "X/Y", "\"X\"", "X\x01")
	}
	if g.rarely(60) {
		value += g.pick("\x00", "\r", "\n", "\x01", "\x7f", "\v", "\x1b", "\r\n ", "\r\n\t", "\r\n")
	}
	colon := g.pick(": ", ":", ":  ", ":\t", ": ")
	if g.rarely(80) {
		colon = g.pick(" : ", "", " ", "::")
	}
	return name + colon + value
}

func (g *generator) chunks(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		n := 1 + g.rnd.IntN(len(text))
		b.WriteString(g.size(n))
		b.WriteString(text[:n])
		if g.rarely(60) {
			b.WriteString(g.pick("\n", "", "\r", "x\r\n", "\r\n\r\n"))
		} else {
			b.WriteString("\r\n")
		}
		text = text[n:]
	}
	if g.rarely(40) {
		return b.String()
	}
	b.WriteString(g.size(0))
	for range max(0, g.rnd.IntN(5)-2) {
		b.WriteString(g.trailer() + "\r\n")
	}
	if !g.rarely(60) {
		b.WriteString("\r\n")
	}
	return b.String()
}

func (g *generator) trailer() string {
	if g.rarely(3) {
		return g.pick("Content-Length: 5", "Host: b", "Transfer-Encoding: chunked", "Authorization: x", "Set-Cookie: a=b", "Connection: close", "Trailer: x", "X-Forwarded-For: x")
	}
	return g.field()
}

func (g *generator) size(n int) string {
	s := fmt.Sprintf(g.pick("%x", "%X", "%x", "0%x", "000%x"), n)
	if g.rarely(12) {
		s += g.pick(";a=b", ";a", " ; a = \"b\"", " ", "\t", ";", ";a=\"\r\"", ";\n", ";\x00", "; \xff")
	}
	if g.rarely(80) {
		s = g.pick("+"+s, "-"+s, "0x"+s, " "+s, "", s+"g", strings.Repeat("0", 20)+s, fmt.Sprintf("%016x", n), "ffffffffffffffff", "10000000000000000", "_"+s)
	}
	if g.rarely(80) {
		return s + g.pick("\n", "\r", "\r\r\n", " \r\n", "\r\n\r\n")
	}
	return s + "\r\n"
}

// mutate changes bytes without regard for the grammar.
func (g *generator) mutate(in []byte) []byte {
	if len(in) == 0 {
		return in
	}
	at := g.rnd.IntN(len(in))
	to := at + g.rnd.IntN(min(len(in)-at, 12)+1)
	switch g.rnd.IntN(6) {
	case 0: // another byte
		out := bytes.Clone(in)
		out[at] = byte(g.rnd.IntN(256))
		return out
	case 1: // bytes gone
		return append(bytes.Clone(in[:at]), in[to:]...)
	case 2: // bytes twice
		return append(bytes.Clone(in[:to]), in[at:]...)
	case 3: // something that means something
		s := g.pick("\r", "\n", "\r\n", " ", "\t", ":", ",", ";", "\x00", "\v", "\xff", "0", "chunked", "close", "\r\nContent-Length: 2\r\n", "\r\nTransfer-Encoding: chunked\r\n", "\r\n\r\n", "HTTP/1.1", "#", "%", "@", "\"", "\r\n ")
		return append(append(bytes.Clone(in[:at]), s...), in[at:]...)
	case 4: // the rest gone
		return in[:at]
	}
	out := bytes.Clone(in) // a letter in the other case, a bit in a byte
	out[at] ^= 1 << g.rnd.IntN(8)
	return out
}
