// Package curl is the part of curl that people use to look at a mesh: one URL or more,
// headers, data, TLS, times, and curl's exit statuses, in an image without a shell.
//
// A command line enters Run; the answer leaves on the writers. Several may run at once.
package curl

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"
)

// Exit statuses, from curl(1).
const (
	usage, malformed, resolve, connect, refused, timedOut, handshake, noReply, broken, untrusted, written = 2, 3, 6, 7, 22, 28, 35, 52, 56, 60, 23
)

type options struct {
	silent, showError, include, head, fail, follow, insecure, verbose bool
	http1, http2                                                      bool
	method, output, write, agent, user, ca, cert, key                 string
	headers, data, resolve, urls                                      []string
	max, connect                                                      time.Duration
	retries                                                           int
}

// failure is an error with curl's exit status.
type failure struct {
	status int
	err    error
}

func (f failure) Error() string { return f.err.Error() }

// Run does what args ask for and returns the exit status.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args)
	if err != nil {
		fmt.Fprintf(stderr, "curl: (%d) %v; this curl is a small part of the real one\n", usage, err)
		return usage
	}
	status := 0
	for _, u := range o.urls {
		err := o.get(ctx, u, stdout, stderr)
		for range o.retries {
			if err == nil || ctx.Err() != nil {
				break
			}
			err = o.get(ctx, u, stdout, stderr)
		}
		if err == nil {
			continue
		}
		f := failure{broken, err}
		_ = errors.As(err, &f)
		if status = f.status; !o.silent || o.showError {
			fmt.Fprintf(stderr, "curl: (%d) %v\n", f.status, f.err)
		}
	}
	return status
}

// parse reads the command line as curl does: short flags may stand together, and their
// value may be glued to them.
func parse(args []string) (*options, error) {
	o := &options{agent: "curl/8.0.0 (weir-sample)"}
	seconds := func(to *time.Duration) func(string) error {
		return func(v string) error {
			f, err := strconv.ParseFloat(v, 64)
			if err != nil || f < 0 || f > 1e6 {
				return fmt.Errorf("%q is not a number of seconds", v)
			}
			*to = time.Duration(f * float64(time.Second))
			return nil
		}
	}
	text := func(to *string) func(string) error { return func(v string) error { *to = v; return nil } }
	list := func(to *[]string) func(string) error {
		return func(v string) error { *to = append(*to, v); return nil }
	}
	flags := map[string]any{ // *bool, or a setter
		"s silent": &o.silent, "S show-error": &o.showError, "i include": &o.include, "I head": &o.head, "f fail": &o.fail,
		"L location": &o.follow, "k insecure": &o.insecure, "v verbose": &o.verbose, "http1.1": &o.http1, "http2-prior-knowledge": &o.http2,
		"g globoff": new(bool), "N no-buffer": new(bool), "4 ipv4": new(bool), "http2": new(bool), "compressed": new(bool), "no-progress-meter": new(bool),
		"X request": text(&o.method), "o output": text(&o.output), "w write-out": text(&o.write), "A user-agent": text(&o.agent), "u user": text(&o.user),
		"cacert": text(&o.ca), "E cert": text(&o.cert), "key": text(&o.key), "H header": list(&o.headers), "d data": list(&o.data),
		"data-raw": list(&o.data), "data-binary": list(&o.data), "resolve": list(&o.resolve), "url": list(&o.urls),
		"m max-time": seconds(&o.max), "connect-timeout": seconds(&o.connect),
		"retry": func(v string) (err error) { o.retries, err = strconv.Atoi(v); return err },
	}
	byName := map[string]any{}
	for names, f := range flags {
		for n := range strings.FieldsSeq(names) {
			byName[n] = f
		}
	}
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if !strings.HasPrefix(arg, "-") || arg == "-" {
			o.urls = append(o.urls, arg)
			continue
		}
		names := strings.Split(arg[1:], "")
		if long, ok := strings.CutPrefix(arg, "--"); ok {
			names = []string{long}
		}
		for i, n := range names {
			f, ok := byName[n]
			if !ok {
				return nil, fmt.Errorf("option %s: is unknown", arg)
			}
			if yes, ok := f.(*bool); ok {
				*yes = true
				continue
			}
			value := strings.Join(names[i+1:], "")
			if value == "" {
				if len(args) == 0 {
					return nil, fmt.Errorf("option %s: requires parameter", arg)
				}
				value, args = args[0], args[1:]
			}
			if err := f.(func(string) error)(value); err != nil {
				return nil, fmt.Errorf("option %s: %w", arg, err)
			}
			break
		}
	}
	if len(o.urls) == 0 {
		return nil, errors.New("no URL specified")
	}
	return o, nil
}

// request is the first request for target.
func (o *options) request(ctx context.Context, target string) (*http.Request, error) {
	if !strings.Contains(target, "://") {
		target = "http://" + target
	}
	u, err := url.Parse(target)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, failure{malformed, fmt.Errorf("URL %q: use http://HOST/PATH or https://HOST/PATH", target)}
	}
	method, body := http.MethodGet, strings.Join(o.data, "&")
	switch {
	case o.method != "":
		method = o.method
	case o.head:
		method = http.MethodHead
	case len(o.data) > 0:
		method = http.MethodPost
	}
	r, err := http.NewRequestWithContext(ctx, method, target, bytes.NewBufferString(body))
	if err != nil {
		return nil, failure{malformed, err}
	}
	r.Header.Set("User-Agent", o.agent)
	r.Header.Set("Accept", "*/*")
	if len(o.data) > 0 {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	if name, password, ok := strings.Cut(o.user, ":"); ok {
		r.SetBasicAuth(name, password)
	}
	for _, h := range o.headers {
		name, value, _ := strings.Cut(h, ":")
		switch value = strings.TrimSpace(value); {
		case strings.EqualFold(name, "host"):
			r.Host = value
		case value == "":
			r.Header.Del(name)
		default:
			r.Header.Set(name, value)
		}
	}
	return r, nil
}

