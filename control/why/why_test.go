package why

import (
	"fmt"
	"strings"
	"testing"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
)

const (
	vs = "/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews"
	dr = "/apis/networking.istio.io/v1/namespaces/default/destination-rule/reviews"
)

// record is one of a request that began so many milliseconds after noon.
func record(side observev1.Side, began, took int, cause string, status uint32, more func(*observev1.Record)) *observev1.Record {
	r := &observev1.Record{Id: "id", TimeUnixNano: uint64(began) * 1e6, EndedNano: uint64(took) * 1e6, Cause: cause, Status: status, GrpcStatus: -1, Method: "GET", Authority: "reviews:9080", Path: "/reviews/0",
		Edge: &observev1.Edge{Side: side, Peer: &observev1.Peer{Workload: "reviews-v1", Namespace: "default"}, Service: &observev1.Service{Host: "reviews.default.svc.cluster.local", Port: 9080}},
		Decisions: []*observev1.Decision{{Stage: "host", Part: "reviews"}, {Stage: "route", Part: "default", Object: vs, File: "vs.yaml", Line: 7},
			{Stage: "cluster", Part: "outbound|9080||reviews.default.svc.cluster.local", Object: dr, File: "dr.yaml", Line: 3}}}
	if side == observev1.Side_SIDE_DESTINATION {
		r.Edge.Peer.Workload, r.Client, r.Decisions = "page", "10.0.0.1:40000", nil
	}
	if more != nil {
		more(r)
	}
	return r
}

func called(began, took int, cause string, status uint32) Told {
	return Told{Node: "page", Workload: "default/page", Record: record(observev1.Side_SIDE_SOURCE, began, took, cause, status, func(r *observev1.Record) {
		r.Attempts, r.Tries = 1, []*observev1.Attempt{{Endpoint: "10.0.0.2:9080", Local: "10.0.0.1:40000", Cause: cause}}
	})}
}

func served(began, took int, cause string, status uint32, details string, by ...*observev1.Decision) Told {
	return Told{Node: "reviews", Workload: "default/reviews-v1", Record: record(observev1.Side_SIDE_DESTINATION, began, took, cause, status, func(r *observev1.Record) { r.Details, r.Decisions = details, by })}
}

// by is an object that decided, in a version.
func by(kind, name, hash string) *observev1.Decision {
	return &observev1.Decision{Stage: "decider", Object: "/apis/x/v1/namespaces/default/" + kind + "/" + name, Hash: hash, File: name + ".yaml", Line: 9}
}

// What is known now: the VirtualService has not changed, the DestinationRule has, policies are there.
type now struct{}

var objects now

func (now) Service(namespace, host string) (Ref, bool) {
	return Ref{"Service", "default", "reviews"}, host == "reviews.default.svc.cluster.local"
}

func (now) Serves(_, _, address string, then time.Time) (serves bool, left time.Time, known bool) {
	if address == "10.0.0.3:9080" { // left a second after the epoch
		return then.Before(time.Unix(1, 0)), time.Unix(1, 0), true
	}
	return true, left, true
}

func (now) Rejected(node, cluster string, _ time.Time) (message string, by []Pointer, ok bool) {
	return "no such file", []Pointer{{Ref{"DestinationRule", "default", "reviews"}, "trafficPolicy"}}, node == "blind"
}

func (now) Endpoints(_, _ string) []Endpoint { return nil }

func (now) Selects(_, _ string) bool { return false }

func (now) Proxy(string) (since, left time.Time, ok bool) { return since, left, true }

func (now) Declares(string) []uint16 { return nil }

func (now) Known(_, _ string) (Ref, bool) { return Ref{}, false }

func (now) Hosts(string) []string { return nil }

func (now) Amiss(string) []Pointer { return nil }

func (now) Elsewhere(_, _ string) (fields []Pointer, by Ref) { return nil, by }

func (now) Hidden(_, _, _ string) (by []Pointer, uncounted []Ref) { return nil, nil }

