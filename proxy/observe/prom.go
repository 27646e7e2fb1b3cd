package observe

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/weirmesh/weir/api/causes"
)

const unknown = "unknown"

func orUnknown(s string) string {
	if s == "" {
		return unknown
	}
	return s
}

// WritePrometheus writes the totals in the Prometheus text format (version 0.0.4), with
// Istio's metric and label names, series in a stable order.
func (t *Totals) WritePrometheus(w io.Writer) error {
	b := bufio.NewWriter(w)
	http := sortedSeries(t.HTTP)
	if len(http) > 0 {
		head(b, "istio_requests_total", "counter", "Requests handled, by both sides of the connection.")
		for _, e := range http {
			sample(b, "istio_requests_total", e.labels, "", strconv.FormatUint(e.series.Requests, 10))
		}
		histogram(b, "istio_request_duration_milliseconds", "Duration of requests.", http, func(s *HTTPSeries) *Histogram { return &s.Duration })
		histogram(b, "istio_request_bytes", "Size of request bodies.", http, func(s *HTTPSeries) *Histogram { return &s.RequestBytes })
		histogram(b, "istio_response_bytes", "Size of response bodies.", http, func(s *HTTPSeries) *Histogram { return &s.ResponseBytes })
	}
	tcp := sortedSeries(t.TCP)
	for _, m := range []struct {
		name, help string
		get        func(*TCPSeries) uint64
	}{
		{"istio_tcp_connections_opened_total", "Connections opened.", func(s *TCPSeries) uint64 { return s.Opened }},
		{"istio_tcp_connections_closed_total", "Connections closed.", func(s *TCPSeries) uint64 { return s.Closed }},
		{"istio_tcp_sent_bytes_total", "Bytes sent in answer.", func(s *TCPSeries) uint64 { return s.Sent }},
		{"istio_tcp_received_bytes_total", "Bytes received in requests.", func(s *TCPSeries) uint64 { return s.Received }},
	} {
		if len(tcp) == 0 {
			break
		}
		head(b, m.name, "counter", m.help)
		for _, e := range tcp {
			sample(b, m.name, e.labels, "", strconv.FormatUint(m.get(e.series), 10))
		}
	}
	t.writeRoutes(b)
	t.writeFailures(b)
	head(b, "weir_proxy_series", "gauge", "Series of Istio's metrics that are kept.")
	fmt.Fprintf(b, "weir_proxy_series %d\n", len(t.HTTP)+len(t.TCP)+len(t.Routes))
	head(b, "weir_proxy_series_overflow_total", "counter", "Requests and connections counted as those of workload "+crowd+", because there were too many series.")
	fmt.Fprintf(b, "weir_proxy_series_overflow_total %d\n", t.Overflow)
	return b.Flush()
}

// writeFailures writes what has happened: a cause that never occurred has no series.
func (t *Totals) writeFailures(b *bufio.Writer) {
	head(b, "weir_proxy_failures_total", "counter", "Requests and connections that proxies answered or ended, or that failed, by cause; weir explain CAUSE says what it means.")
	for r := range t.failures {
		for c, n := range t.failures[r] {
			if n > 0 {
				sample(b, "weir_proxy_failures_total", `cause="`+causes.Cause(c).Name()+`",reporter="`+Reporter(r).String()+`"`, "", strconv.FormatUint(n, 10))
			}
		}
	}
}

type entry[S any] struct {
	labels string
	series *S
}

// sortedSeries adds up series that differ only in what is no label: replicas of one
// workload are different Peers.
func sortedSeries[S any, P interface {
	*S
	add(*S)
}](m map[Labels]*S) []entry[S] {
	byText := make(map[string]*S, len(m))
	for l, s := range m {
		text := l.text()
		if byText[text] == nil {
			byText[text] = new(S)
		}
		P(byText[text]).add(s)
	}
	out := make([]entry[S], 0, len(byText))
	for text, s := range byText {
		out = append(out, entry[S]{text, s})
	}
	slices.SortFunc(out, func(a, b entry[S]) int { return cmp.Compare(a.labels, b.labels) })
	return out
}

