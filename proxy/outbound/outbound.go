// Package outbound lists the stages of requests that leave a workload. It holds
// nothing; proxy/state calls it for every HTTP connection manager of an outbound
// listener.
package outbound

import (
	"github.com/weirmesh/weir/proxy/filter/grpcweb"
	"github.com/weirmesh/weir/proxy/filter/peermetadata"
	"github.com/weirmesh/weir/proxy/http"
)

// Options are the filters that are configured.
type Options struct {
	Metadata *peermetadata.Node // nil: no metadata exchange
	Fault    []http.Stage       // delay and abort
	CORS     []http.Stage
	GRPCWeb  bool
	Session  []http.Stage
	Access   []http.Stage // who may come in, and how often, in the order configured
}

// Stages are the steps of a request, in order; its response takes them backwards. The access log and the metrics come
// after all of them (http.Observer). The filter istio.alpn has no step: connections that carry HTTP offer Istio's HTTP
// protocols (cluster.Transport.HTTP).
func Stages(o Options) []http.Stage {
	var s []http.Stage
	s = append(s, http.Canonical()) // one form of the path; CONNECT and unknown upgrades end here
	s = append(s, http.Identify())  // scheme, request ID
	if o.GRPCWeb {
		s = append(s, grpcweb.Stage()) // gRPC-Web becomes gRPC: what follows sees gRPC only
	}
	s = append(s, http.Match()) // route and cluster
	s = append(s, o.Access...)  // who may do what, and how often: behind the route, so that metrics know whose service was asked for
	if o.Metadata != nil {
		s = append(s, o.Metadata.Client()) // tell who calls, learn who answers
	}
	s = append(s, o.Fault...)       // delay, abort
	s = append(s, o.CORS...)        // preflight requests, answers for pages of other origins
	s = append(s, o.Session...)     // which endpoint the request is for
	return append(s, http.Router()) // headers, rewrite, timeouts, retries, endpoint, connection
}