func (now) Applying(doing Doing, _ string, _ uint16) []Ref {
	return []Ref{{[...]string{Secures: "PeerAuthentication", Confines: "Sidecar"}[doing], "default", "applies"}}
}

func (now) Object(kind, _, name string) (Object, bool) {
	switch {
	case kind == "VirtualService" && name == "reviews":
		return Object{File: "vs.yaml", Line: 1, Hash: "new", Since: time.Unix(-100, 0)}, true
	case kind == "DestinationRule":
		return Object{File: "dr.yaml", Line: 1, Since: time.Unix(100, 0)}, true
	case kind == "AuthorizationPolicy":
		return Object{File: "policy.yaml", Line: 9, Hash: "new", Since: time.Unix(-100, 0)}, true
	case kind == "Gateway", kind == "RequestAuthentication":
		return Object{File: "x.yaml", Line: 1}, true
	}
	return Object{}, false
}

// Of each way in which a request can fail the true cause comes first, wherever it happened, with the object that decided.
func TestStories(t *testing.T) {
	upstream := func(began, took int, cause string, status uint32) Told { // a call that reviews made meanwhile
		c := called(began, took, cause, status)
		c.Node, c.Workload = "reviews", "default/reviews-v1"
		c.Record.Authority = "ratings:9080"
		c.Record.Tries = nil
		return c
	}
	delaying := func(began, took int, cause string, status uint32) Told {
		c := upstream(began, took, cause, status)
		if c.Record.Attempts = 0; status == 200 {
			c.Record.Attempts, c.Record.Tries = 1, []*observev1.Attempt{{BeganNano: uint64(took-1) * 1e6}}
		}
		c.Record.Flags, c.Record.Decisions[1] = "DI", &observev1.Decision{Stage: "route", Object: "/apis/x/v1/namespaces/default/virtual-service/ratings", Hash: "new", File: "ratings.yaml", Line: 5}
		return c
	}
	for _, c := range []struct {
		name string
		told []Told
		want string // cause at workload, then who decided
	}{
		{"went well", []Told{called(0, 5, "", 200), served(1, 3, "", 200, "via_upstream")}, "200 ok at default/page"},
		{"a version that the proxy did not have yet", []Told{func() Told {
			c := called(0, 1000, "upstream_timeout", 504)
			c.Record.Decisions[1].Hash = "old"
			return c
		}()}, "504 upstream_timeout at default/page; VirtualService default/reviews http[].timeout vs.yaml:7 behind"},
		{"the version in force", []Told{func() Told {
			c := called(0, 1000, "upstream_timeout", 504)
			c.Record.Decisions[1].Hash = "new"
			return c
		}()}, "504 upstream_timeout at default/page; VirtualService default/reviews http[].timeout vs.yaml:7"},
		{"nobody listens", []Told{called(0, 5, "upstream_connect_refused", 503)}, "503 upstream_connect_refused at default/page"},
		{"the caller's own time-out, although the server saw it go", []Told{called(0, 1000, "upstream_timeout", 504), served(1, 999, "downstream_disconnected", 0, "")},
			"504 upstream_timeout at default/page; VirtualService default/reviews http[].timeout vs.yaml:7"},
		{"a limit of the caller", []Told{called(0, 1, "upstream_overflow", 503)},
			"503 upstream_overflow at default/page; DestinationRule default/reviews trafficPolicy.connectionPool.http.http2MaxRequests dr.yaml:3 changed"},
		{"a policy of the server", []Told{called(0, 5, "", 403), served(1, 1, "access_denied", 403, "rbac_access_denied_matched_policy[ns[default]-policy[deny]-rule[2]]", by("authorization-policy", "deny", "new"))},
			"403 access_denied at default/reviews-v1; AuthorizationPolicy default/deny rules[2] deny.yaml:9"},
		{"an older version of a policy of the server", []Told{called(0, 5, "", 403), served(1, 1, "access_denied", 403, "rbac_access_denied_matched_policy[ns[default]-policy[deny]-rule[2]]", by("authorization-policy", "deny", "old"))},
			"403 access_denied at default/reviews-v1; AuthorizationPolicy default/deny rules[2] deny.yaml:9 behind"},
		{"a policy of Istio before 1.5", []Told{called(0, 5, "", 403), served(1, 1, "access_denied", 403, "rbac_access_denied_matched_policy[ns[default]-policy[deny]-rule[2]]", by("mesh-policy", "deny", "new"))},
			"403 access_denied at default/reviews-v1; MeshPolicy default/deny rules deny.yaml:9"},
		{"no rule for the path", []Told{func() Told {
			c := called(0, 1, "route_not_found", 404)
			c.Record.Decisions = []*observev1.Decision{{Stage: "host", Part: "reviews"}, by("virtual-service", "reviews", "new"), by("virtual-service", "more", "new")}
			return c
		}()}, "404 route_not_found at default/page; VirtualService default/reviews http reviews.yaml:9; VirtualService default/more http more.yaml:9"},
		{"a gateway's server", []Told{func() Told {
			c := called(0, 1, "downstream_tls_failed", 0)
			c.Record.Decisions = []*observev1.Decision{by("gateway", "edge", "")}
			return c
		}()}, "0 downstream_tls_failed at default/page; Gateway default/edge servers[].tls edge.yaml:9"},
		{"a name that no server has", []Told{func() Told {
			c := called(0, 1, "filter_chain_not_found", 0)
			c.Record.Decisions = []*observev1.Decision{by("gateway", "edge", "")}
			return c
		}()}, "0 filter_chain_not_found at default/page; Gateway default/edge servers edge.yaml:9"},
		{"another protocol than the port's", []Told{func() Told {
			c := called(0, 1, "upstream_protocol_error", 502)
			c.Record.Tries[0].Failure = "http2.http1_response"
			return c
		}()}, "502 upstream_protocol_error at default/page; Service default/reviews ports :0"},
		{"an answer in the right protocol that is broken", []Told{func() Told {
			c := called(0, 1, "upstream_protocol_error", 502)
			c.Record.Tries[0].Failure = "http1.several_content_lengths"
			return c
		}()}, "502 upstream_protocol_error at default/page"},
		{"a token of whichever issuer", []Told{called(0, 5, "", 401), served(1, 1, "token_refused", 401, "", by("request-authentication", "a", ""), by("request-authentication", "b", ""))},
			"401 token_refused at default/reviews-v1"},
		{"a token of one issuer", []Told{called(0, 5, "", 401), served(1, 1, "token_expired", 401, "", by("request-authentication", "a", ""))},
			"401 token_expired at default/reviews-v1; RequestAuthentication default/a jwtRules a.yaml:9"},
		{"the server's application is not there", []Told{called(0, 5, "", 503), served(1, 1, "upstream_connect_refused", 503, "")}, "503 upstream_connect_refused at default/reviews-v1"},
		{"each attempt on a connection of its own, more than the client's record has room for", []Told{func() Told {
			c := called(0, 50, "", 503)
			c.Record.Attempts, c.Record.Tries = 3, []*observev1.Attempt{{Local: "10.0.0.1:40000", Status: 503}, {Local: "10.0.0.1:40002", Status: 503}}
			return c
		}(), served(1, 1, "upstream_terminated", 503, ""), func() Told {
			s := served(10, 1, "upstream_terminated", 503, "")
			s.Record.Client = "10.0.0.1:40001"
			return s
		}(), func() Told {
			s := served(20, 1, "upstream_connect_refused", 503, "")
			s.Record.Client = "10.0.0.1:40002"
			return s
		}()}, "503 upstream_connect_refused at default/reviews-v1"},
		{"the other side ended it, and says nothing", []Told{called(0, 5, "upstream_terminated", 503)}, "503 upstream_terminated at default/page (unknown)"},
		{"the server's application says so", []Told{called(0, 5, "", 500), served(1, 1, "", 500, "via_upstream")}, "500 application_answered at default/reviews-v1"},
		{"the server's application says so, and nobody else knows", []Told{called(0, 5, "", 500)}, "500 application_answered at default/reviews-v1 (unknown)"},
		{"the server's proxy denied it, and has forgotten", []Told{func() Told {
			c := called(0, 5, "", 403)
			c.Record.Said = "denied"
			return c
		}()}, "403 denied at default/reviews-v1 (unknown)"},
		{"the server's proxy answered, and has forgotten", []Told{func() Told {
			c := called(0, 5, "", 503)
			c.Record.Said = "upstream_connect_refused"
			return c
		}()}, "503 upstream_connect_refused at default/reviews-v1 (unknown)"},
		{"the server's proxy answered, and remembers", []Told{func() Told {
			c := called(0, 5, "", 403)
			c.Record.Said = "denied"
			return c
		}(), served(1, 1, "access_denied", 403, "rbac_access_denied_matched_policy[ns[default]-policy[deny]-rule[2]]", by("authorization-policy", "deny", "new"))},
			"403 access_denied at default/reviews-v1; AuthorizationPolicy default/deny rules[2] deny.yaml:9"},
		{"a server's proxy that resets", []Told{called(0, 5, "upstream_connection_reset", 503), served(1, 1, "memory_exhausted", 503, "")}, "503 memory_exhausted at default/reviews-v1"},
		{"a connection that the server's proxy refused", []Told{called(0, 5, "upstream_connection_reset", 503), func() Told {
			r := served(1, 0, "filter_chain_not_found", 0, "")
			r.Record.Id = ""
			return r
		}()}, "503 filter_chain_not_found at default/reviews-v1"},
		{"a relayed connection that a policy of the server ends", []Told{func() Told {
			c := called(0, 5, "upstream_connection_reset", 0)
			c.Record.Id = ""
			return c
		}(), func() Told {
			r := served(1, 0, "access_denied", 0, "rbac_access_denied_matched_policy[ns[default]-policy[deny]-rule[0]-deny-due-to-bad-CUSTOM-action]", by("authorization-policy", "deny", "new"))
			r.Record.Id = ""
			return r
		}()}, "0 access_denied at default/reviews-v1; AuthorizationPolicy default/deny action deny.yaml:9"},
		{"an endpoint that is gone", []Told{func() Told {
			c := called(2000, 5, "upstream_connect_refused", 503)
			c.Record.Tries[0].Endpoint = "10.0.0.3:9080"
			return c
		}()}, "503 endpoint_gone at default/page"},
		{"an endpoint that is gone since", []Told{func() Told {
			c := called(0, 5, "upstream_connect_refused", 503)
			c.Record.Tries[0].Endpoint = "10.0.0.3:9080"
			return c
		}()}, "503 upstream_connect_refused at default/page"},
		{"a configuration that the proxy does not take", []Told{func() Told {
			c := called(0, 5, "cluster_not_found", 503)
			c.Node = "blind"
			return c
		}()}, "503 configuration_rejected at default/page; DestinationRule default/reviews trafficPolicy dr.yaml:3 changed"},
		{"nobody is allowed", []Told{called(0, 5, "", 403), served(1, 1, "not_allowed", 403, "rbac_access_denied_matched_policy[none]", by("authorization-policy", "a", "new"), by("authorization-policy", "b", "old"))},
			"403 not_allowed at default/reviews-v1; AuthorizationPolicy default/a rules a.yaml:9; AuthorizationPolicy default/b rules b.yaml:9 behind"},
		{"somebody who is asked says no", []Told{called(0, 5, "", 403), served(1, 1, "ext_authz_denied", 403, "ext_authz_denied", by("authorization-policy", "ask", "new"))},
			"403 ext_authz_denied at default/reviews-v1; AuthorizationPolicy default/ask provider ask.yaml:9"},
		{"what the registry does not have", []Told{{Node: "page", Workload: "default/page", Record: record(observev1.Side_SIDE_SOURCE, 0, 0, "direct_response", 502, func(r *observev1.Record) {
			r.Decisions = []*observev1.Decision{{Stage: "route", Part: "block_all"}}
		})}}, "502 not_in_registry at default/page; Sidecar default/applies outboundTrafficPolicy :0"},
		{"a cause of a newer version", []Told{called(0, 5, "bad_weather", 503)}, "503 bad_weather at default/page"},
		{"further on", []Told{called(0, 50, "", 500), served(1, 40, "", 500, ""), upstream(10, 5, "fault_abort", 503)}, "500 fault_abort at default/reviews-v1; VirtualService default/reviews http[].fault.abort vs.yaml:7"},
		{"further on, and what the client saw went well", []Told{called(0, 50, "", 200), served(1, 40, "", 200, ""), upstream(10, 5, "no_endpoints", 503)}, "503 no_endpoints at default/reviews-v1; Service default/reviews selector :0"},
		{"delayed on purpose, until the client left", []Told{{Node: "page", Workload: "default/page", Record: record(observev1.Side_SIDE_SOURCE, 0, 900, "downstream_disconnected", 0, func(r *observev1.Record) {
			r.Flags = "DI,DC"
		})}}, "0 fault_delay at default/page; VirtualService default/reviews http[].fault.delay vs.yaml:7"},
		{"a time-out, because of a delay on purpose further on", []Told{called(0, 1000, "upstream_timeout", 504), served(1, 999, "downstream_disconnected", 0, ""), delaying(10, 900, "downstream_disconnected", 0)},
			"504 fault_delay at default/reviews-v1; VirtualService default/ratings http[].fault.delay ratings.yaml:5"},
		{"the same, and the application did not give up", []Told{called(0, 1000, "upstream_timeout", 504), served(1, 999, "downstream_disconnected", 0, ""), delaying(10, 4900, "", 200)},
			"504 fault_delay at default/reviews-v1; VirtualService default/ratings http[].fault.delay ratings.yaml:5"},
		{"a time-out, and a delay that took little of it", []Told{called(0, 1000, "upstream_timeout", 504), served(1, 999, "downstream_disconnected", 0, ""), delaying(10, 300, "", 200)},
			"504 upstream_timeout at default/page; VirtualService default/reviews http[].timeout vs.yaml:7"},
		{"calls with one id that have nothing to do with each other", []Told{called(0, 5, "host_not_found", 404), upstream(90, 5, "fault_abort", 503)},
			"503 fault_abort at default/reviews-v1; VirtualService default/reviews http[].fault.abort vs.yaml:7\n404 host_not_found at default/page"},
		{"a destination that is kept closed", []Told{{Node: "page", Workload: "default/page", Record: record(observev1.Side_SIDE_SOURCE, 0, 0, "destination_refused", 503, func(r *observev1.Record) {
			r.Details, r.Decisions = "destination_refused{DestinationRule:default/reviews}", nil
		})}}, "503 destination_refused at default/page; DestinationRule default/reviews trafficPolicy.tls dr.yaml:1 changed"},
		{"a destination that is kept closed because two objects contradict each other", []Told{{Node: "page", Workload: "default/page", Record: record(observev1.Side_SIDE_SOURCE, 0, 0, "destination_refused", 503, func(r *observev1.Record) {
			r.Details, r.Decisions = "destination_refused{DestinationRule:default/reviews:against:PeerAuthentication:shop/plain}", nil
		})}}, "503 destination_refused at default/page; DestinationRule default/reviews trafficPolicy.tls dr.yaml:1 changed; PeerAuthentication shop/plain mtls :0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got []string
			for _, s := range Stories(c.told, objects) {
				got = append(got, say(&s))
			}
			if g := strings.Join(got, "\n"); g != c.want {
				t.Errorf("got  %s\nwant %s", g, c.want)
			}
		})
	}
}

