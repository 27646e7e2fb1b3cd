// Package gateway lists the stages of requests that enter the mesh. It holds
// nothing; proxy/state calls it for every HTTP connection manager of a gateway.
package gateway

import (
	"github.com/weirmesh/weir/proxy/filter/cors"
	"github.com/weirmesh/weir/proxy/filter/fault"
	"github.com/weirmesh/weir/proxy/filter/grpcweb"
	"github.com/weirmesh/weir/proxy/filter/peermetadata"
	"github.com/weirmesh/weir/proxy/filter/session"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/route"
)

// Options are the filters that are configured.
type Options struct {
	Metadata *peermetadata.Node // nil: no metadata exchange
	Fault    *route.Fault       // nil: none
	CORS     bool               // routes may have policies
	GRPCWeb  bool
	Session  *route.Session // nil: no filter for sessions
	Access   []http.Stage   // who may come in, and how often, in the order configured
}

// Stages are the steps of a request, in order; its response takes them backwards. The access log and the metrics come
// after all of them (http.Observer).
func Stages(o Options) []http.Stage {
	var s []http.Stage
	s = append(s, http.Canonical()) // one form of the path; CONNECT and unknown upgrades end here
	s = append(s, http.Identify())  // strangers' x-envoy headers off, x-forwarded-for, XFCC, request ID
	if o.GRPCWeb {
		s = append(s, grpcweb.Stage()) // gRPC-Web becomes gRPC: what follows sees gRPC only
	}
	s = append(s, http.Match()) // route and cluster
	s = append(s, o.Access...)  // who may do what, and how often: behind the route, so that metrics know whose service was asked for
	if o.Metadata != nil {
		s = append(s, o.Metadata.Client()) // tell who calls, learn who answers
	}
	s = append(s, fault.Stages(o.Fault)...) // delay, abort
	if o.CORS {
		s = append(s, cors.Stage()) // preflight requests, answers for pages of other origins
	}
	if o.Session != nil {
		s = append(s, session.Stage(o.Session)) // which endpoint the request is for
	}
	return append(s, http.Router()) // headers, rewrite, timeouts, retries, endpoint, connection
}
