package e2e_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirmesh/weir/test/mesh"
)

// arrived is a request as a program takes what reaches it.
type arrived struct {
	method, target, host string
	headers              []string // "name: value", the name in lower case
}

// recorder is what a program was asked since it was looked at last.
type recorder struct {
	mu  sync.Mutex
	all []arrived
}

func (r *recorder) note(a arrived) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, a)
}

func (r *recorder) take() []arrived {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.all
	r.all = nil
	return out
}

// strictly serves with net/http, in HTTP/1 and HTTP/2.
func strictly(t *testing.T, w *mesh.Workload) *recorder {
	t.Helper()
	rec := &recorder{}
	s := &http.Server{ReadHeaderTimeout: time.Minute, Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := arrived{method: r.Method, target: r.RequestURI, host: r.Host}
		for name, values := range r.Header {
			for _, v := range values {
				a.headers = append(a.headers, strings.ToLower(name)+": "+v)
			}
		}
		rec.note(a)
		_, _ = io.WriteString(w, "{}") // for raw2
	})}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	l, err := net.Listen("tcp", w.App(8080).String())
	must(t, err)
	go func() { _ = s.Serve(l) }() // ends with Close
	t.Cleanup(func() { s.Close() })
	return rec
}

// laxly serves like programs of long ago: a line ends with LF, a line that begins with space goes on with the one before, of two headers the last
// counts, an underscore is as good as a hyphen, and a body has a length whatever else is said. Whatever follows is a request.
func laxly(t *testing.T, w *mesh.Workload) *recorder {
	t.Helper()
	rec := &recorder{}
	l, err := net.Listen("tcp", w.App(8080).String())
	must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for r := bufio.NewReader(c); laxRequest(r, rec); {
					_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
				}
			}()
		}
	}()
	return rec
}

func laxRequest(r *bufio.Reader, rec *recorder) bool {
	line := func() (string, bool) {
		s, err := r.ReadString('\n')
		return strings.TrimRight(s, "\r\n"), err == nil
	}
	first, ok := line()
	fields := strings.Fields(first)
	if !ok || len(fields) < 2 {
		return ok && first == "" // an empty line before a request
	}
	a := arrived{method: fields[0], target: fields[1]}
	length := 0
	for {
		s, ok := line()
		if !ok {
			return false
		}
		if s == "" {
			break
		}
		if strings.ContainsAny(s[:1], " \t") && len(a.headers) > 0 {
			a.headers[len(a.headers)-1] += " " + strings.TrimSpace(s)
			continue
		}
		name, value, _ := strings.Cut(s, ":")
		name, value = strings.ToLower(strings.ReplaceAll(strings.TrimSpace(name), "_", "-")), strings.TrimSpace(value)
		a.headers = append(a.headers, name+": "+value)
		switch name {
		case "host":
			a.host = value
		case "content-length":
			length = 0
			_, _ = fmt.Sscan(value, &length)
		case "transfer-encoding": // which the proxy makes of a body of unknown length
			if value == "chunked" {
				length = -1
			}
		}
	}
	rec.note(a)
	if length < 0 {
		return laxChunks(r)
	}
	_, err := io.CopyN(io.Discard, r, int64(length))
	return err == nil
}

func laxChunks(r *bufio.Reader) bool {
	for {
		s, err := r.ReadString('\n')
		n := 0
		if _, bad := fmt.Sscanf(s, "%x", &n); err != nil || bad != nil {
			return false
		}
		if _, err := io.CopyN(io.Discard, r, int64(n)); err != nil {
			return false
		}
		for n == 0 {
			if s, err = r.ReadString('\n'); err != nil || strings.TrimRight(s, "\r\n") == "" {
				return err == nil
			}
		}
		if _, err = r.ReadString('\n'); err != nil {
			return false
		}
	}
}