func head(b *bufio.Writer, name, kind, help string) {
	fmt.Fprintf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func sample(b *bufio.Writer, name, labels, more, value string) {
	b.WriteString(name)
	b.WriteByte('{')
	b.WriteString(labels)
	if more != "" {
		b.WriteByte(',')
		b.WriteString(more)
	}
	b.WriteString("} ")
	b.WriteString(value)
	b.WriteByte('\n')
}

func histogram(b *bufio.Writer, name, help string, series []entry[HTTPSeries], get func(*HTTPSeries) *Histogram) {
	head(b, name, "histogram", help)
	for _, e := range series {
		h := get(e.series)
		sum := uint64(0)
		for i, bound := range buckets {
			sum += h.counts[i]
			sample(b, name+"_bucket", e.labels, `le="`+strconv.FormatFloat(bound, 'g', -1, 64)+`"`, strconv.FormatUint(sum, 10))
		}
		sum += h.counts[len(buckets)]
		sample(b, name+"_bucket", e.labels, `le="+Inf"`, strconv.FormatUint(sum, 10))
		sample(b, name+"_sum", e.labels, "", strconv.FormatFloat(h.sum, 'g', -1, 64))
		sample(b, name+"_count", e.labels, "", strconv.FormatUint(sum, 10))
	}
}

var nobody = &Peer{}

// text renders the labels as Istio names and orders them.
func (l *Labels) text() string {
	src, dst := l.Source, l.Destination
	if src == nil {
		src = nobody
	}
	if dst == nil {
		dst = nobody
	}
	var b strings.Builder
	add := func(k, v string) {
		if b.Len() > 0 {
			b.WriteByte(',')
		}
		b.WriteString(k)
		b.WriteString(`="`)
		b.WriteString(escapeLabel(v))
		b.WriteByte('"')
	}
	add("reporter", l.Reporter.String())
	add("source_workload", orUnknown(src.Workload))
	add("source_canonical_service", orUnknown(src.CanonicalService))
	add("source_canonical_revision", orUnknown(src.CanonicalRevision))
	add("source_workload_namespace", orUnknown(src.Namespace))
	add("source_principal", orUnknown(l.SourcePrincipal))
	add("source_app", orUnknown(src.App))
	add("source_version", orUnknown(src.Version))
	add("source_cluster", orUnknown(src.Cluster))
	add("destination_workload", orUnknown(dst.Workload))
	add("destination_workload_namespace", orUnknown(dst.Namespace))
	add("destination_principal", orUnknown(l.DestPrincipal))
	add("destination_app", orUnknown(dst.App))
	add("destination_version", orUnknown(dst.Version))
	add("destination_service", orUnknown(l.Service.Host))
	add("destination_canonical_service", orUnknown(dst.CanonicalService))
	add("destination_canonical_revision", orUnknown(dst.CanonicalRevision))
	add("destination_service_name", orUnknown(l.Service.Name))
	add("destination_service_namespace", orUnknown(l.Service.Namespace))
	add("destination_cluster", orUnknown(dst.Cluster))
	add("request_protocol", orUnknown(l.Protocol))
	if l.Protocol != "tcp" {
		status := strconv.Itoa(int(l.Status))
		if src == Crowd && l.Status > 0 {
			status = status[:1] + "xx"
		}
		add("response_code", status)
		grpc := ""
		if l.GRPCStatus >= 0 {
			grpc = strconv.Itoa(int(l.GRPCStatus))
		}
		add("grpc_response_status", grpc)
	}
	add("response_flags", l.Flags.String())
	add("connection_security_policy", l.Security.String())
	return b.String()
}

var labelEscapes = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

// escapeLabel keeps a label value on one line and valid UTF-8: peers choose some of them.
func escapeLabel(v string) string {
	if !strings.ContainsAny(v, "\\\n\"") && isASCII(v) {
		return v
	}
	return labelEscapes.Replace(strings.ToValidUTF8(v, "�"))
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