func say(s *apiv1.Story) string {
	out := fmt.Sprintf("%d %s at %s", s.Status, s.Cause, s.At)
	if s.Unknown != "" {
		out += " (unknown)"
	}
	for i := range s.Decided {
		d := &s.Decided[i]
		if d.Field == "" {
			continue // on the way
		}
		out += fmt.Sprintf("; %s %s/%s %s %s:%d", d.Kind, d.Namespace, d.Name, d.Field, d.File, d.Line)
		switch {
		case d.Behind:
			out += " behind"
		case d.Changed:
			out += " changed"
		}
	}
	return out
}

// Of a route whose object has changed since, nothing is said but what the proxies recorded: which path the application got.
func TestAlteredByWhatHasChanged(t *testing.T) {
	for _, c := range []struct{ got, detail, by string }{
		{"/v9/0", "the application got the path /v9/0, and /reviews/0 was asked for: VirtualService default/reviews routed it", "VirtualService"},
		{"/reviews/0", "", ""},
	} {
		caller, server := called(0, 5, "", 500), served(1, 3, "", 500, "via_upstream")
		caller.Record.Decisions[1].Hash, server.Record.Path = "old", c.got
		s := Stories([]Told{caller, server}, objects)[0]
		by := ""
		if len(s.Decided) > 0 {
			by = strings.TrimSpace(s.Decided[0].Kind + " " + s.Decided[0].Field)
		}
		if s.Cause != "application_answered" || s.Detail != c.detail || by != c.by {
			t.Errorf("%s: %s, %q by %q, want %q by %q", c.got, s.Cause, s.Detail, by, c.detail, c.by)
		}
	}
}

