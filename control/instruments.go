package control

import (
	"io"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/common/expfmt"

	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

// instruments measure what happens; what is so at one moment is read when somebody asks
// (ownMetrics). Names, labels and, as far as theirs go, buckets are those of Istio's
// control plane (features.md B.12), which dashboards and alerts know.
type instruments struct {
	registry    *prometheus.Registry
	pushes      *prometheus.CounterVec
	rejects     *prometheus.CounterVec
	triggers    *prometheus.CounterVec
	updates     *prometheus.CounterVec
	sizes       *prometheus.HistogramVec
	failures    prometheus.Counter
	moved       prometheus.Counter
	pushing     *prometheus.HistogramVec
	sending     prometheus.Histogram
	queue       prometheus.Histogram
	convergence prometheus.Histogram

	mu sync.Mutex
	// published is when versions of the configuration were made, the last of them.
	published [512]moment // by version modulo its length
}

type moment struct {
	version uint64
	at      time.Time
}

func newInstruments() *instruments {
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{"type"})
	}
	// Istio's begin with .1; changes of a small mesh take some milliseconds.
	seconds := []float64{.005, .01, .025, .05, .1, .5, 1, 3, 5, 10, 20, 30}
	timing := func(name, help string) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Name: name, Help: help, Buckets: seconds}
	}
	histogram := func(name, help string) prometheus.Histogram { return prometheus.NewHistogram(timing(name, help)) }
	i := &instruments{
		registry: prometheus.NewRegistry(),
		pushes:   counter("pilot_xds_pushes", "Responses sent to proxies."),
		rejects:  counter("pilot_total_xds_rejects", "Responses that proxies refused, wholly or in part."),
		triggers: counter("pilot_push_triggers", "Changes that were made known to the proxies, by what changed."),
		updates:  counter("pilot_inbound_updates", "Changes of what is configured and of what runs."),
		sizes: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "pilot_xds_config_size_bytes", Help: "Sizes of responses sent to proxies.",
			Buckets: []float64{1, 10_000, 1_000_000, 4_000_000, 10_000_000, 40_000_000}}, []string{"type"}),
		failures:    prometheus.NewCounter(prometheus.CounterOpts{Name: "pilot_total_xds_internal_errors", Help: "Responses that could not be made."}),
		moved:       prometheus.NewCounter(prometheus.CounterOpts{Name: "weir_control_moved_streams_total", Help: "Streams of proxies that were asked to connect anew because other replicas have fewer."}),
		pushing:     prometheus.NewHistogramVec(timing("pilot_xds_push_time", "Seconds it takes to write a response and to hand it to the connection."), []string{"type"}),
		queue:       histogram("pilot_proxy_queue_time", "Seconds from a change until a proxy that it concerns begins to be sent it."),
		sending:     histogram("pilot_xds_send_time", "Seconds it takes to hand a response to the connection."),
		convergence: histogram("pilot_proxy_convergence_time", "Seconds from a change until a proxy that it concerns has accepted all of it."),
	}
	i.registry.MustRegister(i.pushes, i.rejects, i.failures, i.moved, i.triggers, i.updates, i.sizes, i.pushing, i.sending, i.queue, i.convergence,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return i
}

// metricType is what Istio calls a type of resources in labels: "cds".
func metricType(typeURL string) string { return strings.ToLower(resource.Short(typeURL)) }

// Sent is server.Observer.
func (i *instruments) Sent(typeURL string, bytes int, writing, sending time.Duration) {
	short := metricType(typeURL)
	i.pushes.WithLabelValues(short).Inc()
	i.sizes.WithLabelValues(typeURL).Observe(float64(bytes))
	i.pushing.WithLabelValues(short).Observe((writing + sending).Seconds())
	i.sending.Observe(sending.Seconds())
}

// Failed is server.Observer.
func (i *instruments) Failed() { i.failures.Inc() }

// Begun is server.Observer.
func (i *instruments) Begun(after uint64) { i.since(after+1, i.queue) }

// Converged is server.Observer. What counts is the oldest change that was new to the proxy.
func (i *instruments) Converged(after, _ uint64) { i.since(after+1, i.convergence) }

// since observes how old a version is, unless that is forgotten.
func (i *instruments) since(version uint64, in prometheus.Histogram) {
	i.mu.Lock()
	m := i.published[version%uint64(len(i.published))]
	i.mu.Unlock()
	if m.version == version {
		in.Observe(time.Since(m.at).Seconds())
	}
}

// note dates a version of the configuration and counts what changed with it.
func (i *instruments) note(old, cur *store.Update) {
	now := cur.Snapshot
	var before mesh.Snapshot
	if old != nil {
		before = *old.Snapshot
	}
	if now.Version == before.Version {
		return
	}
	i.mu.Lock()
	i.published[now.Version%uint64(len(i.published))] = moment{now.Version, time.Now()}
	i.mu.Unlock()
	trigger := map[string]string{"svc": "service", "eds": "endpoint", "config": "config"}
	for kind, same := range map[string]bool{
		"svc": now.Services.Same(before.Services),
		"eds": now.Endpoints.Same(before.Endpoints),
		"config": now.VirtualServices.Same(before.VirtualServices) && now.DestinationRules.Same(before.DestinationRules) && now.Gateways.Same(before.Gateways) &&
			now.PeerAuths.Same(before.PeerAuths) && now.Authorizations.Same(before.Authorizations) && now.RequestAuths.Same(before.RequestAuths) && now.KeySets.Same(before.KeySets) && now.Sidecars.Same(before.Sidecars) && now.Secrets.Same(before.Secrets) && now.Settings == before.Settings,
	} {
		if !same {
			i.updates.WithLabelValues(kind).Inc()
			i.triggers.WithLabelValues(trigger[kind]).Inc()
		}
	}
}

// write writes the Prometheus text format.
func (i *instruments) write(w io.Writer) error {
	families, err := i.registry.Gather()
	if err != nil {
		return err
	}
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(w, f); err != nil {
			return err
		}
	}
	return nil
}

// endpointCounts are the service ports nobody serves, and the endpoints that take no
// requests.
func endpointCounts(s *mesh.Snapshot) (noInstances, notReady int) {
	for key, svc := range s.Services.All() {
		if svc.Resolution != mesh.Static {
			continue // their endpoints are found by the proxies
		}
		eps := s.Endpoints.At(key)
		for _, p := range svc.Ports {
			if eps == nil || len(eps.Ports[p.Number]) == 0 {
				noInstances++
				continue
			}
			for i := range eps.Ports[p.Number] {
				if eps.Ports[p.Number][i].Health != mesh.Healthy {
					notReady++
				}
			}
		}
	}
	return noInstances, notReady
}
