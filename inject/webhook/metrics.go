package webhook

import "github.com/prometheus/client_golang/prometheus"

// metrics have the names of Istio's control plane.
type metrics struct {
	requests, successes, failures, skips, faults prometheus.Counter
	seconds                                      prometheus.Histogram
	valid, invalid                               *prometheus.CounterVec
}

func newMetrics(to prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	m := &metrics{
		requests:  counter("sidecar_injection_requests_total", "Pods the injector was asked about."),
		successes: counter("sidecar_injection_success_total", "Pods that got a proxy."),
		failures:  counter("sidecar_injection_failure_total", "Pods that were refused because they could not get their proxy."),
		skips:     counter("sidecar_injection_skip_total", "Pods that were left as they were."),
		faults:    counter("mesh_inject_review_faults_total", "Reviews that ended in a defect of the control plane."),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "sidecar_injection_time_seconds", Help: "Seconds an injection takes.",
			Buckets: []float64{.0001, .001, .01, .1, 1, 5}}),
		valid: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "galley_validation_passed", Help: "Objects found valid before they were stored."},
			[]string{"group", "version", "resource"}),
		invalid: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "galley_validation_failed", Help: "Objects refused before they were stored."},
			[]string{"group", "version", "resource", "reason"}),
	}
	if to != nil {
		to.MustRegister(m.requests, m.successes, m.failures, m.skips, m.faults, m.seconds, m.valid, m.invalid)
	}
	return m
}
