package extauthz

import (
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/route"
)

// Config is one filter, immutable. Fields name those of envoy.extensions.filters.http.ext_authz.v3.ExtAuthz.
type Config struct {
	Service
	// GRPC asks envoy.service.auth.v3.Authorization; otherwise the service is asked by a request like the client's.
	GRPC bool

	PathPrefix, PathOverride string // http_service.path_prefix, path_override

	// Show and Hide are the client's headers that the service sees; a nil Show means all of them for gRPC, and of HTTP
	// only those that are always shown (allowed_headers, disallowed_headers).
	Show, Hide Names
	// Of an HTTP service's answer that allows: what is set and appended in the request, and what the client gets
	// (allowed_upstream_headers, allowed_upstream_headers_to_append, allowed_client_headers_on_success).
	Upstream, UpstreamAppend, ClientOnSuccess Names
	// Client is what of an answer that denies the client gets; nil: all of it (allowed_client_headers).
	Client Names

	Body *Body // with_request_body; nil: the service does not see it

	FailureModeAllow  bool
	FailureModeHeader bool // failure_mode_allow_header_add
	StatusOnError     int  // 0: 403
	ClearRoute        bool // clear_route_cache
	TLSSession        bool // include_tls_session
	MaxDenied         int  // max_denied_response_body_bytes; 0: as much as is kept of answers

	// When says which requests are asked about, and because of which policy; nil: all (filter_enabled_metadata).
	When func(x *http.Exchange) (policy string, ok bool)
	// Per1M is the share of requests that are asked about; the others pass (filter_enabled).
	Per1M uint32

	Counts *Counts
}

// Service is whom a filter asks.
type Service struct {
	Cluster   cluster.ID
	Timeout   time.Duration // of the question; 0: none
	Authority string        // :authority of gRPC questions
	Add       [][2]string   // http_service.authorization_request.headers_to_add, initial_metadata
}

// Body is how much of request bodies is shown.
type Body struct {
	Max     int
	Partial bool // a longer one is cut, instead of refused
	Bytes   bool // as bytes instead of text (gRPC)
}

// Names matches names of headers.
type Names []route.ValueMatch

func (n Names) match(name []byte) bool {
	for i := range n {
		if n[i].Holds(name) {
			return true
		}
	}
	return false
}

// Counts are the filter's statistics, by Envoy's names. They outlive the configuration and may be read at any time.
type Counts struct {
	OK, Denied, Error, FailureModeAllowed, Disabled atomic.Uint64
}
