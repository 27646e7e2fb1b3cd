// Package observe is what the proxy tells about its traffic: Istio's standard metrics,
// access logs in the formats of api/substitution, and who the other side is (Istio's
// metadata exchange).
//
// Finished requests and connections enter, as Labels and Records; text for Prometheus
// and log lines leave. It knows parsed messages, never exchanges or sockets. A Worker
// belongs to one worker of the proxy; Totals are summed by visiting each worker on its
// own thread. A Log may be shared by all workers. Telemetry fails open: what does not
// fit is counted and dropped, traffic goes on.
package observe
