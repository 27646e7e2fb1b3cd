package observe

import (
	"iter"
	"math"
	"slices"
	"time"

	"github.com/weirmesh/weir/api/causes"
)

// Reporter is the side that reports.
type Reporter uint8

// Sides.
const (
	Source Reporter = iota
	Destination
)

func (r Reporter) String() string {
	if r == Source {
		return "source"
	}
	return "destination"
}

// Security is connection_security_policy.
type Security uint8

// Security as Istio's labels have it: the client side does not know.
const (
	SecurityUnknown Security = iota
	SecurityNone
	SecurityMutualTLS
)

func (s Security) String() string {
	switch s {
	case SecurityNone:
		return "none"
	case SecurityMutualTLS:
		return "mutual_tls"
	}
	return "unknown"
}

// Service is the destination service of the labels.
type Service struct{ Host, Name, Namespace string }

// Labels identify one series of Istio's standard metrics. It is comparable and is the
// key of the workers' maps: everything in it is a small number, an interned pointer or a
// string that configuration owns.
type Labels struct {
	Source, Destination            *Peer // nil: unknown
	SourcePrincipal, DestPrincipal string
	Service                        Service
	Protocol                       string // http, grpc, tcp
	// What follows has no gaps, so that it is hashed at once.
	Flags      causes.Flags
	Status     uint16 // 0 for TCP
	Port       uint16 // of the cluster: no label, but part of an edge
	Reporter   Reporter
	Security   Security
	GRPCStatus int8 // -1 none
	// Encrypted is whether a proxy speaks TLS on the edge, with whomever: no label, because
	// Istio's source does not say.
	Encrypted bool
}

// buckets are Istio's histogram bounds for milliseconds and bytes alike.
var buckets = [...]float64{0.5, 1, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000, 600000, 1800000, 3600000}

// Histogram counts observations in Istio's buckets.
type Histogram struct {
	counts [len(buckets) + 1]uint64
	sum    float64
}

// Observe adds v.
func (h *Histogram) Observe(v float64) {
	i, _ := slices.BinarySearch(buckets[:], v) // first bound >= v: le is inclusive
	h.counts[i]++
	h.sum += v
}

// Sum is that of all observations.
func (h *Histogram) Sum() float64 { return h.sum }

// Buckets yields upper bounds, the last of them infinite, with what was observed between
// each and the one before.
func (h *Histogram) Buckets() iter.Seq2[float64, uint64] {
	return func(yield func(float64, uint64) bool) {
		for i, n := range h.counts {
			bound := math.Inf(1)
			if i < len(buckets) {
				bound = buckets[i]
			}
			if !yield(bound, n) {
				return
			}
		}
	}
}

func (h *Histogram) add(o *Histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.sum += o.sum
}

// HTTPSeries are the metrics of requests with equal Labels.
type HTTPSeries struct {
	Requests                              uint64
	Duration, RequestBytes, ResponseBytes Histogram
}

func (s *HTTPSeries) add(o *HTTPSeries) {
	s.Requests += o.Requests
	s.Duration.add(&o.Duration)
	s.RequestBytes.add(&o.RequestBytes)
	s.ResponseBytes.add(&o.ResponseBytes)
}

// TCPSeries are the metrics of connections with equal Labels.
type TCPSeries struct{ Opened, Closed, Sent, Received uint64 }

func (s *TCPSeries) add(o *TCPSeries) {
	s.Opened += o.Opened
	s.Closed += o.Closed
	s.Sent += o.Sent
	s.Received += o.Received
}

// Bounds of the series of one worker, some 0.7 KB each. Labels are made of workloads, names of certificates, configured names, status
// codes and flags, and peers choose some of them: who invents metadata, or answers with every status from 100 to 999. Beyond
// maxSeries requests are counted in series without anything that a peer says (Crowd; the status by its class), of which there are
// as many as there are services; and if there are too many of these, in one for each side and protocol.
const (
	maxSeries  = 20_000
	maxCrowded = 2_000
)

// Crowd is the workload of series whose requests found no room in one of their own. No workload is called so: it is no name of Kubernetes.
var Crowd = &Peer{Workload: crowd, Namespace: crowd, App: crowd, Version: crowd, CanonicalService: crowd, CanonicalRevision: crowd, Cluster: crowd}

const crowd = "__overflow__"

