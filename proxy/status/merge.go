package status

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Scrape is where the application's metrics are.
type Scrape struct {
	Port Port
	Path string
}

// ParseScrape reads ISTIO_PROMETHEUS_ANNOTATIONS, what stood in the pod's annotations
// prometheus.io/scrape, port and path before injection. nil: they are not to be scraped.
func ParseScrape(text string) (*Scrape, error) {
	var v struct{ Scrape, Path, Port string }
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		return nil, err
	}
	if v.Scrape != "true" {
		return nil, nil
	}
	s := &Scrape{Port: 80, Path: "/metrics"} // prometheus.io/port had this default in Istio
	if v.Port != "" {
		n, err := strconv.ParseUint(v.Port, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("port %q: want a number from 1 to 65535", v.Port)
		}
		s.Port = Port(n)
	}
	if v.Path != "" {
		s.Path = "/" + strings.TrimPrefix(v.Path, "/")
	}
	if _, err := url.ParseRequestURI(s.Path); err != nil {
		return nil, fmt.Errorf("path: %w", err)
	}
	return s, nil
}

const (
	// scrapeTimeout is how long the application is waited for where the scraper does not
	// say how long it waits (Prometheus: X-Prometheus-Scrape-Timeout-Seconds, 10 by default).
	scrapeTimeout = 8 * time.Second
	// maxAppMetrics bounds what is passed on: 100,000 series of 300 bytes.
	maxAppMetrics = 32 << 20
	// maxAppLine bounds one line, which is held whole.
	maxAppLine = 256 << 10
)

// textFormat is what we write, and ask for: the two can then stand one after the other.
const textFormat = "text/plain; version=0.0.4; charset=utf-8"

// merger answers with the proxy's metrics and then the application's.
type merger struct {
	o                *Options
	client           *http.Client
	scrapes, failed  atomic.Int64
	lastLoggedFailed atomic.Bool
}

func newMerger(o *Options) *merger {
	return &merger{o: o, client: &http.Client{Transport: newTransport(o),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

func (m *merger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", textFormat)
	if m.o.Scrape == nil {
		if m.o.Stats(r.Context(), w) != nil && r.Context().Err() == nil {
			panic(http.ErrAbortHandler) // the head is out: a broken answer tells that it is not whole
		}
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), timeoutOf(r))
	defer cancel()
	type answer struct {
		resp *http.Response
		err  error
	}
	asked := make(chan answer, 1)
	go func() { // while the proxy's are being written
		resp, err := m.ask(ctx)
		asked <- answer{resp, err}
	}()
	own := &families{w: w, seen: map[string]bool{}}
	err := m.o.Stats(r.Context(), own)
	a := <-asked
	if a.resp != nil {
		defer a.resp.Body.Close()
	}
	if err != nil && r.Context().Err() == nil {
		panic(http.ErrAbortHandler)
	}
	m.scrapes.Add(1)
	if a.err == nil {
		a.err = m.pass(w, a.resp, own.seen)
	}
	if a.err != nil && r.Context().Err() == nil {
		m.failed.Add(1)
	}
	if failing := a.err != nil; m.lastLoggedFailed.Swap(failing) != failing && failing {
		m.o.Log.Warn("the application's metrics are missing in the answer", "port", m.o.Scrape.Port, "path", m.o.Scrape.Path, "err", a.err)
	}
	_, _ = fmt.Fprintf(w, "# HELP istio_agent_scrapes_total Scrapes answered with the application's metrics merged.\n# TYPE istio_agent_scrapes_total counter\nistio_agent_scrapes_total %d\n"+
		"# HELP istio_agent_scrape_failures_total Of those, where they were missing or cut short.\n# TYPE istio_agent_scrape_failures_total counter\nistio_agent_scrape_failures_total{type=\"application\"} %d\n",
		m.scrapes.Load(), m.failed.Load())
}

// timeoutOf leaves the scraper time to read what there is without the application.
func timeoutOf(r *http.Request) time.Duration {
	if s, err := strconv.ParseFloat(r.Header.Get("X-Prometheus-Scrape-Timeout-Seconds"), 64); err == nil && s > 0 && s < 3600 {
		return time.Duration(s * 0.8 * float64(time.Second))
	}
	return scrapeTimeout
}

// ask asks on loopback first, where Istio asks, then on the pod's address.
func (m *merger) ask(ctx context.Context) (*http.Response, error) {
	resp, err := m.askAt(ctx, "127.0.0.1")
	if err != nil && ctx.Err() == nil && m.o.PodIP.IsValid() {
		resp, err = m.askAt(ctx, m.o.PodIP.String())
	}
	return resp, err
}

func (m *merger) askAt(ctx context.Context, host string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.o.Scrape.Port.at(host)+m.o.Scrape.Path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "text/plain;version=0.0.4;q=1,application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1")
	resp, err := m.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("the application answered %s", resp.Status)
	}
	return resp, nil
}

