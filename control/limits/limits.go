// Package limits makes one table of the limits that calls to a service meet: what proxies say of each, and which field of which
// object set it.
//
// Answers of proxies enter, with a look at the objects there are; rows leave. It is a pure function, for whoever answers
// `weir limits`.
package limits

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/control/why"
)

// Told is what a proxy said.
type Told struct {
	Workload string // namespace/name
	Clusters []*observev1.ClusterLimits
}

// Object is what is known of an object now.
type Object struct {
	File string
	Root *document.Value // its text; nil: not at hand
}

// Objects finds an object; false: there is none of that name.
type Objects func(kind, namespace, name string) (Object, bool)

// mostOfCluster bounds what a proxy may say of a cluster: limits, and callers.
const mostOfCluster = 100

// most are the workloads of a row, those with the most trips and the highest peak.
const most = 20

// kind is what there is to know of a kind of limit: what it is of, in which unit, and where an object sets it.
type kind struct {
	name, scope, unit string
	block             string // of a traffic policy, or a route's "http"
	field             string
	usual             float64 // what holds where nobody says anything, if not no limit
}

const (
	none    = -1
	seconds = "s"
	percent = "%"
	// The scopes.
	ofProxy, ofConnection, ofRequest, ofAttempt, ofEndpoint = "proxy", "connection", "request", "attempt", "endpoint"
	// The blocks of a traffic policy, and a route.
	pool, outliers, budget, aRoute = "connectionPool", "outlierDetection", "retryBudget", "http"
)

// kinds are in the order in which a request meets them.
var kinds = []kind{
	{"timeout", ofRequest, seconds, aRoute, "timeout", none},
	{"attempts", ofRequest, "", aRoute, "retries.attempts", 2},
	{"try_timeout", ofAttempt, seconds, aRoute, "retries.perTryTimeout", none},
	{"requests", ofProxy, "", pool, "http.http2MaxRequests", none},
	{"pending", ofProxy, "", pool, "http.http1MaxPendingRequests", none},
	{"connections", ofProxy, "", pool, "tcp.maxConnections", none},
	{"connect_timeout", ofConnection, seconds, pool, "tcp.connectTimeout", 10},
	{"requests_per_connection", ofConnection, "", pool, "http.maxRequestsPerConnection", none},
	{"connection_age", ofConnection, seconds, pool, "tcp.maxConnectionDuration", none},
	{"retries", ofProxy, "", pool, "http.maxRetries", none},
	{"retry_budget", ofProxy, "", budget, "percent", none},
	{"errors_in_a_row", ofEndpoint, "", outliers, "consecutive5xxErrors", 5},
	{"gateway_errors_in_a_row", ofEndpoint, "", outliers, "consecutiveGatewayErrors", none},
	{"local_failures_in_a_row", ofEndpoint, "", outliers, "consecutiveLocalOriginFailures", 5},
	{"ejected", ofProxy, percent, outliers, "maxEjectionPercent", 10},
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
			subset := ""
			if p := strings.Split(c.GetCluster(), "|"); len(p) == 4 {
				subset = p[2]
			}
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
	path, line := find(o.Root, k, subset, port, int(l.GetLine()))
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

// find is the path of the field that says how much, below spec, and its line; "" if none does.
func find(root *document.Value, k *kind, subset string, port uint16, line int) (string, int) {
	spec := root.Get("spec")
	has := func(path, field string) bool { return at(spec, path+"."+field) != nil }
	found := func(path string) (string, int) { return path, root.LineOf("spec." + path) }
	if k.block == aRoute {
		for i, r := range items(spec.Get("http")) {
			if p := document.Index("http", i); r.Line == line && has(p, k.field) {
				return found(p + "." + k.field)
			}
		}
		return "", 0
	}
	if k.block == pool && spec.Get("host") == nil { // a Sidecar
		for i, in := range items(spec.Get("ingress")) {
			if p := document.Index("ingress", i) + ".connectionPool"; numbered(in, port) && at(spec, p) != nil {
				if has(p, k.field) {
					return found(p + "." + k.field)
				}
				return "", 0
			}
		}
		if has("inboundConnectionPool", k.field) {
			return found("inboundConnectionPool." + k.field)
		}
		return "", 0
	}
	// As translate resolves it: settings of a port take the place of all above them but the budget; a subset's, block by block.
	for _, policy := range policies(spec, subset) {
		if k.block != budget {
			for i, s := range items(at(spec, policy).Get("portLevelSettings")) {
				if !numbered(s, port) {
					continue
				}
				if p := document.Index(policy+".portLevelSettings", i) + "." + k.block; has(p, k.field) {
					return found(p + "." + k.field)
				}
				return "", 0
			}
		}
		p := policy + "." + k.block
		switch {
		case at(spec, p) == nil:
		case has(p, k.field):
			return found(p + "." + k.field)
		case k.block == budget: // its presence is what matters
			return found(p)
		default:
			return "", 0
		}
	}
	return "", 0
}

// policies are the paths of traffic policies, the one that goes before all others first.
func policies(spec *document.Value, subset string) (out []string) {
	for i, s := range items(spec.Get("subsets")) {
		if subset != "" && s.Get("name").String() == subset {
			out = append(out, document.Index("subsets", i)+".trafficPolicy")
		}
	}
	return append(out, "trafficPolicy")
}

// numbered reports whether a setting is of a port.
func numbered(v *document.Value, port uint16) bool {
	n := v.Get("port").Get("number")
	return n != nil && n.Text == strconv.Itoa(int(port))
}

// at is what a path leads to, nil if nothing.
func at(v *document.Value, path string) *document.Value {
	for step := range strings.SplitSeq(path, ".") {
		name, index, indexed := strings.Cut(strings.TrimSuffix(step, "]"), "[")
		if v = v.Get(name); !indexed {
			continue
		}
		i, err := strconv.Atoi(index)
		if all := items(v); err == nil && i < len(all) {
			v = all[i]
		} else {
			return nil
		}
	}
	return v
}

func items(v *document.Value) []*document.Value {
	if v == nil {
		return nil
	}
	return v.Items
}