// crowded is where requests with labels l count if they have no room of their own; have is how many series there are.
func (l *Labels) crowded(have int) Labels {
	k := Labels{Source: Crowd, Destination: Crowd, Protocol: l.Protocol, Reporter: l.Reporter, Security: l.Security, Encrypted: l.Encrypted, GRPCStatus: -1}
	if have < maxSeries+maxCrowded {
		k.Service, k.Port, k.Status = l.Service, l.Port, l.Status/100*100
	}
	return k
}

// find returns the series of l in m, making it at first sight, or one in which there is room for it.
func find[S any](w *Worker, m map[Labels]*S, l *Labels) (s *S, own bool) {
	if s, own = m[*l]; own {
		return s, true
	}
	if len(m) < maxSeries {
		s = new(S)
		m[*l] = s
		return s, true
	}
	w.Overflow++
	key := l.crowded(0)
	if s = m[key]; s == nil {
		if key = l.crowded(len(m)); m[key] == nil {
			m[key] = new(S)
		}
		s = m[key]
	}
	return s, false
}

// Worker holds one worker's numbers. Only that worker touches it; Collect copies it on
// the worker's own thread.
type Worker struct {
	http   map[Labels]*HTTPSeries
	tcp    map[Labels]*TCPSeries
	routes map[Route]*RouteSeries
	// unknown are hosts that nobody knows, the last ones asked for.
	unknown []UnknownHost
	// Overflow counts requests and connections whose series found no room.
	Overflow uint64
	failures failures

	lastKey Labels
	last    *HTTPSeries
}

// NewWorker makes a worker's set of numbers.
func NewWorker() *Worker {
	return &Worker{http: map[Labels]*HTTPSeries{}, tcp: map[Labels]*TCPSeries{}}
}

// HTTP returns the series of l, making it at first sight.
func (w *Worker) HTTP(l *Labels) *HTTPSeries {
	if w.last != nil && w.lastKey == *l {
		return w.last
	}
	s, own := find(w, w.http, l)
	if own {
		w.lastKey, w.last = *l, s
	}
	return s
}

// Request counts one finished request.
func (w *Worker) Request(l *Labels, took time.Duration, requestBytes, responseBytes int64) {
	s := w.HTTP(l)
	s.Requests++
	s.Duration.Observe(math.Trunc(float64(took)/float64(time.Microsecond)) / 1000)
	s.RequestBytes.Observe(float64(requestBytes))
	s.ResponseBytes.Observe(float64(responseBytes))
}

// TCP returns the series of l, making it at first sight. A connection keeps it.
func (w *Worker) TCP(l *Labels) *TCPSeries {
	s, _ := find(w, w.tcp, l)
	return s
}

// failures count what did not go well, by who reports it and why.
type failures [Destination + 1][causes.Count]uint64

// Failed counts a request or connection that ended for a cause, if that is of a failure.
func (w *Worker) Failed(r Reporter, c causes.Cause) {
	if c.Failure() {
		w.failures[r][c]++
	}
}

// Totals is the sum of several workers.
type Totals struct {
	HTTP     map[Labels]*HTTPSeries
	TCP      map[Labels]*TCPSeries
	Routes   map[Route]*RouteSeries
	Overflow uint64
	failures failures
}

// NewTotals makes an empty sum.
func NewTotals() *Totals {
	return &Totals{HTTP: map[Labels]*HTTPSeries{}, TCP: map[Labels]*TCPSeries{}, Routes: map[Route]*RouteSeries{}}
}

// Add adds a worker's numbers. It must run on that worker.
func (t *Totals) Add(w *Worker) {
	for l, s := range w.http {
		sum := t.HTTP[l]
		if sum == nil {
			sum = &HTTPSeries{}
			t.HTTP[l] = sum
		}
		sum.add(s)
	}
	for l, s := range w.tcp {
		sum := t.TCP[l]
		if sum == nil {
			sum = &TCPSeries{}
			t.TCP[l] = sum
		}
		sum.add(s)
	}
	for r, s := range w.routes {
		sum := t.Routes[r]
		if sum == nil {
			sum = &RouteSeries{}
			t.Routes[r] = sum
		}
		sum.add(s)
	}
	t.Overflow += w.Overflow
	for r := range w.failures {
		for c, n := range w.failures[r] {
			t.failures[r][c] += n
		}
	}
}