// smuggled are bytes that somebody sends who wants more than one request of his to arrive, or another one than is looked at. %s is the target he
// may not have, or has to have, with the headers of the same kind after it.
func smuggled(target, header string) map[string]string {
	const host = "Host: echo:8080\r\n"
	inner := "GET " + target + " HTTP/1.1\r\n" + host + header + "\r\n\r\n"
	post := func(headers, body string) string {
		return "POST /open/x HTTP/1.1\r\n" + host + headers + "\r\n\r\n" + body
	}
	get := func(line string, headers ...string) string {
		return line + "\r\n" + strings.Join(append(headers, "Connection: close"), "\r\n") + "\r\n\r\n"
	}
	const h = "Host: echo:8080"
	chunked := "0\r\n\r\n" + inner
	long := strings.Repeat("x", 40_000)
	out := map[string]string{
		// bodies of two lengths
		"length and chunks":              post("Content-Length: 4\r\nTransfer-Encoding: chunked", chunked),
		"chunks and length":              post("Transfer-Encoding: chunked\r\nContent-Length: 4", chunked),
		"chunks, and no length":          post("Transfer-Encoding: chunked\r\nContent-Length: 0", "5\r\nhello\r\n"+chunked),
		"another coding":                 post("Transfer-Encoding: xchunked\r\nContent-Length: 0", chunked),
		"a coding in capitals":           post("Transfer-Encoding: CHUNKED", chunked),
		"chunked twice":                  post("Transfer-Encoding: chunked, chunked", chunked),
		"chunked before identity":        post("Transfer-Encoding: chunked, identity", chunked),
		"identity":                       post("Transfer-Encoding: identity\r\nContent-Length: 0", inner),
		"two lines of codings":           post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", chunked),
		"a quoted coding":                post("Transfer-Encoding: \"chunked\"\r\nContent-Length: 0", chunked),
		"a tab before the coding":        post("Transfer-Encoding:\tchunked\r\nContent-Length: 0", chunked),
		"a vertical tab":                 post("Transfer-Encoding: \x0bchunked\r\nContent-Length: 0", chunked),
		"space before the colon":         post("Transfer-Encoding : chunked\r\nContent-Length: 0", chunked),
		"a folded coding":                post("Transfer-Encoding:\r\n chunked\r\nContent-Length: 0", chunked),
		"an underscore":                  post("Transfer_Encoding: chunked\r\nContent-Length: 0", inner),
		"a coding after a line feed":     post("X: y\nTransfer-Encoding: chunked\r\nContent-Length: 0", chunked),
		"a coding after a return":        post("X: y\rTransfer-Encoding: chunked\r\nContent-Length: 0", chunked),
		"nominated length":               post("Connection: content-length\r\nContent-Length: "+fmt.Sprint(len(inner)), inner),
		"nominated coding":               post("Connection: transfer-encoding\r\nTransfer-Encoding: chunked", fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(inner), inner)),
		"two lengths":                    post("Content-Length: 0\r\nContent-Length: "+fmt.Sprint(len(inner)), inner),
		"a list of lengths":              post("Content-Length: 0, "+fmt.Sprint(len(inner)), inner),
		"a length with a plus":           post("Content-Length: +0", inner),
		"a length in octal":              post("Content-Length: 0x0", inner),
		"a negative length":              post("Content-Length: -1", inner),
		"a length with an underscore":    post("Content-Length: 0_0", inner),
		"a huge length":                  post("Content-Length: 18446744073709551616", inner),
		"an empty length":                post("Content-Length:", inner),
		"a size with a sign":             post("Transfer-Encoding: chunked", "-1\r\n"+inner),
		"a size that overflows":          post("Transfer-Encoding: chunked", "10000000000000000\r\n"+inner),
		"a size with an underscore":      post("Transfer-Encoding: chunked", "0_0\r\n\r\n"+inner),
		"a line feed in an extension":    post("Transfer-Encoding: chunked", "0;x=\n\r\n"+inner),
		"a return in an extension":       post("Transfer-Encoding: chunked", "0;x=\r\r\n\r\n"+inner),
		"chunks that end with line feed": post("Transfer-Encoding: chunked", "0\n\n"+inner),
		"headers in the trailer":         post("Transfer-Encoding: chunked\r\nTrailer: x-role", "0\r\n"+header+"\r\n\r\n"),
		"a host in the trailer":          post("Transfer-Encoding: chunked", "0\r\nHost: secret.example\r\nContent-Length: 5\r\n\r\n"),
		// what switches protocols
		"h2c":                       post("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__", inner),
		"a socket that is none":     "GET /open/x HTTP/1.1\r\n" + host + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 777\r\n\r\n" + inner,
		"TLS":                       "GET /open/x HTTP/1.1\r\n" + host + "Connection: Upgrade\r\nUpgrade: TLS/1.0\r\n\r\n" + inner,
		"CONNECT":                   "CONNECT echo:8080 HTTP/1.1\r\n" + host + "\r\n" + inner,
		"CONNECT with a path":       "CONNECT " + target + " HTTP/1.1\r\n" + host + "\r\n" + inner,
		"expecting to go on":        post("Expect: 100-continue\r\nContent-Length: 0", inner),
		"a preface of HTTP/2":       "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + inner,
		"one behind the other":      "GET /open/x HTTP/1.1\r\n" + host + "\r\n" + inner,
		"one behind HTTP/1.0":       "GET /open/x HTTP/1.0\r\n" + host + "Connection: keep-alive\r\n\r\n" + inner,
		"a body for GET":            "GET /open/x HTTP/1.1\r\n" + host + "Content-Length: 0\r\n\r\n" + inner,
		"a body for HEAD, too long": "HEAD /open/x HTTP/1.1\r\n" + host + "Content-Length: 3\r\n\r\nabc" + inner,
		// lines
		"HTTP/0.9":                    "GET " + target + "\r\n\r\n",
		"without a version":           get("GET "+target+" ", h, header),
		"two spaces":                  get("GET  "+target+" HTTP/1.1", h, header),
		"tabs":                        get("GET\t"+target+"\tHTTP/1.1", h, header),
		"two targets":                 get("GET /open/x "+target+" HTTP/1.1", h, header),
		"space at the end":            get("GET "+target+" HTTP/1.1 ", h, header),
		"a version in small letters":  get("GET "+target+" http/1.1", h, header),
		"a later version":             get("GET "+target+" HTTP/1.2", h, header),
		"HTTP/2 in letters":           get("GET "+target+" HTTP/2.0", h, header),
		"empty lines before":          "\r\n\r\n" + get("GET "+target+" HTTP/1.1", h, header),
		"line feeds alone":            strings.ReplaceAll(get("GET "+target+" HTTP/1.1", h, header), "\r\n", "\n"),
		"a null in the line":          get("GET /open/x\x00"+target+" HTTP/1.1", h, header),
		"a form feed":                 get("GET /open/x\x0c"+target+" HTTP/1.1", h, header),
		"a line feed encoded":         get("GET /open/x%0d%0aGET%20"+target+" HTTP/1.1", h),
		"another host's path":         get("GET //echo:8080"+target+" HTTP/1.1", h, header),
		"a whole address":             get("GET http://echo:8080"+target+" HTTP/1.1", h, header),
		"a whole address with a name": get("GET http://me:you@echo:8080"+target+" HTTP/1.1", h, header),
		"an address of another kind":  get("GET gopher://echo:8080"+target+" HTTP/1.1", h, header),
		"a whole address of a file":   get("GET file://"+target+" HTTP/1.1", h, header),
		"asterisk":                    get("OPTIONS * HTTP/1.1", h, header),
		"a long segment before":       get("GET /"+long+"/.."+target+" HTTP/1.1", h, header),
		"many steps up":               get("GET /"+strings.Repeat("x/", 500)+strings.Repeat("../", 501)+target[1:]+" HTTP/1.1", h, header),
		"many steps up, encoded":      get("GET /"+strings.Repeat("x/", 300)+strings.Repeat("%2e%2e/", 301)+target[1:]+" HTTP/1.1", h, header),
		"a long query":                get("GET "+target+"?"+long+" HTTP/1.1", h, header),
		"of full width":               get("GET /\uff0e\uff0e/open/x"+strings.ReplaceAll(target, "/", "\uff0f")+" HTTP/1.1", h, header),
		"combining":                   get("GET "+target+"\u0301 HTTP/1.1", h, header),
		// headers
		"a folded host":            get("GET "+target+" HTTP/1.1", "Host: echo:8080\r\n .secret.example", header),
		"a folded second host":     get("GET "+target+" HTTP/1.1", h, "X: y\r\n Host: secret.example", header),
		"an empty host":            get("GET "+target+" HTTP/1.1", "Host:", header),
		"no host":                  get("GET "+target+" HTTP/1.1", header),
		"a long s":                 get("GET "+target+" HTTP/1.1", "Host: \u017fecret.example", header),
		"a host of full width":     get("GET "+target+" HTTP/1.1", "Host: secret\uff0eexample", header),
		"an ideographic full stop": get("GET "+target+" HTTP/1.1", "Host: secret\u3002example", header),
		"a soft hyphen":            get("GET "+target+" HTTP/1.1", "Host: sec\u00adret.example", header),
	}
	for _, nominated := range []string{"x-role", "X-Role, close", "close, x-role", "keep-alive, x-role", "x-role;q=1", "\tx-role", "host", "x_role", "cookie", ",,x-role,,", "TE, x-role"} {
		out["nominated "+nominated] = "GET " + target + " HTTP/1.1\r\n" + host + header + "\r\nConnection: " + nominated + "\r\n\r\n"
		out["nominated twice "+nominated] = "GET " + target + " HTTP/1.1\r\n" + host + "Connection: keep-alive\r\n" + header + "\r\nConnection: " + nominated + "\r\n\r\n"
	}
	return out
}

