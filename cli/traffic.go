package cli

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
)

// call is who calls whom, with what came of it in the last minute.
type call struct {
	Source      string  `json:"source"`      // namespace/workload; "unknown" of callers without a proxy
	Destination string  `json:"destination"` // likewise; of what is not in the mesh, or was never reached, the service; "nowhere" without a route
	Service     string  `json:"service,omitempty"`
	Port        uint32  `json:"port,omitempty"`
	Protocol    string  `json:"protocol"`
	Transport   string  `json:"transport,omitempty"` // empty: nothing was sent
	Requests    uint64  `json:"requests"`            // of the last minute; of tcp, connections
	Failures    uint64  `json:"failures"`            // of those: 5xx, or an answer of a proxy
	Rate        float64 `json:"rate"`                // requests a second
	// Milliseconds, estimated from a coarse histogram; -1: longer than its last bound, 2,500. Nil where nothing was measured.
	P50  *float64  `json:"p50,omitempty"`
	P99  *float64  `json:"p99,omitempty"`
	Last time.Time `json:"last"`

	latency []uint64
}

func (c *call) errors() float64 {
	if c.Requests == 0 {
		return 0
	}
	return 100 * float64(c.Failures) / float64(c.Requests)
}

// calls joins the two sides' reports of the same traffic: the caller's counts, since it knows of calls that arrived nowhere; the
// other side's where the caller has no proxy.
func calls(all []apiv1.Edge, now time.Time) []call {
	type pair struct{ from, to string }
	told := map[pair]bool{}
	for i := range all {
		if e := &all[i]; e.Reporter == "source" {
			told[pair{end(e.Source, ""), end(e.Destination, e.Service)}] = true
		}
	}
	type key struct {
		from, to, service, protocol, transport string
		port                                   uint32
	}
	sums := map[key]*call{}
	first := map[key]time.Time{}
	var out []*call
	for i := range all {
		e := &all[i]
		from, to := end(e.Source, ""), end(e.Destination, e.Service)
		if to == unknown {
			to = "nowhere" // no route leads anywhere
		}
		if e.Reporter != "source" && told[pair{from, to}] {
			continue
		}
		k := key{from, to, cmp.Or(e.Service, e.Host), e.Protocol, e.Transport, e.Port}
		c := sums[k]
		if c == nil {
			c = &call{Source: from, Destination: to, Service: k.service, Port: e.Port, Protocol: e.Protocol, Transport: e.Transport}
			sums[k], first[k] = c, e.First
			out = append(out, c)
		}
		c.Requests, c.Failures = c.Requests+e.Recent, c.Failures+e.RecentFailures
		for i, n := range e.RecentLatency {
			if i == len(c.latency) {
				c.latency = append(c.latency, 0)
			}
			c.latency[i] += n
		}
		if e.Last.After(c.Last) {
			c.Last = e.Last
		}
		if e.First.Before(first[k]) {
			first[k] = e.First
		}
	}
	list := make([]call, len(out))
	for i, c := range out {
		k := key{c.Source, c.Destination, c.Service, c.Protocol, c.Transport, c.Port}
		// Reports come every 5 s: what is younger than a minute has been counted for as long, and for one report at least.
		c.Rate = float64(c.Requests) / min(max(now.Sub(first[k]), 5*time.Second), time.Minute).Seconds()
		c.P50, c.P99 = quantile(c.latency, 0.5), quantile(c.latency, 0.99)
		list[i] = *c
	}
	slices.SortFunc(list, func(a, b call) int {
		return cmp.Or(cmp.Compare(b.Rate, a.Rate), b.Last.Compare(a.Last), cmp.Compare(a.Source, b.Source), cmp.Compare(a.Destination, b.Destination), cmp.Compare(a.Service, b.Service))
	})
	return list
}

// unknown is who has no proxy to say who it is.
const unknown = "unknown"

// end names one end of an edge.
func end(e apiv1.EdgeEnd, service string) string {
	switch {
	case e.Workload != "":
		return qualified(e.Namespace, e.Workload)
	case service != "":
		return service
	}
	return unknown
}

// bounds are those of the histogram of an edge, in milliseconds.
var bounds = [...]float64{0, 1, 5, 25, 100, 500, 2500}

// quantile is a quantile of a histogram with these bounds, by interpolation.
func quantile(counts []uint64, q float64) *float64 {
	all := uint64(0)
	for _, n := range counts {
		all += n
	}
	if all == 0 {
		return nil
	}
	rank, below := q*float64(all), 0.0
	for i, n := range counts {
		if below+float64(n) < rank || n == 0 {
			below += float64(n)
			continue
		}
		if i+1 >= len(bounds) {
			break
		}
		return new(bounds[i] + (bounds[i+1]-bounds[i])*(rank-below)/float64(n))
	}
	return new(-1.0)
}

func latencyText(ms *float64) string {
	switch {
	case ms == nil:
		return ""
	case *ms < 0:
		return ">2500 ms"
	}
	if *ms < 10 {
		return fmt.Sprintf("%.2g ms", *ms)
	}
	size := math.Pow(10, math.Floor(math.Log10(*ms))-1) // two digits say more than the histogram knows
	return strconv.FormatFloat(math.RoundToEven(*ms/size)*size, 'f', 0, 64) + " ms"
}

func rateText(perSecond float64) string {
	if perSecond >= 100 {
		return strconv.FormatFloat(perSecond, 'f', 0, 64) + "/s"
	}
	return fmt.Sprintf("%.3g/s", perSecond)
}

func errorText(c *call) cell {
	if c.Failures == 0 {
		return cell{"0 %", dim}
	}
	return cell{fmt.Sprintf("%.3g %%", c.errors()), red}
}
