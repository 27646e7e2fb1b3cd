package echo

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
)

// Report is what the server tells about a request, in JSON.
type Report struct {
	Method string     `json:"method"`
	Target string     `json:"target"` // the request target as received
	Path   string     `json:"path"`   // still escaped
	Query  url.Values `json:"query,omitempty"`
	Proto  string     `json:"proto"`
	Host   string     `json:"host"`

	Headers  []Field `json:"headers"` // in the order and case received
	Trailers []Field `json:"trailers,omitempty"`
	Body     *Body   `json:"body,omitempty"` // nil: not read before the answer

	Peer       string `json:"peer"`       // address of the other end of the connection
	Local      string `json:"local"`      // address of this end
	Connection uint64 `json:"connection"` // number of the connection at its listener, from 1
	Request    uint64 `json:"request"`    // number of the request on its connection, from 1

	Hostname string `json:"hostname"` // who answers
	Version  string `json:"version,omitempty"`

	// Identity is the URI of the nearest client in X-Forwarded-Client-Cert: the
	// identity that the proxy before this server has verified.
	Identity string       `json:"identity,omitempty"`
	Clients  []ClientCert `json:"clients,omitempty"` // all of them, nearest last
}

// Body tells of a request body.
type Body struct {
	Bytes   int64  `json:"bytes"`
	SHA256  string `json:"sha256"`         // in hexadecimal
	Framing string `json:"framing"`        // "length", "chunked" or "none"
	Text    string `json:"text,omitempty"` // its beginning, if it is UTF-8
}

// ClientCert is one element of X-Forwarded-Client-Cert, as Envoy writes it
// (HTTP header manipulation, "x-forwarded-client-cert").
type ClientCert struct {
	By      string   `json:"by,omitempty"` // URI of the certificate of who verified
	Hash    string   `json:"hash,omitempty"`
	Subject string   `json:"subject,omitempty"`
	URI     string   `json:"uri,omitempty"`
	DNS     []string `json:"dns,omitempty"`
	Cert    string   `json:"cert,omitempty"` // URL-encoded PEM
	Chain   string   `json:"chain,omitempty"`
}

// Header returns the value of the first header called name, in any case.
func (r *Report) Header(name string) string {
	if v := values(r.Headers, name); len(v) > 0 {
		return v[0]
	}
	return ""
}

func (r *Report) json() []byte {
	out, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		panic(err) // strings and numbers
	}
	return append(out, '\n')
}

// text is for people with curl.
func (r *Report) text() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s\n", r.Method, r.Target, r.Proto)
	for _, f := range r.Headers {
		fmt.Fprintf(&b, "%s: %s\n", f.Name, f.Value)
	}
	b.WriteByte('\n')
	if r.Body != nil {
		fmt.Fprintf(&b, "body: %d bytes, %s, sha256 %s\n", r.Body.Bytes, r.Body.Framing, r.Body.SHA256)
	}
	for _, f := range r.Trailers {
		fmt.Fprintf(&b, "trailer: %s: %s\n", f.Name, f.Value)
	}
	if r.Identity != "" {
		fmt.Fprintf(&b, "identity: %s\n", r.Identity)
	}
	fmt.Fprintf(&b, "connection: %d, request %d, from %s to %s\n", r.Connection, r.Request, r.Peer, r.Local)
	fmt.Fprintf(&b, "served by: %s %s\n", r.Hostname, r.Version)
	return []byte(b.String())
}

// clientCerts parses X-Forwarded-Client-Cert: elements separated by commas, each
// of Key=Value pairs separated by semicolons; values with such characters are in
// double quotes, a quote in them escaped by a backslash.
func clientCerts(header string) (out []ClientCert) {
	for _, element := range splitQuoted(header, ',') {
		var c ClientCert
		for _, pair := range splitQuoted(element, ';') {
			key, value, _ := strings.Cut(pair, "=")
			value = unquote(value)
			switch strings.ToLower(strings.TrimSpace(key)) {
			case "by":
				c.By = value
			case "hash":
				c.Hash = value
			case "subject":
				c.Subject = value
			case "uri":
				c.URI = value
			case "dns":
				c.DNS = append(c.DNS, value)
			case "cert":
				c.Cert = value
			case "chain":
				c.Chain = value
			}
		}
		out = append(out, c)
	}
	return out
}

// splitQuoted splits s at sep where it is not inside double quotes.
func splitQuoted(s string, sep byte) (out []string) {
	if s == "" {
		return nil
	}
	start, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\' && quoted:
			i++
		case s[i] == '"':
			quoted = !quoted
		case s[i] == sep && !quoted:
			out = append(out, s[start:i])
			start = i + 1
		}
	}
	return append(out, s[start:])
}

func unquote(s string) string {
	s = strings.TrimSpace(s)
	if len(s) < 2 || s[0] != '"' || s[len(s)-1] != '"' {
		return s
	}
	return strings.ReplaceAll(s[1:len(s)-1], `\"`, `"`)
}