// Whatever is sent: what no policy lets through does not reach a program, whether that is net/http or one that reads as programs of long ago did.
func TestSmuggledRequestsDoNotArrive(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	m.Config("echo.yaml", echoService)
	pod := func(name, app string) mesh.Spec {
		s := echoPod(name, "v1")
		s.Program, s.Labels = nil, map[string]string{"app": app, "version": "v1"}
		return s
	}
	m.Config("policies.yaml", documents(authorizationPolicy("deny", `{selector: {matchLabels: {app: echo}}, action: DENY, rules: [
  {to: [{operation: {paths: [/admin, /admin/*]}}]},
  {when: [{key: 'request.headers[x-role]', values: [admin]}]},
  {when: [{key: 'request.headers[cookie]', values: ['*role=admin', 'role=admin*']}]},
  {to: [{operation: {hosts: [secret.example, 'secret.example:*']}}]}]}`),
		authorizationPolicy("allow", `{selector: {matchLabels: {app: closed}}, rules: [{to: [{operation: {paths: [/admin, /admin/*], methods: [GET], hosts: ["echo:8080"]}}], when: [{key: 'request.headers[x-role]', values: [admin]}]}]}`)))
	w := m.Workloads(pod("echo-0", "echo"), pod("echo-1", "echo"), pod("closed-0", "closed"), pod("closed-1", "closed"))
	programs := []*recorder{laxly(t, w[0]), strictly(t, w[1]), laxly(t, w[2]), strictly(t, w[3])}
	is := func(a arrived, name string) (values []string) {
		for _, h := range a.headers {
			if v, ok := strings.CutPrefix(h, name+": "); ok {
				values = append(values, strings.TrimSpace(v))
			}
		}
		return values
	}
	denied := func(a arrived) bool {
		host, _, _ := strings.Cut(strings.ToLower(a.host), ":")
		cookie := strings.Join(is(a, "cookie"), "; ")
		return below(a.target) || slices.Contains(is(a, "x-role"), "admin") || strings.HasPrefix(cookie, "role=admin") || strings.HasSuffix(cookie, "role=admin") || strings.TrimRight(host, ".") == "secret.example"
	}
	closed := func(a arrived) bool {
		p, _, _ := strings.Cut(a.target, "?")
		return !isBelow(p) || a.method != http.MethodGet || !slices.Equal(is(a, "x-role"), []string{"admin"}) || a.host != "echo:8080"
	}
	send := func(i int, text string) {
		c, err := net.Dial("tcp", strings.TrimPrefix(w[i].At(8080), "http://"))
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		_, _ = io.WriteString(c, text) // who is refused meanwhile cannot send the rest
		// Whoever waits for more is told after a while that there is none: an end at once would have what goes on given up.
		for patience := 100 * time.Millisecond; ; patience = 20 * time.Second {
			_ = c.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.Copy(io.Discard, c); !errors.Is(err, os.ErrDeadlineExceeded) {
				return
			}
			if patience > time.Second {
				t.Errorf("%.200q: the connection stays open", text)
				return
			}
			_ = c.(*net.TCPConn).CloseWrite()
		}
	}
	forbidden := []func(arrived) bool{denied, denied, closed, closed}
	var sent, served atomic.Int64
	var under sync.WaitGroup
	for i := range w {
		targets := [][2]string{{"/admin", "X-Y: z"}, {"/admin/x", "x_role: admin"}, {"/open/x", "x-role: admin"}, {"/open/x", "Cookie: a=b; role=admin"}}
		if i > 1 {
			targets = [][2]string{{"/admin", "x-role: admin"}, {"/admin/x", "x-role: user"}, {"/open/x", "x-role: admin"}, {"/admin", "X: y"}}
		}
		texts := make(chan string)
		for range 8 {
			under.Go(func() {
				for text := range texts {
					send(i, text)
					sent.Add(1)
				}
			})
		}
		under.Go(func() {
			defer close(texts)
			for _, v := range targets {
				for _, text := range smuggled(v[0], v[1]) {
					texts <- text
				}
			}
		})
	}
	under.Wait()
	pseudo := []string{":method= GET", ":scheme= http", ":authority= echo:8080"}
	for _, fields := range [][]string{
		{":path= /open/x", "cookie= a=b", "cookie= role=admin"}, {":path= /open/x", "cookie= role=admin", "cookie= a=b"}, {":path= /open/x", "cookie= role=", "cookie= admin"}, {":path= /open/x", "cookie= a=b; role=admin"},
		{":path= /open/x", "transfer-encoding= chunked"}, {":path= /open/x", "content-length= 5"}, {":path= /open/x", "content-length= 0", "content-length= 5"}, {":path= /open/x", "host= secret.example"}, {":path= /open/x", "te= x-role", "x-role= admin"},
		{":path= /open/x", "keep-alive= x-role", "x-role= admin"}, {":path= /open/x", "proxy-connection= x-role", "x-role= admin"}, {":path= /open/x", "upgrade= h2c"}, {":path= /open/x HTTP/1.1\r\nx-role: admin\r\nx:"}, {":path= /admin?/../open"}, {":path= /open/x#/../../admin"},
		{":path= /open/x?\r\n\r\nGET /admin HTTP/1.1"}, {":path= //echo:8080/admin"}, {":path= http://echo:8080/admin"}, {":path= /open/x", "x= y\r\nx-role: admin"}, {":path= /open/x", "x\r\nx-role= admin"}, {":path= /open/x", "x-role\x00= admin"}, {":path= /open/x", ":x-role= admin"},
	} {
		for _, i := range []int{1, 3} {
			raw2(t, strings.TrimPrefix(w[i].At(8080), "http://"), append(slices.Clone(pseudo), fields...)...)
			sent.Add(1)
		}
	}
	for i, program := range programs {
		for _, a := range program.take() {
			if served.Add(1); forbidden[i](a) {
				t.Errorf("program %d is asked for %+v", i, a)
			}
		}
	}
	t.Logf("%d variants sent, and %d requests arrived", sent.Load(), served.Load())
	if served.Load() == 0 {
		t.Error("nothing is served")
	}
}