func (o *options) get(ctx context.Context, target string, stdout, stderr io.Writer) error {
	if o.max > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, o.max)
		defer cancel()
	}
	start, peer := time.Now(), ""
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { peer = i.Conn.RemoteAddr().String() }})
	r, err := o.request(ctx, target)
	if err != nil {
		return err
	}
	t, err := o.transport()
	if err != nil {
		return err
	}
	defer t.CloseIdleConnections()
	client := &http.Client{Transport: t}
	if !o.follow {
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	resp, err := client.Do(r)
	if err != nil {
		return classify(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if o.verbose {
		fmt.Fprintf(stderr, "* Connected to %s\n> %s %s\n< %s %s\n", peer, r.Method, r.URL.RequestURI(), resp.Proto, resp.Status)
		_ = resp.Header.Write(prefixed{stderr, "< "})
	}
	out := stdout
	if o.output != "" {
		f, err := os.Create(o.output)
		if err != nil {
			return failure{written, err}
		}
		defer func() { _ = f.Close() }()
		out = f
	}
	if o.include || o.head {
		fmt.Fprintf(out, "%s %s\r\n", resp.Proto, resp.Status)
		_ = resp.Header.Write(out)
		fmt.Fprint(out, "\r\n")
	}
	var n int64
	failed := o.fail && resp.StatusCode >= 400
	if !failed {
		if n, err = io.Copy(out, resp.Body); err != nil {
			err = classify(err)
		}
	}
	if o.write != "" {
		host, port, _ := net.SplitHostPort(peer)
		version, _, _ := strings.Cut(strings.TrimPrefix(resp.Proto, "HTTP/"), ".0")
		fmt.Fprint(stdout, strings.NewReplacer(`\n`, "\n", `\t`, "\t", `\r`, "\r", "%%", "%",
			"%{http_code}", strconv.Itoa(resp.StatusCode), "%{response_code}", strconv.Itoa(resp.StatusCode),
			"%{time_total}", fmt.Sprintf("%.6f", time.Since(start).Seconds()), "%{size_download}", strconv.FormatInt(n, 10),
			"%{remote_ip}", host, "%{remote_port}", port, "%{http_version}", version, "%{url_effective}", resp.Request.URL.String(),
			"%{redirect_url}", resp.Header.Get("Location"), "%{content_type}", resp.Header.Get("Content-Type")).Replace(o.write))
	}
	if failed {
		return failure{refused, fmt.Errorf("the requested URL returned error: %d", resp.StatusCode)}
	}
	return err
}

// prefixed writes a prefix before what is written, which is a line at a time.
type prefixed struct {
	w      io.Writer
	prefix string
}

func (p prefixed) Write(b []byte) (int, error) {
	_, err := fmt.Fprintf(p.w, "%s%s", p.prefix, b)
	return len(b), err
}

func (o *options) transport() (*http.Transport, error) {
	t := &http.Transport{DisableCompression: true, ForceAttemptHTTP2: !o.http1,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: o.insecure}} //nolint:gosec // -k asks for it
	if o.http2 {
		t.Protocols = new(http.Protocols)
		t.Protocols.SetUnencryptedHTTP2(true)
		t.Protocols.SetHTTP2(true)
	}
	if o.ca != "" {
		pem, err := os.ReadFile(o.ca)
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if err != nil || !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, failure{77, fmt.Errorf("--cacert %s: no certificates: %w", o.ca, err)}
		}
	}
	if o.cert != "" {
		key := o.key
		if key == "" {
			key = o.cert
		}
		c, err := tls.LoadX509KeyPair(o.cert, key)
		if err != nil {
			return nil, failure{58, fmt.Errorf("--cert %s: %w", o.cert, err)}
		}
		t.TLSClientConfig.Certificates = []tls.Certificate{c}
	}
	d := &net.Dialer{Timeout: o.connect}
	t.DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
		for _, r := range o.resolve { // HOST:PORT:ADDRESS
			if to, ok := strings.CutPrefix(r, addr+":"); ok {
				_, port, _ := net.SplitHostPort(addr)
				addr = net.JoinHostPort(strings.Trim(to, "[]"), port)
			}
		}
		return d.DialContext(ctx, network, addr)
	}
	return t, nil
}

// classify finds curl's status for an error of net/http.
func classify(err error) error {
	var dns *net.DNSError
	var op *net.OpError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	var timeout net.Error
	status := broken
	switch {
	case errors.As(err, &dns):
		status = resolve
	case errors.As(err, new(*tls.CertificateVerificationError)):
		status = untrusted
	case errors.As(err, &timeout) && timeout.Timeout():
		status = timedOut
	case errors.As(err, &op) && op.Op == "dial":
		status = connect
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record), errors.As(err, &alert):
		status = handshake
	case errors.Is(err, io.EOF):
		status = noReply
	}
	if u := (*url.Error)(nil); errors.As(err, &u) {
		err = u.Err
	}
	return failure{status, err}
}
