package istio

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// healthCheck is the text of the annotation weir.dev/health-check, which is YAML.
type healthCheck struct {
	HTTP *struct {
		Path              string            `json:"path"`
		Host              string            `json:"host"`
		Method            string            `json:"method"`
		Headers           map[string]string `json:"headers"`
		ExpectedStatuses  []string          `json:"expectedStatuses"`
		RetriableStatuses []string          `json:"retriableStatuses"`
	} `json:"http"`
	GRPC *struct {
		Service string `json:"service"`
	} `json:"grpc"`
	TCP                *struct{} `json:"tcp"`
	Ports              []int32   `json:"ports"`
	Interval           string    `json:"interval"`
	Timeout            string    `json:"timeout"`
	UnhealthyThreshold *int32    `json:"unhealthyThreshold"`
	HealthyThreshold   *int32    `json:"healthyThreshold"`
}

// Defaults of a health check: those of a Kubernetes probe, but that one answer is not enough to be back.
const (
	checkInterval  = 10 * time.Second
	checkTimeout   = time.Second
	checkUnhealthy = 3
	checkHealthy   = 2

	leastCheckInterval = 100 * time.Millisecond // what is asked more often is load
	maxCheckService    = 100                    // bytes, what proxies take
)

// healthCheck reads the annotation.
func (l *lowerer) healthCheck(at, text string) *mesh.HealthCheck {
	root, err := document.ParseYAML(text, 1)
	if err != nil || root == nil || root.Kind != document.Map {
		l.Invalid(at, "is not a map of fields in YAML", `for example "{http: {path: /healthz}, interval: 5s}"`)
		return nil
	}
	in := healthCheck{}
	failed := false
	document.Struct(root, "", &in, func(p document.Problem) {
		failed = true
		l.Invalid(at, strings.TrimPrefix(p.Path+" "+p.Message, " "), p.Hint)
	})
	if failed {
		return nil
	}
	out := &mesh.HealthCheck{Interval: l.span(at, "interval", in.Interval, checkInterval, leastCheckInterval), Timeout: l.span(at, "timeout", in.Timeout, checkTimeout, time.Millisecond)}
	count := func(name string, n *int32, otherwise uint32) uint32 {
		if n == nil {
			return otherwise
		}
		if *n < 1 || *n > 1000 {
			l.Invalid(at, fmt.Sprintf("%s: %d is not 1 to 1000", name, *n), "say after how many checks in a row")
		}
		return uint32(*n)
	}
	out.Unhealthy, out.Healthy = count("unhealthyThreshold", in.UnhealthyThreshold, checkUnhealthy), count("healthyThreshold", in.HealthyThreshold, checkHealthy)
	for _, n := range in.Ports {
		if n < 1 || n > 65535 {
			l.Invalid(at, fmt.Sprintf("ports: port %d does not exist", n), "name ports of the service")
			continue
		}
		out.Ports = append(out.Ports, uint16(n))
	}
	kinds := 0
	if h := in.HTTP; h != nil {
		kinds++
		out.Kind, out.Path, out.Host, out.Method = mesh.CheckHTTP, h.Path, h.Host, strings.ToUpper(h.Method)
		if !strings.HasPrefix(h.Path, "/") || strings.ContainsFunc(h.Path, unprintable) {
			l.Invalid(at, fmt.Sprintf("http.path: %q is not a path", h.Path), `begin with "/"`)
		}
		if strings.ContainsFunc(h.Host, unprintable) {
			l.Invalid(at, fmt.Sprintf("http.host: %q is not a host", h.Host), "leave it out for the service's")
		}
		if !slices.Contains([]string{"", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPost, http.MethodPut}, out.Method) {
			l.Invalid(at, fmt.Sprintf("http.method: %q cannot be a check", h.Method), "use GET or HEAD")
		}
		for _, k := range sortedKeys(h.Headers) {
			if k == "" || strings.ContainsFunc(k, unprintable) || strings.Contains(k, ":") || strings.ContainsAny(h.Headers[k], "\r\n\x00") {
				l.Invalid(at, fmt.Sprintf("http.headers: %q cannot be sent", k), "write NAME: VALUE")
			}
			out.Headers = append(out.Headers, mesh.Header{Name: strings.ToLower(k), Value: h.Headers[k]})
		}
		out.Statuses, out.Retriable = l.statuses(at, "http.expectedStatuses", h.ExpectedStatuses), l.statuses(at, "http.retriableStatuses", h.RetriableStatuses)
	}
	if g := in.GRPC; g != nil {
		kinds++
		if out.Kind, out.Service = mesh.CheckGRPC, g.Service; len(g.Service) > maxCheckService {
			l.Invalid(at, fmt.Sprintf("grpc.service: has %d bytes, at most %d are possible", len(g.Service), maxCheckService), "leave it out to ask about the whole server")
		}
	}
	if in.TCP != nil {
		kinds++
		out.Kind = mesh.CheckTCP
	}
	if kinds != 1 {
		l.Invalid(at, fmt.Sprintf("has %d of http, grpc and tcp", kinds), `give one of them; "tcp: {}" is that a connection opens`)
	}
	return out
}

// statuses reads statuses and ranges of them.
func (l *lowerer) statuses(at, name string, list []string) (out []mesh.StatusRange) {
	for _, s := range list {
		from, to, ranged := strings.Cut(s, "-")
		a, errA := strconv.Atoi(from)
		b := a
		var errB error
		if ranged {
			b, errB = strconv.Atoi(to)
		}
		if errA != nil || errB != nil || a < 100 || b > 599 || a > b {
			l.Invalid(at, fmt.Sprintf("%s: %q is neither a status nor a range", name, s), `for example "200-299"`)
			continue
		}
		out = append(out, mesh.StatusRange{From: uint16(a), To: uint16(b)})
	}
	return out
}

// unprintable reports what has no place in a request's first line.
func unprintable(r rune) bool { return r <= ' ' || r == 0x7f }

// span reads a duration of the annotation at path.
func (l *lowerer) span(path, name, s string, otherwise, least time.Duration) time.Duration {
	if s == "" {
		return otherwise
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		l.Invalid(path, fmt.Sprintf("%s: %q is not a duration", name, s), `for example "5s"`)
	case d < least || d > 24*time.Hour:
		l.Invalid(path, fmt.Sprintf("%s: %v is not %v to 24h", name, d, least), "give a duration between the two")
	}
	return d
}
