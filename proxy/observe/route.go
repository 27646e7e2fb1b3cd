package observe

import (
	"bufio"
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// Route is a route that has counters of its own (Route.stat_prefix), of a virtual host.
type Route struct{ Host, Prefix string }

// RouteSeries are its counters.
type RouteSeries struct {
	Requests, Retries, Timeouts uint64
	Classes                     [6]uint64 // by the first digit of the status
}

func (s *RouteSeries) add(o *RouteSeries) {
	s.Requests += o.Requests
	s.Retries += o.Retries
	s.Timeouts += o.Timeouts
	for i, n := range o.Classes {
		s.Classes[i] += n
	}
}

// Route counts one finished request of a route. r's strings are kept.
func (w *Worker) Route(r Route, status, retries int, timeout bool) {
	s := w.routes[r]
	if s == nil {
		if len(w.routes) >= maxSeries {
			w.Overflow++
			return
		}
		if w.routes == nil {
			w.routes = map[Route]*RouteSeries{}
		}
		s = &RouteSeries{}
		w.routes[r] = s
	}
	s.Requests++
	s.Retries += uint64(retries)
	if timeout {
		s.Timeouts++
	}
	if class := status / 100; class > 0 && class < len(s.Classes) {
		s.Classes[class]++
	}
}

// RouteCounter is one counter by Envoy's name below the route: "upstream_rq_2xx".
type RouteCounter struct {
	Route Route
	Name  string
	Value uint64
	class int // of statuses; 0: all
}

// RouteCounters lists the counters of routes in a stable order.
func (t *Totals) RouteCounters() (out []RouteCounter) {
	for _, r := range slices.SortedFunc(maps.Keys(t.Routes), func(a, b Route) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Prefix, b.Prefix))
	}) {
		s := t.Routes[r]
		for class, n := range s.Classes {
			if n > 0 {
				out = append(out, RouteCounter{r, fmt.Sprintf("upstream_rq_%dxx", class), n, class})
			}
		}
		out = append(out, RouteCounter{r, "upstream_rq_retry", s.Retries, 0}, RouteCounter{r, "upstream_rq_timeout", s.Timeouts, 0}, RouteCounter{r, "upstream_rq_total", s.Requests, 0})
	}
	return out
}

// writeRoutes writes the counters of routes with the labels that Envoy makes of their names.
func (t *Totals) writeRoutes(b *bufio.Writer) {
	all := t.RouteCounters()
	slices.SortStableFunc(all, func(a, b RouteCounter) int { return cmp.Compare(a.metric(), b.metric()) })
	last := ""
	for _, c := range all {
		m := c.metric()
		if m != last {
			head(b, m, "counter", "Of routes that have a statPrefix.")
			last = m
		}
		class := ""
		if c.class > 0 {
			class = fmt.Sprintf("envoy_response_code_class=\"%d\",", c.class)
		}
		fmt.Fprintf(b, "%s{%senvoy_route=\"%s\",envoy_virtual_host=\"%s\"} %d\n", m, class, escapeLabel(c.Route.Prefix), escapeLabel(c.Route.Host), c.Value)
	}
}

func (c *RouteCounter) metric() string {
	if c.class > 0 {
		return "envoy_vhost_route_upstream_rq_xx"
	}
	return "envoy_vhost_route_" + c.Name
}