// pass writes the application's metrics, in lines, so that one that is cut off is left
// out. seen are families that the proxy has described: a format knows one description.
func (m *merger) pass(w io.Writer, resp *http.Response, seen map[string]bool) error {
	open := false
	if t := resp.Header.Get("Content-Type"); t != "" {
		kind, _, err := mime.ParseMediaType(t)
		switch {
		case err != nil:
			return fmt.Errorf("content-type %q: %w", t, err)
		case kind == "application/openmetrics-text":
			open = true
		case kind == "text/plain":
		default:
			return fmt.Errorf("the application answers %s, which cannot be merged: it should offer the Prometheus text format", kind)
		}
	}
	out := bufio.NewWriter(w)
	defer out.Flush()
	ended := &ending{r: resp.Body}
	body := io.LimitedReader{R: ended, N: maxAppMetrics + 1}
	lines := bufio.NewScanner(&body)
	lines.Buffer(make([]byte, 0, 4<<10), maxAppLine)
	lines.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		switch i := bytes.IndexByte(data, '\n'); {
		case i >= 0:
			return i + 1, data[:i+1], nil
		case atEOF && len(data) > 0 && ended.whole:
			return len(data), data, nil
		case atEOF && len(data) > 0: // it broke off, and half a number is a number, too
			return len(data), nil, nil
		}
		return 0, nil, nil
	})
	for lines.Scan() {
		line := bytes.TrimRight(lines.Bytes(), "\r\n")
		if open {
			if line = classic(line); line == nil {
				continue
			}
		}
		if name, described := describes(line); described && seen[name] {
			continue
		}
		_, _ = out.Write(line)
		if err := out.WriteByte('\n'); err != nil {
			return err
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("a line of the application's metrics is longer than %d bytes", maxAppLine)
	case body.N <= 0:
		return fmt.Errorf("the application's metrics are larger than %d bytes", maxAppMetrics)
	case err != nil:
		return err
	}
	return nil
}

// ending is a Reader that knows whether it was read to its proper end.
type ending struct {
	r     io.Reader
	whole bool
}

func (e *ending) Read(b []byte) (int, error) {
	n, err := e.r.Read(b)
	e.whole = e.whole || err == io.EOF
	return n, err
}

// describes reports the family that a HELP or TYPE line is about.
func describes(line []byte) (string, bool) {
	for _, word := range []string{"# TYPE ", "# HELP "} {
		if rest, ok := bytes.CutPrefix(line, []byte(word)); ok {
			name, _, _ := bytes.Cut(bytes.TrimLeft(rest, " "), []byte(" "))
			return string(name), true
		}
	}
	return "", false
}

// families is a Writer that notes which families are described in what passes.
type families struct {
	w    io.Writer
	seen map[string]bool
	part []byte // of a comment line that is not whole yet
	in   bool   // within a line that is none
}

func (f *families) Write(b []byte) (int, error) {
	for rest := b; len(rest) > 0; {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		rest = after
		if !f.in {
			if f.part = append(f.part, line...); len(f.part) > 0 && f.part[0] != '#' {
				f.part, f.in = f.part[:0], true
			}
		}
		if whole {
			if name, ok := describes(f.part); ok {
				f.seen[name] = true
			}
			f.part, f.in = f.part[:0], false
		}
	}
	return f.w.Write(b)
}

// classic turns a line of OpenMetrics into one of the text format: without exemplars,
// units and its end, with the types that exist there. Timestamps are seconds there and
// milliseconds here, so they are left out: the moment of the scrape counts. nil: nothing
// is left.
func classic(line []byte) []byte {
	if len(line) == 0 {
		return line
	}
	if line[0] != '#' {
		end := afterLabels(line)
		fields := bytes.Fields(line[end:])
		if len(fields) == 0 {
			return nil
		}
		return append(append(bytes.Clone(line[:end]), ' '), fields[0]...)
	}
	rest, ok := bytes.CutPrefix(line, []byte("# TYPE "))
	if !ok {
		if bytes.HasPrefix(line, []byte("# HELP ")) {
			return line
		}
		return nil // # UNIT, # EOF
	}
	name, kind, _ := bytes.Cut(rest, []byte(" "))
	switch string(kind) {
	case "counter": // its samples are called name_total
		return append(append([]byte("# TYPE "), name...), "_total counter"...)
	case "gauge", "histogram", "summary":
		return line
	case "stateset":
		return append(append([]byte("# TYPE "), name...), " gauge"...)
	}
	return nil // info, unknown, gaugehistogram: untyped
}

// afterLabels is where a sample's name and labels end.
func afterLabels(line []byte) int {
	quoted, open := false, false
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{':
			open = true
		case c == '}' && open:
			return i + 1
		case c == ' ' && !open:
			return i
		}
	}
	return len(line)
}
