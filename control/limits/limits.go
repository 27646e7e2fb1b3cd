// Package limits makes one table of the limits that calls to a service meet: what proxies say of each, and which field of which
// object set it.
//
// Answers of proxies enter, with a look at the objects there are; rows leave. It is a pure function, for whoever answers
// `weir limits`.
package limits

import (
	"cmp"
	"slices"

	"github.com/weirmesh/weir/api/causes"
	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/control/field"
	"github.com/weirmesh/weir/control/why"
)

// Told is what a proxy said.
type Told struct {
	Workload string // namespace/name
	Clusters []*observev1.ClusterLimits
}

// Objects finds an object; false: there is none of that name.
type Objects func(kind, namespace, name string) (why.Object, bool)

// mostOfCluster bounds what a proxy may say of a cluster: limits, and callers.
const mostOfCluster = 100

// most are the workloads of a row, those with the most trips and the highest peak.
const most = 20

// kind is what there is to know of a kind of limit: what it is of, in which unit, and where an object sets it.
type kind struct {
	name, scope, unit string
	path              string  // as of package field
	usual             float64 // what holds where nobody says anything, if not no limit
}

const (
	none    = -1
	seconds = "s"
	percent = "%"
	// The scopes.
	ofProxy, ofConnection, ofRequest, ofAttempt, ofEndpoint = "proxy", "connection", "request", "attempt", "endpoint"
	// Where they are set.
	aRoute, pool, outliers, budget = "http[].", "trafficPolicy.connectionPool.", "trafficPolicy.outlierDetection.", "trafficPolicy.retryBudget."
)

// kinds are in the order in which a request meets them.
var kinds = []kind{
	{"timeout", ofRequest, seconds, aRoute + "timeout", none},
	{"attempts", ofRequest, "", aRoute + "retries.attempts", 2},
	{"try_timeout", ofAttempt, seconds, aRoute + "retries.perTryTimeout", none},
	{"requests", ofProxy, "", pool + "http.http2MaxRequests", none},
	{"pending", ofProxy, "", pool + "http.http1MaxPendingRequests", none},
	{"connections", ofProxy, "", pool + "tcp.maxConnections", none},
	{"connect_timeout", ofConnection, seconds, pool + "tcp.connectTimeout", 10},
	{"requests_per_connection", ofConnection, "", pool + "http.maxRequestsPerConnection", none},
	{"connection_age", ofConnection, seconds, pool + "tcp.maxConnectionDuration", none},
	{"retries", ofProxy, "", pool + "http.maxRetries", none},
	{"retry_budget", ofProxy, "", budget + "percent", none},
	{"errors_in_a_row", ofEndpoint, "", outliers + "consecutive5xxErrors", 5},
	{"gateway_errors_in_a_row", ofEndpoint, "", outliers + "consecutiveGatewayErrors", none},
	{"local_failures_in_a_row", ofEndpoint, "", outliers + "consecutiveLocalOriginFailures", 5},
	{"ejected", ofProxy, percent, outliers + "maxEjectionPercent", 10},
}

// Of is the kind of limit that a proxy refuses by with a cause; "": by none.
func Of(c causes.Cause) string {
	switch c {
	case causes.UpstreamOverflow:
		return "requests"
	case causes.PendingOverflow:
		return "pending"
	case causes.ConnectionsOverflow:
		return "connections"
	}
	return ""
}

// row is what makes limits of several proxies one.
type row struct {
	at, subset, kind, object string
	port, line               uint32
	none                     bool
	value                    float64
}

