package mesh

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Series is one series of a metric: its labels, and its value (of a histogram: how many
// observations).
type Series struct {
	Labels map[string]string
	Value  float64
}

// Admin asks the proxy's admin interface.
func (w *Workload) Admin(method, path string) *Response {
	c := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", w.admin)
	}}}
	return Do(c, method, "http://proxy"+path, nil)
}

// Metrics are the proxy's, by name.
func (w *Workload) Metrics() map[string][]Series {
	w.mesh.T.Helper()
	r := w.Admin(http.MethodGet, "/stats/prometheus")
	if r.Err != nil || r.Status != http.StatusOK {
		w.mesh.T.Fatalf("metrics of %s: %v", w.Name, r)
	}
	return w.mesh.parse(r.Body)
}

// Metrics are those of the control plane and of all proxies, as the control plane shows
// them together.
func (m *Mesh) Metrics() map[string][]Series {
	m.T.Helper()
	r := Do(&http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}, http.MethodGet, "http://"+m.API().Address()+"/metrics", nil)
	if r.Err != nil || r.Status != http.StatusOK {
		m.T.Fatalf("metrics: %v", r)
	}
	return m.parse(r.Body)
}

// parse reads Prometheus' text format.
func (m *Mesh) parse(text []byte) map[string][]Series {
	m.T.Helper()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(text)))
	if err != nil {
		m.T.Fatalf("metrics: %v", err)
	}
	out := map[string][]Series{}
	for name, f := range families {
		for _, x := range f.GetMetric() {
			s := Series{Labels: map[string]string{}}
			switch {
			case x.Counter != nil:
				s.Value = x.GetCounter().GetValue()
			case x.Histogram != nil:
				s.Value = float64(x.GetHistogram().GetSampleCount())
			default:
				s.Value = x.GetGauge().GetValue() + x.GetUntyped().GetValue() // one of them
			}
			for _, l := range x.GetLabel() {
				s.Labels[l.GetName()] = l.GetValue()
			}
			out[name] = append(out[name], s)
		}
	}
	return out
}

// Count adds up the series of a metric that have all the given labels ("reporter=source").
func Count(series []Series, labels ...string) float64 {
	total := 0.0
	for _, s := range series {
		all := true
		for _, l := range labels {
			name, value, _ := strings.Cut(l, "=")
			all = all && s.Labels[name] == value
		}
		if all {
			total += s.Value
		}
	}
	return total
}

// Endpoints are those that the proxy knows of a cluster now.
func (w *Workload) Endpoints(cluster string) []string {
	w.mesh.T.Helper()
	var state struct {
		Clusters []struct {
			Name      string
			Endpoints []struct{ Address string }
		}
	}
	r := w.Admin(http.MethodGet, "/state")
	if err := json.Unmarshal(r.Body, &state); err != nil {
		w.mesh.T.Fatalf("clusters of %s: %v: %v", w.Name, r, err)
	}
	var out []string
	for _, c := range state.Clusters {
		if c.Name == cluster {
			for _, e := range c.Endpoints {
				out = append(out, e.Address)
			}
		}
	}
	return out
}

// Serial is the serial number of the certificate that the proxy holds.
func (w *Workload) Serial() (string, error) {
	var held struct{ Serial string }
	r := w.Admin(http.MethodGet, "/identity")
	if err := json.Unmarshal(r.Body, &held); err != nil {
		return "", fmt.Errorf("certificates of %s: %v: %w", w.Name, r, err)
	}
	return held.Serial, nil
}

// AccessLog waits until the proxy has logged a line with all the given words, and returns
// every such line.
func (w *Workload) AccessLog(words ...string) []string {
	w.mesh.T.Helper()
	var found []string
	w.mesh.Eventually(fmt.Sprintf("%s logs %q", w.Name, words), func() error {
		found = slices.DeleteFunc(strings.Split(w.log.String(), "\n"), func(line string) bool {
			for _, word := range words {
				if !strings.Contains(line, word) {
					return true
				}
			}
			return line == ""
		})
		if len(found) == 0 {
			return fmt.Errorf("it has logged:\n%s", w.log.Tail(2<<10))
		}
		return nil
	})
	return found
}

// Logged is every access log line so far.
func (w *Workload) Logged() []string { return strings.Split(strings.TrimSpace(w.log.String()), "\n") }

// LoggedWith are the access log lines so far that have a text in them.
func (w *Workload) LoggedWith(text string) []string {
	var out []string
	for line := range strings.Lines(w.log.String()) {
		if strings.HasSuffix(line, "\n") && strings.Contains(line, text) {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}
