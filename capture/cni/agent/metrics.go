package agent

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirmesh/weir/capture/cni"
)

// metrics have Istio's names where it has them.
type metrics struct {
	registry    *prometheus.Registry
	installs    *prometheus.CounterVec
	ready       prometheus.Gauge
	repairs     *prometheus.CounterVec
	calls       *prometheus.CounterVec
	seconds     prometheus.Histogram
	unprotected prometheus.Gauge
}

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		installs: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "istio_cni_installs_total", Help: "Installations of the CNI plugin on this node, tried."}, []string{"result"}),
		ready:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "istio_cni_install_ready", Help: "Whether the CNI plugin is installed on this node."}),
		repairs: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "istio_cni_repair_pods_repaired_total", Help: "Pods without the capture rules they asked for, by what was done about them."},
			[]string{"type", "result"}),
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "istio_cni_plugin_requests_total", Help: "Calls of the CNI plugin."}, []string{"operation", "result"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "weir_cni_plugin_seconds", Help: "Seconds a call of the CNI plugin takes.",
			Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}}),
		unprotected: prometheus.NewGauge(prometheus.GaugeOpts{Name: "weir_cni_unprotected_pods", Help: "Pods of this node whose traffic should be captured, is not, and could not be made to be."}),
	}
	m.registry.MustRegister(m.installs, m.ready, m.repairs, m.calls, m.seconds, m.unprotected)
	return m
}

func (m *metrics) call(r cni.Report) {
	m.calls.WithLabelValues(r.Operation, r.Result).Inc()
	m.seconds.Observe(r.Seconds)
}
