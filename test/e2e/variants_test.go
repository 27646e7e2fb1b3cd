package e2e_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weirmesh/weir/sample/echo"
)

// pathVariants are ways to write /admin and what is below it, and things that are nearly that.
func pathVariants() (out []string) {
	for _, dir := range []string{"/admin", "/%61dmin", "/a%64min", "/%61%64%6d%69%6E", "/./admin", "/x/../admin", "/x/./../admin", "/%2e/admin", "/x/%2e%2e/admin", "/x/%2E%2e/./admin", "/x/y/../../admin",
		"/../admin", "/..//../admin", "/admin/../admin", "/x/..%2f../admin", "//admin", "/x/..//admin", "///x/..///admin", "/%2fadmin", "/x/..%5cadmin", "/x\\..\\admin", "\\admin", "/\\admin", "/%5Cadmin",
		// encoded twice, overlong, full width, half encoded
		"/%2561dmin", "/x/%252e%252e/admin", "/x/..%252fadmin", "/x/%c0%ae%c0%ae/admin", "/%c0%afadmin", "/%ef%bc%8fadmin", "/%e0%80%afadmin", "/x/.%2e/admin", "/x/%2e./admin", "/%u0061dmin", "/%%61dmin", "/%6",
		// parameters, bytes that end strings, fragments
		"/;x/admin", "/x;/../admin", "/x/..;/admin", "/x/..;a=b/admin", "/admin;x", "/admin;x=1", "/admin;x=1,2;y", "/admin;", "/x;a=/../admin;b", "/x;a/..;b/admin;c", "/;/admin", "/x/.;a/../admin", "/x/%2e%2e;a/admin", "/x;%2f../../admin", "/admin;a\\x", "/admin%3bx", "/admin%00", "/admin%00.css", "/%00/../admin", "/admin%23x", "/admin#x", "/x#/../admin", "/admin%20", "/admin%09", "/admin%0a", "/admin%0d%0ax: y", "/ADMIN", "/Admin", "/aDMIN", "/admin.", "/admin%2e", "/admin..", "/admin/...", "/admin%3f", "/x?/../admin"} {
		for _, rest := range []string{"", "/", "/x", "?", "?x=/y", "/../admin", "/.", "/x/..", "/%2e", "/%2e%2e/admin", "%2fx", "//x", "%2F..%2Fadmin", "%5cx"} {
			out = append(out, dir+rest)
		}
	}
	return out
}

// parameters are what follows a semicolon in a segment.
var parameters = regexp.MustCompile(`;[^/\\]*`)

// below reports whether a program that decodes a path once, and takes backslashes for slashes, is asked for /admin; or one that leaves out
// parameters before it does so.
func below(target string) bool {
	p, _, _ := strings.Cut(target, "?")
	p, _, _ = strings.Cut(p, "#")
	return isBelow(p) || isBelow(parameters.ReplaceAllString(p, ""))
}

