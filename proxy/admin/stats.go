package admin

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// choice is which statistics are wanted.
type choice struct {
	name *regexp.Regexp
	used bool   // those that are not 0
	kind string // "" for all
}

// choose reads what Envoy's /stats is asked with: filter, usedonly, type. Without effect, because there is nothing that they could be
// about, are hidden, text_readouts and histogram_buckets.
func choose(w http.ResponseWriter, r *http.Request) (c choice, ok bool) {
	q := r.URL.Query()
	var err error
	if c.name, err = regexp.Compile(q.Get("filter")); err != nil {
		http.Error(w, "filter: "+err.Error(), http.StatusBadRequest)
		return c, false
	}
	c.used = q.Has("usedonly")
	if c.kind = q.Get("type"); c.kind == "All" {
		c.kind = ""
	}
	if kinds := []string{"", "Counters", "Gauges", "Histograms", "TextReadouts"}; !slices.Contains(kinds, c.kind) {
		http.Error(w, fmt.Sprintf("type=%.40q is not one of All, %s", c.kind, strings.Join(kinds[1:], ", ")), http.StatusBadRequest)
		return c, false
	}
	return c, true
}

func (c *choice) wants(s Stat) bool {
	if c.used && s.Value == 0 || !c.name.MatchString(s.Name) {
		return false
	}
	return c.kind == "" || c.kind == "Gauges" && s.Gauge || c.kind == "Counters" && !s.Gauge
}

// stats are all there are by Envoy's names, whole, that are wanted.
func stats(p Proxy, c *choice) []Stat {
	out := []Stat{}
	for _, s := range p.ServerStats() {
		if c.wants(s) {
			out = append(out, s)
		}
	}
	for _, of := range p.Clusters() {
		for _, s := range of.Stats {
			if s.Name = "cluster." + of.Name + "." + s.Name; c.wants(s) {
				out = append(out, s)
			}
		}
	}
	return out
}

// handleStats answers /stats: lines of text, JSON as Envoy has it, or what Prometheus reads.
func handleStats(p Proxy) http.HandlerFunc {
	type stat struct {
		Name  string `json:"name"`
		Value int64  `json:"value"`
	}
	return func(w http.ResponseWriter, r *http.Request) {
		form, ok := format(w, r, "text", "json", "prometheus")
		if !ok {
			return
		}
		if form == "prometheus" {
			handlePrometheus(p)(w, r)
			return
		}
		c, ok := choose(w, r)
		if !ok {
			return
		}
		chosen := stats(p, &c)
		if form == "json" {
			out := []stat{}
			for _, s := range chosen {
				out = append(out, stat{s.Name, s.Value})
			}
			writeJSON(w, map[string]any{"stats": out})
			return
		}
		var b strings.Builder
		for _, s := range chosen {
			fmt.Fprintf(&b, "%s: %d\n", s.Name, s.Value)
		}
		plain(w, b.String())
	}
}

// handlePrometheus answers /stats/prometheus.
func handlePrometheus(p Proxy) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c, ok := choose(w, r)
		if !ok {
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		s := &sieve{to: w, choice: c}
		err := p.Stats(r.Context(), s.writer())
		if err == nil {
			err = s.end()
		}
		if err != nil && r.Context().Err() == nil {
			// The head is out: breaking the connection tells the scraper that the answer is not whole.
			panic(http.ErrAbortHandler)
		}
	}
}

// sieve passes on the samples of the Prometheus text format that are wanted, and of a family's head what belongs to them. The filter is about a
// sample's name and labels. A histogram is wanted as a whole.
type sieve struct {
	to io.Writer
	choice
	line, head []byte
	family     string // its type
}

// writer is where the text goes in.
func (s *sieve) writer() io.Writer {
	if s.name.String() == "" && !s.used && s.kind == "" {
		return s.to
	}
	return s
}

var families = map[string]string{"counter": "Counters", "gauge": "Gauges", "histogram": "Histograms"}

func (s *sieve) Write(p []byte) (int, error) {
	for rest := p; ; {
		i := bytes.IndexByte(rest, '\n')
		s.line = append(s.line, rest[:max(i+1, 0)]...)
		if i < 0 {
			s.line = append(s.line, rest...)
			return len(p), nil
		}
		rest = rest[i+1:]
		if err := s.pass(); err != nil {
			return 0, err
		}
		s.line = s.line[:0]
	}
}

// pass looks at a whole line.
func (s *sieve) pass() error {
	switch {
	case bytes.HasPrefix(s.line, []byte("# HELP ")):
		s.head = append(s.head[:0], s.line...)
		return nil
	case bytes.HasPrefix(s.line, []byte("# TYPE ")):
		name, family, _ := strings.Cut(strings.TrimSpace(string(s.line[len("# TYPE "):])), " ")
		if !bytes.HasPrefix(s.head, []byte("# HELP "+name+" ")) {
			s.head = s.head[:0] // of a family before
		}
		s.head, s.family = append(s.head, s.line...), families[family]
		return nil
	}
	end := bytes.LastIndexByte(bytes.TrimRight(s.line, "\n"), ' ')
	if end < 0 || s.kind != "" && s.kind != s.family || !s.name.Match(s.line[:end]) {
		return nil
	}
	if v, err := strconv.ParseFloat(string(bytes.TrimSpace(s.line[end:])), 64); s.used && s.family != "Histograms" && err == nil && v == 0 {
		return nil
	}
	if _, err := s.to.Write(s.head); err != nil {
		return err
	}
	s.head = s.head[:0]
	_, err := s.to.Write(s.line)
	return err
}

// end passes on a line that has no end.
func (s *sieve) end() error {
	if len(s.line) == 0 {
		return nil
	}
	return s.pass()
}