// What is alike is told once, and only what was asked for.
func TestMerge(t *testing.T) {
	one := func(id, cause string) Told {
		c := called(0, 1, cause, 503)
		c.Record.Id = id
		return c
	}
	all := Merge(Stories([]Told{one("a", "no_endpoints"), one("b", "no_endpoints"), one("c", "upstream_overflow"), one("", "no_endpoints")}, objects))
	if len(all) != 2 || all[0].Others != 2 || all[1].Others != 0 {
		t.Errorf("%+v", all)
	}
	for _, c := range []struct {
		from, to string
		want     bool
	}{{"", "", true}, {"page", "", true}, {"page", "reviews", true}, {"default/page", "default/reviews", true}, {"", "reviews-v1", true}, {"page", "ratings", false}, {"pa", "", false}, {"reviews", "", false}, {"", "rev", false}} {
		if got := About(&all[0], c.from, c.to); got != c.want {
			t.Errorf("from %q to %q: %v", c.from, c.to, got)
		}
	}
}

// A client's port is used again as soon as its connection has ended, for one to somebody else: what came elsewhere than where an attempt
// was sent is another's, unless it has the same id, or was still there when the attempt was made.
func TestPortsAreUsedAgain(t *testing.T) {
	const client, sent, elsewhere = "10.0.0.1:40000", "10.0.0.2:8080", "10.0.0.3:9000"
	for _, c := range []struct {
		intent       string
		id, asked    string
		begin, ended uint64 // s
		joined       bool
	}{
		{"where it was sent", "", sent, 10, 0, true},
		{"of somebody who does not say where", "", "", 5, 1, true},
		{"elsewhere, and ended before", "", elsewhere, 5, 1, false},
		{"elsewhere, while it was made: an address that is changed on the way", "", elsewhere, 10, 1, true},
		{"elsewhere, by a clock that is late, with its id", "x", elsewhere, 5, 1, true},
		{"elsewhere, with another's id", "y", elsewhere, 5, 1, false},
	} {
		a := &observev1.Record{Id: "x", TimeUnixNano: 10 * 1e9, Attempts: 1, Edge: &observev1.Edge{Side: observev1.Side_SIDE_SOURCE},
			Tries: []*observev1.Attempt{{Local: client, Endpoint: sent}}}
		b := &observev1.Record{Id: c.id, Client: client, Asked: c.asked, TimeUnixNano: c.begin * 1e9, EndedNano: c.ended * 1e9, Edge: &observev1.Edge{Side: observev1.Side_SIDE_DESTINATION}}
		if got := leads(a, b); got != c.joined {
			t.Errorf("%s: joined is %v", c.intent, got)
		}
	}
}