// Table is what proxies said, added up: a row for each limit and value.
func Table(all []Told, objects Objects) []apiv1.Limit {
	rows := map[row]*apiv1.Limit{}
	out := []*apiv1.Limit{}
	for _, t := range all {
		for _, c := range t.Clusters {
			subset := field.Cluster(c.GetCluster()).Subset
			at := "caller"
			if c.GetSide() == observev1.Side_SIDE_DESTINATION {
				at = "server"
			}
			for _, l := range c.GetLimits()[:min(len(c.GetLimits()), mostOfCluster)] {
				i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == l.GetKind() })
				if i < 0 {
					continue // of a newer proxy
				}
				k := row{at, subset, l.GetKind(), l.GetObject(), c.GetPort(), l.GetLine(), l.GetNone(), l.GetValue()}
				if k.kind == "retry_budget" {
					k.value = 0 // follows what is under way
				}
				x := rows[k]
				if x == nil {
					x = &apiv1.Limit{At: at, Port: int(c.GetPort()), Subset: subset, Name: l.GetKind(), Scope: kinds[i].scope, Unit: kinds[i].unit}
					if !l.GetNone() {
						x.Value = new(l.GetValue())
					}
					x.SetBy, x.Default = setBy(&kinds[i], l, subset, uint16(c.GetPort()), objects)
					rows[k] = x
					out = append(out, x)
				}
				if x.Value != nil {
					*x.Value = max(*x.Value, l.GetValue())
				}
				add(x, t.Workload, l)
				if x.At == "server" && l.GetTrips() > 0 {
					for _, r := range c.GetRefused()[:min(len(c.GetRefused()), mostOfCluster)] {
						who := r.GetPeer().GetNamespace() + "/" + r.GetPeer().GetWorkload()
						if r.GetPeer().GetWorkload() == "" {
							who = r.GetPeer().GetIdentity()
						}
						refused(x, who, r.GetCount())
					}
				} else if x.At == "caller" {
					refused(x, t.Workload, l.GetTrips())
				}
			}
		}
	}
	order := func(name string) int { return slices.IndexFunc(kinds, func(k kind) bool { return k.name == name }) }
	slices.SortStableFunc(out, func(a, b *apiv1.Limit) int {
		return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.Port, b.Port), cmp.Compare(a.Subset, b.Subset), cmp.Compare(order(a.Name), order(b.Name)))
	})
	list := make([]apiv1.Limit, len(out))
	for i, x := range out {
		slices.SortFunc(x.Proxies, func(a, b apiv1.LimitUse) int {
			return cmp.Or(cmp.Compare(b.Trips, a.Trips), cmp.Compare(b.Peak, a.Peak), cmp.Compare(a.Workload, b.Workload))
		})
		slices.SortFunc(x.Callers, func(a, b apiv1.LimitTrips) int {
			return cmp.Or(cmp.Compare(b.Trips, a.Trips), cmp.Compare(a.Workload, b.Workload))
		})
		x.Proxies, x.Callers = x.Proxies[:min(len(x.Proxies), most)], x.Callers[:min(len(x.Callers), most)]
		list[i] = *x
	}
	return list
}

// add counts a limit of one proxy of a workload.
func add(x *apiv1.Limit, workload string, l *observev1.Limit) {
	i := slices.IndexFunc(x.Proxies, func(u apiv1.LimitUse) bool { return u.Workload == workload })
	if i < 0 {
		i = len(x.Proxies)
		x.Proxies = append(x.Proxies, apiv1.LimitUse{Workload: workload})
	}
	u := &x.Proxies[i]
	u.Proxies++
	u.Use, u.Peak, u.Trips = max(u.Use, l.GetUse()), max(u.Peak, l.GetPeak()), u.Trips+l.GetTrips()
	x.Use, x.Peak, x.Trips = max(x.Use, l.GetUse()), max(x.Peak, l.GetPeak()), x.Trips+l.GetTrips()
}

func refused(x *apiv1.Limit, who string, n uint64) {
	if n == 0 {
		return
	}
	for i := range x.Callers {
		if x.Callers[i].Workload == who {
			x.Callers[i].Trips += n
			return
		}
	}
	x.Callers = append(x.Callers, apiv1.LimitTrips{Workload: who, Trips: n})
}

// setBy is the object and field that sets a limit; nil: none that is known does, and standard says that it is what holds then.
func setBy(k *kind, l *observev1.Limit, subset string, port uint16, objects Objects) (by *apiv1.Decider, standard bool) {
	usual := l.GetNone() || l.GetValue() == k.usual
	what, namespace, name, ok := why.Parse(l.GetObject())
	if !ok {
		return nil, usual
	}
	d := &apiv1.Decider{Kind: what, Namespace: namespace, Name: name, File: l.GetFile(), Line: int(l.GetLine())}
	o, ok := objects(what, namespace, name)
	if !ok {
		d.Gone = true
		return d, false
	}
	if o.Root == nil {
		return d, usual
	}
	path, line := field.Find(o.Root, k.path, field.For{Subset: subset, Port: port, Line: int(l.GetLine())})
	if path == "" {
		if usual {
			return nil, true
		}
		return d, false
	}
	d.Field, d.File = path, cmp.Or(o.File, d.File)
	if d.Line = 0; d.File != "" {
		d.Line = line
	}
	return d, false
}
