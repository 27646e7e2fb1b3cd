package edges

import (
	"cmp"
	"strings"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	"github.com/weirmesh/weir/proxy/observe"
)

// maxText is what is told of a text that others chose, in bytes: what a control plane takes.
const maxText = 512

// crowd is what is known of requests and connections that found no series of their own. It is for the goroutine of Run.
type crowd struct {
	overflow uint64
	at       time.Time // when there was last one more
	where    *observev1.Edge
}

// place is where there are too many series.
type place struct {
	side     observe.Reporter
	service  observe.Service
	port     uint16
	protocol string
}

// note takes what was counted until now.
func (c *crowd) note(t *observe.Totals, now time.Time) {
	if t.Overflow == c.overflow {
		return
	}
	c.overflow, c.at, c.where = t.Overflow, now, nil
	counts := map[place]uint64{}
	count := func(l *observe.Labels, n uint64) {
		if l.Source == observe.Crowd {
			counts[place{l.Reporter, l.Service, l.Port, l.Protocol}] += n
		}
	}
	for l, s := range t.HTTP {
		count(&l, s.Requests)
	}
	for l, s := range t.TCP {
		count(&l, s.Opened)
	}
	var most place
	for p, n := range counts {
		if n > counts[most] || n == counts[most] && cmp.Compare(p.service.Host, most.service.Host) < 0 {
			most = p
		}
	}
	if counts[most] > 0 {
		c.where = edge(&key{side: most.side, service: most.service, port: most.port, protocol: most.protocol}, &value{}, &value{})
		c.where.Peer, c.where.LatencyCounts = nil, nil
	}
}

// tell adds it to a condition, and keeps texts within bounds.
func (c *crowd) tell(to *observev1.Condition) *observev1.Condition {
	to.RenewalError = short(to.RenewalError)
	if c.overflow > 0 {
		to.Overflow, to.OverflowUnixNano, to.Crowd = c.overflow, uint64(c.at.UnixNano()), c.where
	}
	return to
}

// short is the beginning of a text, in UTF-8, which protobuf demands.
func short(s string) string {
	return strings.ToValidUTF8(s[:min(len(s), maxText)], "")
}
