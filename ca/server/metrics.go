package server

import (
	"sync/atomic"
	"time"
)

// Metric is one number for the control plane's metrics page.
type Metric struct {
	Name, Help string
	Counter    bool    // else a gauge
	Error      string  // value of the label "error", if not empty
	Value      float64 // seconds, where it is a time
}

// Names and the label's values are Istio's, except what it has no name for.
const (
	metricRequests        = "citadel_server_csr_count"
	metricUnauthenticated = "citadel_server_authentication_failure_count"
	metricMalformed       = "citadel_server_csr_parsing_err_count"
	metricIdentity        = "citadel_server_id_extraction_err_count"
	metricSignErrors      = "citadel_server_csr_sign_err_count"
	metricIssued          = "citadel_server_success_cert_issuance_count"
	metricRootExpiry      = "citadel_server_root_cert_expiry_timestamp"
	metricRootSeconds     = "citadel_server_root_cert_expiry_seconds"
	metricChainExpiry     = "citadel_server_cert_chain_expiry_timestamp"
	metricChainSeconds    = "citadel_server_cert_chain_expiry_seconds"
	metricLimited         = "mesh_ca_requests_limited_total"
	metricReplayed        = "mesh_ca_tokens_replayed_total"
	metricGone            = "mesh_ca_renewals_refused_total"
)

type counters struct {
	requests, unauthenticated, identity, limited, gone, replayed, malformed, ended, failed, issued atomic.Uint64
}

// Metrics is a snapshot of all counters and of the authority's ends.
func (s *Server) Metrics() []Metric {
	counter := func(name, help string, n *atomic.Uint64) Metric {
		return Metric{Name: name, Help: help, Counter: true, Value: float64(n.Load())}
	}
	signError := func(kind string, n *atomic.Uint64) Metric {
		m := counter(metricSignErrors, "Certificate requests that ended without a signature.", n)
		m.Error = kind
		return m
	}
	gauge := func(name, help string, v float64) Metric { return Metric{Name: name, Help: help, Value: v} }
	authority, _ := s.o.Authority.Watch()
	c, root, chain := &s.count, authority.RootNotAfter(), authority.ChainNotAfter()
	return []Metric{
		counter(metricRequests, "Certificate requests received.", &c.requests),
		counter(metricUnauthenticated, "Certificate requests refused for lack of a good credential.", &c.unauthenticated),
		counter(metricIdentity, "Certificate requests refused because the caller may not have the identity.", &c.identity),
		counter(metricLimited, "Certificate requests refused because the caller asks too often.", &c.limited),
		counter(metricGone, "Renewals refused because the service account of the certificate is gone.", &c.gone),
		counter(metricReplayed, "Tokens of pods, for certificates or configuration, that were refused because another pod showed them.", &c.replayed),
		counter(metricMalformed, "Certificate requests that are malformed or by too weak a key.", &c.malformed),
		signError("CSR_ERROR", &c.malformed),
		signError("CA_NOT_READY", &c.ended),
		signError("CERT_GEN_ERROR", &c.failed),
		counter(metricIssued, "Certificates issued.", &c.issued),
		gauge(metricRootExpiry, "End of the root certificate, in seconds since 1970.", float64(root.Unix())),
		gauge(metricRootSeconds, "Seconds until the root certificate ends.", time.Until(root).Seconds()),
		gauge(metricChainExpiry, "When signing ends: the first end of the signing certificate and those above it, in seconds since 1970.", float64(chain.Unix())),
		gauge(metricChainSeconds, "Seconds until signing ends.", time.Until(chain).Seconds()),
	}
}