func isBelow(p string) bool {
	if plain, err := url.PathUnescape(p); err == nil {
		p = plain
	}
	p = path.Clean("/" + strings.ReplaceAll(p, `\`, "/"))
	return p == "/admin" || strings.HasPrefix(p, "/admin/")
}

// raw sends bytes of HTTP/1 and returns the status, and what reached the program.
func raw(t *testing.T, c net.Conn, text string) (int, *echo.Report) {
	t.Helper()
	defer c.Close()
	_, err := io.WriteString(c, text)
	must(t, err)
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return r.StatusCode, reported(t, r.StatusCode, r.Body)
}

func reported(t *testing.T, status int, body io.Reader) *echo.Report {
	t.Helper()
	if status != http.StatusOK {
		return nil
	}
	got := &echo.Report{}
	must(t, json.NewDecoder(body).Decode(got))
	return got
}

// raw2 sends fields as they are in HTTP/2; status 0 says that the stream or the connection was reset.
func raw2(t *testing.T, address string, fields ...string) (int, *echo.Report) {
	t.Helper()
	c, err := net.Dial("tcp", address)
	must(t, err)
	defer c.Close()
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, f := range fields {
		name, value, _ := strings.Cut(f, "= ")
		must(t, e.WriteField(hpack.HeaderField{Name: name, Value: value}))
	}
	_, err = io.WriteString(c, http2.ClientPreface)
	must(t, err)
	fr := http2.NewFramer(c, c)
	must(t, fr.WriteSettings())
	must(t, fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}))
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	status := 0
	var body bytes.Buffer
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return 0, nil
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				_ = fr.WriteSettingsAck() // who has gone says so when read from
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return 0, nil
		case *http2.MetaHeadersFrame:
			if _, err := fmt.Sscan(f.PseudoValue("status"), &status); err != nil {
				t.Fatal(err)
			}
		case *http2.DataFrame:
			body.Write(f.Data())
		}
		if f.Header().StreamID == 1 && f.Header().Flags.Has(http2.FlagDataEndStream) {
			return status, reported(t, status, &body)
		}
	}
}

// severalTimes are ways to send x-a: x and x-b: y, each also among others of its name.
func severalTimes(between string) (out [][]string) {
	with := func(name, value string) (out [][]string) {
		for _, values := range [][]string{{value}, {value, "z"}, {"z", value}, {"z", value, "z"}, {"", value}, {value, ""}, {value + ",z", value}} {
			var lines []string
			for _, v := range values {
				lines = append(lines, name+between+v)
			}
			out = append(out, lines)
		}
		return out
	}
	for _, a := range with("x-a", "x") {
		for _, b := range with("x-b", "y") {
			out = append(out, slices.Concat(a, b), slices.Concat(b, a), slices.Concat(a[:1], b, a[1:]))
		}
	}
	return out
}

// variantsMesh has a program that tells what reaches it, behind policies, at an address for HTTP/1 and at one for HTTP/2.
func variantsMesh(t *testing.T, policies string) (one, two string) {
	second := echoPod("echo-1", "v1")
	second.Program = nil // echo speaks no HTTP/2
	m, _, pods := echoMesh(t, nil, echoPod("echo-0", "v1"), second)
	l, err := net.Listen("tcp", pods[1].App(8080).String())
	must(t, err)
	s := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got := echo.Report{Target: r.RequestURI, Host: r.Host}
		for name, values := range r.Header {
			for _, v := range values {
				got.Headers = append(got.Headers, echo.Field{Name: name, Value: v})
			}
		}
		_ = json.NewEncoder(w).Encode(got) // who has gone says so
	})}
	s.Protocols.SetUnencryptedHTTP2(true)
	go func() { _ = s.Serve(l) }() // ends with Close
	t.Cleanup(func() { s.Close() })
	m.Config("authorization.yaml", policies)
	// Somebody without a proxy that would tidy up.
	return strings.TrimPrefix(pods[0].At(8080), "http://"), strings.TrimPrefix(pods[1].At(8080), "http://")
}

// However a path, a header or a host is written, in HTTP/1 and HTTP/2: what is denied does not reach the program in a form
// that it could take for what is denied.
func TestVariantsDoNotGetAroundPolicies(t *testing.T) {
	t.Parallel()
	at, at2 := variantsMesh(t, authorizationPolicy("those", "{"+echoOnly+`, action: DENY, rules: [
  {to: [{operation: {paths: [/admin, /admin/*]}}]},
  {when: [{key: 'request.headers[x-role]', values: [admin]}]},
  {when: [{key: 'request.headers[x-a]', values: [x]}, {key: 'request.headers[x-b]', values: [y]}]},
  {to: [{operation: {hosts: [secret.example, 'secret.example:*']}}]}]}`))
	seen := map[string]bool{}
	reached := 0
	check := func(what string, status int, got *echo.Report) {
		t.Helper()
		if seen[what] {
			return
		}
		seen[what] = true
		if got == nil {
			if status == http.StatusInternalServerError || status == http.StatusBadGateway {
				t.Errorf("%s: %d", what, status)
			}
			return
		}
		reached++
		if below(got.Target) {
			t.Errorf("%s reached the program as %s", what, got.Target)
		}
		parts := map[string]bool{}
		for _, h := range got.Headers {
			parts[strings.ToLower(h.Name)+": "+h.Value] = true
			if strings.EqualFold(h.Name, "x-role") && strings.TrimSpace(h.Value) == "admin" {
				t.Errorf("%s reached the program with %s: %s", what, h.Name, h.Value)
			}
		}
		if parts["x-a: x"] && parts["x-b: y"] {
			t.Errorf("%s reached the program with both headers", what)
		}
		host := strings.ToLower(got.Host)
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if strings.TrimSuffix(host, ".") == "secret.example" {
			t.Errorf("%s reached the program for host %s", what, got.Host)
		}
	}
	one := func(line string, headers ...string) {
		t.Helper()
		text := line + " HTTP/1.1\r\n" + strings.Join(append(headers, "Connection: close"), "\r\n") + "\r\n\r\n"
		c, err := net.Dial("tcp", at)
		must(t, err)
		status, got := raw(t, c, text)
		check(fmt.Sprintf("%q", text), status, got)
	}
	two := func(fields ...string) {
		t.Helper()
		status, got := raw2(t, at2, fields...)
		check(fmt.Sprintf("HTTP/2 %q", fields), status, got)
	}
	const host = "Host: echo:8080"
	for _, v := range pathVariants() {
		one("GET "+v, host)
		two(":method= GET", ":scheme= http", ":authority= echo:8080", ":path= "+v)
	}
	for _, v := range []string{"http://echo:8080/admin", "http://echo:8080/x/../admin", "http://ECHO:8080/%61dmin", "HTTP://echo:8080//admin", "http://echo:8080\\admin", "http://echo:8080?/../admin", "http://echo:8080#/admin", "http://u@echo:8080/admin", "http:///admin", "http:/admin", "echo:8080/admin", "admin", "*"} {
		one("GET "+v, host)
		two(":method= GET", ":scheme= http", ":authority= echo:8080", ":path= "+v)
	}
	two(":method= GET", ":scheme= http", ":authority= echo:8080", ":path= /", ":path= /admin")
	two(":method= GET", ":scheme= http", ":authority= echo:8080", ":path= /admin", ":path= /")
	two(":method= GET", ":scheme= http", ":authority= echo:8080", "x-a= b", ":path= /admin")
	two(":method= GET", ":scheme= http", ":authority= echo:8080", ":path= ")
	two(":method= GET", ":scheme= http", ":authority= echo:8080")
	two(":method= CONNECT", ":scheme= http", ":authority= echo:8080", ":path= /admin", ":protocol= websocket")
	two(":method= get", ":scheme= http", ":authority= echo:8080", ":path= /admin")
	for _, h := range [][]string{{"x-role: admin"}, {"X-Role: admin"}, {"X-ROLE:admin"}, {"x-role: \tadmin \t"}, {"x-role: user", "x-role: admin"}, {"x-role: admin", "x-role: user"}, {"x-role: user", "X-Role: admin", "x-role: "}, {"x-role:", "x-role: admin"},
		{"x-role : admin"}, {" x-role: admin"}, {"x-a: b", " x-role: admin"}, {"x-role:\r\n admin"}, {"x-role: a\r\n\tdmin"}, {"x-role: admin\x00"}, {"x-role: \x00admin"}, {"x-role\x00: admin"}, {"x-role: admin\x0b"}, {"x-role: user\rx-role: admin"}, {"x-role: user\nx-role: admin"},
		{"\tx-role: admin"}, {"x-role:admin", "Connection: x-role"}, {"x-role: admin", "Connection: close, X-Role"}} {
		one("GET /", append([]string{host}, h...)...)
		one("GET /", append(append([]string{}, h...), host)...)
	}
	for _, h := range [][]string{{"x-role= admin"}, {"X-Role= admin"}, {"x-role=  admin"}, {"x-role= admin "}, {"x-role= \tadmin"}, {"x-role= user", "x-role= admin"}, {"x-role= admin", "x-role= "}, {"x-role= admin\x00"}, {"x-role= user\r\nx-role: admin"}, {"x-role= user\nx-role: admin"}, {"x-role = admin"}, {"x-role:= admin"}, {"connection= x-role", "x-role= admin"}} {
		two(append([]string{":method= GET", ":scheme= http", ":authority= echo:8080", ":path= /"}, h...)...)
	}
	for _, h := range severalTimes(": ") {
		one("GET /", append([]string{host}, h...)...)
	}
	for _, h := range severalTimes("= ") {
		two(append([]string{":method= GET", ":scheme= http", ":authority= echo:8080", ":path= /"}, h...)...)
	}
	for _, h := range []string{"secret.example", "SECRET.EXAMPLE", "Secret.Example:8080", "secret.example:80", "secret.example:080", "secret.example:", "secret.example.", "secret.example.:8080", "secret.example..", " secret.example", "secret.example ", "secret.example\t", "u@secret.example", "secret.example@u", "u:p@secret.example:80",
		"secret.example/x", "secret.example\\x", "secret.example,echo", "secret.example#", "secret.example?x", "secret%2eexample", "s%65cret.example", "secret.example\x00", "secret.example\x00.echo", "[secret.example]", "secret.example:x"} {
		one("GET /", "Host: "+h)
		one("GET /", "Host: echo:8080", "Host: "+h)
		one("GET /", "Host: "+h, "Host: echo:8080")
		one("GET http://"+h+"/", host)
		one("GET http://echo:8080/", "Host: "+h)
		two(":method= GET", ":scheme= http", ":authority= "+h, ":path= /")
		two(":method= GET", ":scheme= http", ":authority= echo:8080", ":path= /", "host= "+h)
		two(":method= GET", ":scheme= http", ":path= /", "host= "+h)
	}
	if len(seen) < 200 || reached == 0 {
		t.Errorf("%d variants, of which %d are served", len(seen), reached)
	}
	t.Logf("%d variants, of which %d are served", len(seen), reached)
}

// However a path or a header is written: what only one form is let in with does not reach the program in another.
func TestVariantsAreNotLetIn(t *testing.T) {
	t.Parallel()
	at, at2 := variantsMesh(t, authorizationPolicy("those", "{"+echoOnly+`, rules: [{to: [{operation: {paths: [/admin, /admin/*], methods: [GET]}}], when: [{key: 'request.headers[x-role]', values: [user]}]}]}`))
	tried, reached := 0, 0
	check := func(what string, status int, got *echo.Report) {
		t.Helper()
		if tried++; got == nil {
			if status == http.StatusInternalServerError || status == http.StatusBadGateway {
				t.Errorf("%s: %d", what, status)
			}
			return
		}
		reached++
		p, _, _ := strings.Cut(got.Target, "?")
		if !isBelow(p) || !isBelow(parameters.ReplaceAllString(p, "")) {
			t.Errorf("%s reached the program as %s", what, got.Target)
		}
		roles := 0
		for _, h := range got.Headers {
			if strings.EqualFold(h.Name, "x-role") {
				if roles++; strings.TrimSpace(h.Value) != "user" {
					t.Errorf("%s reached the program with %s: %s", what, h.Name, h.Value)
				}
			}
		}
		if roles == 0 {
			t.Errorf("%s reached the program without a role", what)
		}
	}
	send := func(method, path string, roles ...string) {
		t.Helper()
		text, fields := method+" "+path+" HTTP/1.1\r\nHost: echo:8080\r\nConnection: close\r\n", []string{":method= " + method, ":scheme= http", ":authority= echo:8080", ":path= " + path}
		for _, r := range roles {
			text += "x-role: " + r + "\r\n"
			fields = append(fields, "x-role= "+r)
		}
		c, err := net.Dial("tcp", at)
		must(t, err)
		status, got := raw(t, c, text+"\r\n")
		check(fmt.Sprintf("%q", text), status, got)
		status, got = raw2(t, at2, fields...)
		check(fmt.Sprintf("HTTP/2 %q", fields), status, got)
	}
	for _, v := range pathVariants() {
		send("GET", v, "user")
		send("GET", "/admin/.."+v, "user")
	}
	for _, out := range []string{"/..", "/../x", "/%2e%2e/x", "/..%2fx", "/..;/x", "/;a/../../x", "/..%5cx", "/..\\x", "/x/../../y", "//../../x", "/%2e%2e;a/x", "/.%2e/x", "/..//x", "s", "%73", ";/../x", "/../ADMIN"} {
		send("GET", "/admin"+out, "user")
	}
	for _, roles := range [][]string{nil, {""}, {"admin"}, {"user", "admin"}, {"admin", "user"}, {"user", ""}, {"user,admin"}, {"user", "user", "admin"}, {"User"}, {"user\x00"}, {"user x"}, {"usera"}, {"user;admin"}, {"user"}} {
		send("GET", "/admin", roles...)
		send("POST", "/admin", roles...)
		send("get", "/admin", roles...)
	}
	if tried < 200 || reached == 0 || reached == tried {
		t.Errorf("%d variants, of which %d are served", tried, reached)
	}
	t.Logf("%d variants, of which %d are served", tried, reached)
}

// Routes, policies and the program see one and the same request: a rule about a path takes what the program takes for it.
func TestVariantsAreRoutedAsTheyArrive(t *testing.T) {
	t.Parallel()
	m, client, _ := echoMesh(t, nil, echoPod("echo-0", "v1"))
	m.Config("routes.yaml", `apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: echo}
spec:
  hosts: [echo]
  http:
  - {match: [{uri: {exact: /admin}}, {uri: {prefix: /admin/}}], headers: {request: {set: {x-routed: admin}}}, route: [{destination: {host: echo, port: {number: 8080}}}]}
  - {route: [{destination: {host: echo, port: {number: 8080}}}]}
`)
	served := 0
	for _, v := range pathVariants() {
		c, err := client.Dial(t.Context(), "echo:8080")
		must(t, err)
		_, got := raw(t, c, "GET "+v+" HTTP/1.1\r\nHost: echo:8080\r\nConnection: close\r\n\r\n")
		if got == nil {
			continue
		}
		served++
		routed := false
		for _, h := range got.Headers {
			routed = routed || strings.EqualFold(h.Name, "x-routed")
		}
		p, _, _ := strings.Cut(got.Target, "?")
		if want := p == "/admin" || strings.HasPrefix(p, "/admin/"); routed != want {
			t.Errorf("%s: arrives as %s, routed as /admin: %v", v, got.Target, routed)
		}
	}
	if served == 0 {
		t.Error("none is served")
	}
}
