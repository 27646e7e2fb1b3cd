package why

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirmesh/weir/api/causes"
	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config/document"
)

// Told is a record and the proxy that keeps it.
type Told struct {
	Node     string // of the proxy
	Workload string // namespace/name
	Record   *observev1.Record
}

// Object is what is known of an object now.
type Object struct {
	File  string
	Line  int
	Hash  string          // of its version in force; "": not known
	Since time.Time       // when that came into force; zero: not known
	Root  *document.Value // its text; nil: not at hand
	// Quarantined says that what is written is refused, and its last good version in force.
	Quarantined bool
	// Flaws are the mistakes in the version in force: what it is about is kept closed because of them.
	Flaws []Flaw
}

// Flaw is a mistake in an object.
type Flaw struct {
	Field   string // below spec
	Line    int    // 0: not known
	Message string
}

// Ref names an object.
type Ref struct{ Kind, Namespace, Name string }

// Pointer is a field of an object.
type Pointer struct {
	Ref
	Field string // below spec
}

// Endpoint is one of a service.
type Endpoint struct {
	Address  string
	Workload string // namespace/name of its pod; "": it is an address only
	Ready    bool
	Proxied  bool     // it has a proxy, which takes all its connections
	Declared []uint16 // the ports at which its containers say that they listen; nil: they say nothing
	Entry    Ref      // the WorkloadEntry that says where it is; empty: it is of no such
}

// Objects are those of the configuration now in force, which may be another one than that of the moment a story is about; what is asked
// about a moment is answered from what the control plane remembers.
type Objects interface {
	// Object is what is known of an object; false: there is none of that name.
	Object(kind, namespace, name string) (Object, bool)
	// Service is the object that defines the service of a host.
	Service(namespace, host string) (Ref, bool)
	// Serves reports whether an address was that of an endpoint of a service at a moment, where that is known, and when it left
	// since; zero: it has not.
	Serves(namespace, host, address string, then time.Time) (serves bool, left time.Time, known bool)
	// Rejected is why a proxy did not take the configuration of a cluster that it was sent at a moment, and which fields of rules
	// that was made by.
	Rejected(node, cluster string, then time.Time) (message string, by []Pointer, ok bool)
	// Endpoints are those of a service, ready or not.
	Endpoints(namespace, host string) []Endpoint
	// Selects reports whether the selector of a service matches a workload, whatever that serves.
	Selects(namespace, host string) bool
	// Proxy is since when the proxy of a workload (namespace/name) is connected, and when it was not any more; zero: it is not, and
	// nobody knows when. ok is false if nobody can tell, as long as a replica is silent.
	Proxy(workload string) (since, left time.Time, ok bool)
	// Declares are the ports at which the containers of a proxy's workload say that they listen; nil: they say nothing.
	Declares(node string) []uint16
	// Known is the service that has a host or an address, whoever may see it.
	Known(host, address string) (Ref, bool)
	// Hosts are the hosts that a proxy may be asked for: those of a gateway's servers and rules.
	Hosts(node string) []string
	// Amiss are the fields because of which a host is not served at gateways whose objects speak of it: a Gateway that there is not, a
	// credential, a server name that no rule has.
	Amiss(host string) []Pointer
	// Elsewhere are the fields by which rules for a host are not for the gateway of a proxy that serves it: of other Gateways, or not
	// shown to its namespace. by is a Gateway of that proxy that serves the host.
	Elsewhere(node, host string) (fields []Pointer, by Ref)
	// Hidden are the exportTo fields because of which a proxy's namespace sees no service of a host, or, of a subset, no rule that
	// defines it; beside those the rules that define it and do not count there, whoever sees them.
	Hidden(node, host, subset string) (by []Pointer, uncounted []Ref)
	// Applying are the objects that do something for the workload of a proxy, on a port, the first first.
	Applying(doing Doing, node string, port uint16) []Ref
}

// Doing is what objects do for a workload.
type Doing uint8

// What they do: PeerAuthentications that demand mutual TLS, and the Sidecar that says who may be called.
const (
	Secures Doing = iota
	Confines
)

// Stories are those of some records, the newest first: one for each request, connections and requests without an id each for
// themselves.
func Stories(all []Told, objects Objects) []apiv1.Story {
	calls := map[string]int{} // whose, by our address on a connection that failed
	for i, t := range all {
		for _, a := range t.Record.GetTries() {
			if a.GetCause() != "" && a.GetLocal() != "" {
				calls[a.GetLocal()] = i
			}
		}
	}
	groups := map[string][]Told{}
	var order []string
	for i, t := range all {
		// A connection that was refused, or relayed, is of the call that was made on it.
		first := i
		for range mostHops {
			if caller, ok := calls[all[first].Record.GetClient()]; ok && all[first].Record.GetId() == "" && came(all[caller].Record, all[first].Record) {
				first = caller
			}
		}
		key := cmp.Or(all[first].Record.GetId(), "\x00"+strconv.Itoa(first))
		if groups[key] == nil {
			order = append(order, key)
		}
		groups[key] = append(groups[key], t)
	}
	var out []apiv1.Story
	for _, key := range order {
		out = append(out, stories(groups[key], objects)...)
	}
	slices.SortStableFunc(out, func(a, b apiv1.Story) int { return b.Time.Compare(a.Time) })
	return out
}

// mostHops is how far a connection without an id is followed.
const mostHops = 5

// mostJoined bounds the records of one id that are held against each other, the newest: who makes ids may use one for everything.
const mostJoined = 500

// stories are those of the records of one id: one for each that nobody on the way called for, since a program may give its own
// calls the id of the call it serves, or all its calls the same.
func stories(group []Told, objects Objects) []apiv1.Story {
	slices.SortStableFunc(group, func(a, b Told) int {
		return cmp.Or(cmp.Compare(a.Record.GetTimeUnixNano(), b.Record.GetTimeUnixNano()), cmp.Compare(a.Record.GetEdge().GetSide(), b.Record.GetEdge().GetSide()))
	})
	if len(group) > mostJoined {
		group = group[len(group)-mostJoined:]
	}
	caller := make([]int, len(group)) // whose call a record is
	for i := range group {
		caller[i] = -1
	}
	for i := range group {
		left := max(1, group[i].Record.GetAttempts()) // each attempt may have come to somebody
		for _, joins := range []func(a, b *observev1.Record) bool{leads, mayLead} {
			for j := range group {
				if i != j && caller[j] < 0 && left > 0 && joins(group[i].Record, group[j].Record) {
					caller[j] = i
					left--
				}
			}
		}
	}
	// What a program called while it served.
	for j := range group {
		if caller[j] >= 0 || group[j].Record.GetEdge().GetSide() != observev1.Side_SIDE_SOURCE {
			continue
		}
		for i := range group {
			if i != j && serves(group[i], group[j]) {
				caller[j] = i
			}
		}
	}
	var out []apiv1.Story
	for i := range group {
		if caller[i] >= 0 {
			continue
		}
		chain := []int{i}
		for at := 0; at < len(chain); at++ {
			for j := range group {
				if caller[j] == chain[at] {
					chain = append(chain, j)
				}
			}
		}
		hops := make([]Told, len(chain))
		for n, j := range chain {
			hops[n] = group[j]
		}
		out = append(out, story(hops, objects))
	}
	return out
}

// leads reports whether b is the server's record of a call whose client's record is a: they know the same connection.
func leads(a, b *observev1.Record) bool {
	if a.GetEdge().GetSide() == b.GetEdge().GetSide() || b.GetEdge().GetSide() != observev1.Side_SIDE_DESTINATION {
		return false
	}
	return came(a, b)
}

// came reports whether b is of a connection that an attempt of a was made on. A client's port is used again as soon as its connection has
// ended, for one to somebody else: what came elsewhere than where it was sent (an address may be changed on the way) has to be of the same
// id, or to have been there when a began.
func came(a, b *observev1.Record) bool {
	return slices.ContainsFunc(a.GetTries(), func(t *observev1.Attempt) bool {
		return t.GetLocal() != "" && t.GetLocal() == b.GetClient() && (b.GetAsked() == "" || t.GetEndpoint() == "" || t.GetEndpoint() == b.GetAsked() ||
			a.GetId() != "" && a.GetId() == b.GetId() || b.GetTimeUnixNano()+b.GetEndedNano() >= a.GetTimeUnixNano())
	})
}

// mayLead reports whether b can be the server's record of an attempt that a's record has no room for: it came from the same address.
func mayLead(a, b *observev1.Record) bool {
	return int(a.GetAttempts()) > len(a.GetTries()) && a.GetEdge().GetSide() != b.GetEdge().GetSide() && b.GetEdge().GetSide() == observev1.Side_SIDE_DESTINATION &&
		slices.ContainsFunc(a.GetTries(), func(t *observev1.Attempt) bool {
			return t.GetLocal() != "" && host(t.GetLocal()) == host(b.GetClient())
		})
}

// host is an address without its port.
func host(address string) string { return address[:max(0, strings.LastIndexByte(address, ':'))] }

// Unanswered are the client's addresses on connections that failed, and of which no server's record is among those told; at most 4.
func Unanswered(told []Told) []string {
	var out []string
	for _, t := range told {
		for _, a := range t.Record.GetTries() {
			if a.GetLocal() == "" || a.GetCause() == "" || len(out) == 4 || slices.Contains(out, a.GetLocal()) ||
				slices.ContainsFunc(told, func(o Told) bool { return o.Record.GetClient() == a.GetLocal() }) {
				continue
			}
			out = append(out, a.GetLocal())
		}
	}
	return out
}

// serves reports whether the workload called b while it served a.
func serves(a, b Told) bool {
	begin, end := a.Record.GetTimeUnixNano(), a.Record.GetTimeUnixNano()+a.Record.GetEndedNano()
	at := b.Record.GetTimeUnixNano()
	return a.Node == b.Node && a.Record.GetEdge().GetSide() == observev1.Side_SIDE_DESTINATION && begin <= at && at <= end
}

// story tells of one request that some proxies recorded, the client's first.
func story(chain []Told, objects Objects) apiv1.Story {
	// What the client saw may be well: the story is of the first call that was not.
	begin := max(0, slices.IndexFunc(chain, func(t Told) bool { return fails(t.Record) }))
	first := chain[begin].Record
	s := apiv1.Story{ID: first.GetId(), Trace: first.GetTraceId(), Time: at(first), Method: first.GetMethod(), Target: target(first), Status: int(first.GetStatus())}
	for i := range chain {
		s.Hops = append(s.Hops, hop(&chain[i]))
	}
	s.Hop = blame(chain, begin)
	to := &chain[s.Hop]
	r := to.Record
	s.At = to.Workload
	c, known := causes.Named(r.GetCause())
	what := truer(c, to, objects)
	waiting := -1 // the hop that did not wait for the end of a delay further on
	if j := delayed(chain, s.Hop); j >= 0 {
		c, known, waiting = causes.FaultDelay, true, s.Hop
		what = found{cause: c, more: waited(to)}
		s.Hop, to, r = j, &chain[j], chain[j].Record
		s.At = to.Workload
	}
	c, more := what.cause, what.more
	switch {
	case !known && r.GetCause() != "":
		s.Cause, s.Text = r.GetCause(), newer
	case !known && r.GetSaid() != "":
		h := &s.Hops[s.Hop]
		s.Cause, s.At, s.Unknown = r.GetSaid(), cmp.Or(h.Peer, h.Service), "which object decided: "+forgotten(h)
		s.Text, s.Remedy, s.Docs = word(s.Cause)
	case !known && fails(r):
		s.Cause, s.Docs, s.Text = string(causes.Answered), causes.Answered.Docs(), "the application itself answered with status "+strconv.Itoa(int(r.GetStatus()))
		if g := r.GetGrpcStatus(); g > 0 {
			s.Text = "the application itself answered with gRPC status " + strconv.Itoa(int(g))
		}
		s.Remedy = "no proxy had a part in it: " + causes.Answered.Remedy()
		if h := &s.Hops[s.Hop]; h.Side == "source" {
			s.At = cmp.Or(h.Peer, h.Service)
			s.Unknown = notTold(h)
		}
	case !known:
		s.Cause, s.Text = string(causes.OK), causes.OK.Sentence()
	default:
		s.Cause, s.Text, s.Remedy, s.Docs = c.Name(), c.Sentence(), cmp.Or(what.remedy, c.Remedy()), c.Docs()
		s.Detail = cmp.Or(more, unset(c, r), detail(c, r))
		if h := &s.Hops[s.Hop]; h.Side == "source" && silentlyTheirs(c, r) {
			s.Unknown = "why it did so: " + notTold(h)
		}
	}
	s.Decided = deciders(what, to, objects)
	if waiting >= 0 {
		s.Decided = append(s.Decided, onTheWay(&chain[waiting], objects)...)
	}
	if i := callerOf(chain, s.Hop); i >= 0 {
		s.Decided = across(c, &chain[i], r, s.Decided, objects)
	}
	if !known && (s.Cause == string(causes.Answered) || s.Cause == string(causes.OK)) {
		tellAltered(&s, chain, objects)
	}
	if fails(first) {
		if s.Stopped = stopped(first, objects); s.Stopped != nil && s.Hop != begin && first.GetAttempts() > 1 { // the attempts that are shown are another one's
			s.Stopped.Text = fmt.Sprintf("the proxy of %s tried %d times: %s", chain[begin].Workload, first.GetAttempts(), s.Stopped.Text)
		}
	}
	if f := fields[c].of(r); strings.Contains(f.path, ".connectionPool.") && s.Detail == "" && !slices.ContainsFunc(s.Decided, func(d apiv1.Decider) bool { return d.Field != "" }) {
		s.Detail = "no object sets " + f.path + ": the default holds"
	}
	return s
}

// theirs are the causes by which the other side ended what was asked of it, without a word about why.
var theirs = map[causes.Cause]bool{causes.UpstreamTerminated: true, causes.UpstreamConnectionReset: true, causes.ResponseCut: true,
	causes.UpstreamReset: true, causes.UpstreamRefused: true, causes.UpstreamGoingAway: true}

// silentlyTheirs reports whether the other side ended what was asked of it without a word about why, or with a word that says nothing.
func silentlyTheirs(c causes.Cause, r *observev1.Record) bool {
	return theirs[c] || (c == causes.UpstreamTLSRefused || c == causes.UpstreamTLSEnded) && (words{`"handshake failure": its log`, `"internal error": its log`}).in(lastFailure(r))
}

// notTold says who has not told what it knows.
func notTold(h *apiv1.Hop) string {
	last := ""
	if n := len(h.Tries); n > 0 {
		last = h.Tries[n-1].Endpoint
	}
	return cmp.Or(h.Peer, last, h.Service) + " has recorded nothing: it has no proxy, or its proxy did not answer or has forgotten; its own log may say it"
}

// forgotten says who has told nothing, although it has a proxy of the mesh, which answered.
func forgotten(h *apiv1.Hop) string {
	return "the proxy of " + cmp.Or(h.Peer, h.Service) + ", which answered, has not: it did not answer us, or has forgotten"
}

// word is what a code means that callers learn.
func word(code string) (text, remedy, docs string) {
	if c, ok := causes.Named(code); ok {
		return c.Sentence(), c.Remedy(), c.Docs()
	}
	if code == string(causes.Denied) {
		return causes.Denied.Sentence(), causes.Denied.Remedy(), causes.Denied.Docs()
	}
	return newer, "", "" // or the proxy that passed it on was
}

// newer is what is said of a cause that nobody here knows.
const newer = "this control plane does not know the cause: it is older than the proxy"

// blame is the hop that knows the true cause: the first from begin on, where something did not go well, whose record does not blame
// the next.
func blame(chain []Told, begin int) int {
	for i := begin; ; {
		r := chain[i].Record
		next := -1
		for j := i + 1; j < len(chain); j++ {
			if !fails(chain[j].Record) || !blames(r, chain[j].Record) {
				continue
			}
			if leads(r, chain[j].Record) || serves(chain[i], chain[j]) {
				next = j // the last of those that a program called
			}
		}
		if next < 0 {
			return i
		}
		i = next
	}
}

// callerOf is the hop whose proxy made the connection that another one refused or served; -1: it is not known.
func callerOf(chain []Told, hop int) int {
	for i := range hop {
		if leads(chain[i].Record, chain[hop].Record) {
			return i
		}
	}
	return -1
}

// fails reports whether something did not go well.
func fails(r *observev1.Record) bool {
	return r.GetCause() != "" && r.GetCause() != causes.DirectResponse.Name() || r.GetSaid() != "" || r.GetStatus() >= 500 || r.GetGrpcStatus() > 0
}

// blames reports whether what a record says can be the consequence of what the next one says.
func blames(r, next *observev1.Record) bool {
	if c, ok := causes.Named(next.GetCause()); ok {
		switch c {
		case causes.DownstreamDisconnected, causes.DownstreamReset, causes.ChainRemoved:
			return false // that is the other way round
		}
	}
	c, ok := causes.Named(r.GetCause())
	if !ok {
		return fails(r) // it passed on what it was answered
	}
	switch c {
	case causes.UpstreamTerminated, causes.UpstreamConnectionReset, causes.UpstreamTLSEnded, causes.UpstreamIdleClosed, causes.ResponseCut,
		causes.UpstreamReset, causes.UpstreamRefused, causes.UpstreamConnectFailed, causes.UpstreamGoingAway, causes.UpstreamProtocolError, causes.UpstreamTLSFailed, causes.UpstreamTLSRefused, causes.UpstreamNotTLS:
		return true
	}
	return false
}

// Cause is what a record alone says of a failure: the cause of the proxy's own answer, or of the answer that it passed on; "": nothing
// failed, or it was not a proxy's doing that one of them knew to name.
func Cause(r *observev1.Record) string {
	if c := cmp.Or(r.GetCause(), r.GetSaid()); c != "" || !fails(r) {
		return c
	}
	return string(causes.Answered)
}

func at(r *observev1.Record) time.Time { return time.Unix(0, int64(r.GetTimeUnixNano())).UTC() }

func target(r *observev1.Record) string {
	if r.GetAuthority() == "" {
		return cmp.Or(r.GetEdge().GetService().GetHost(), r.GetAsked())
	}
	return r.GetAuthority() + r.GetPath()
}

var security = map[observev1.Transport]string{observev1.Transport_TRANSPORT_PLAINTEXT: "plaintext", observev1.Transport_TRANSPORT_MTLS: "mtls", observev1.Transport_TRANSPORT_TLS: "tls"}

func hop(t *Told) apiv1.Hop {
	r, e := t.Record, t.Record.GetEdge()
	h := apiv1.Hop{Proxy: t.Node, Workload: t.Workload, Side: "source", Identity: e.GetPeer().GetIdentity(), Security: security[e.GetTransport()], Time: at(r), Status: int(r.GetStatus()), Flags: r.GetFlags(),
		Cause: r.GetCause(), Details: r.GetDetails(), Client: r.GetClient(), Asked: r.GetAsked(), RequestEnded: millis(r.GetRequestEndedNano()), ResponseBegan: millis(r.GetResponseBeganNano()),
		Ended: millis(r.GetEndedNano()), Attempts: int(r.GetAttempts())}
	if e.GetSide() == observev1.Side_SIDE_DESTINATION {
		h.Side = "destination"
	}
	if p := e.GetPeer(); p.GetWorkload() != "" {
		h.Peer = p.GetNamespace() + "/" + p.GetWorkload()
	}
	if s := e.GetService(); s.GetHost() != "" || s.GetName() != "" {
		h.Service = cmp.Or(s.GetHost(), s.GetName())
		if s.GetPort() != 0 {
			h.Service += ":" + strconv.Itoa(int(s.GetPort()))
		}
	}
	for _, d := range r.GetDecisions() {
		h.Decisions = append(h.Decisions, apiv1.Decision{Stage: d.GetStage(), Name: d.GetPart(), Object: d.GetObject(), Hash: d.GetHash(), File: d.GetFile(), Line: int(d.GetLine())})
	}
	for _, a := range r.GetTries() {
		h.Tries = append(h.Tries, apiv1.Try{Endpoint: a.GetEndpoint(), Local: a.GetLocal(), Cause: a.GetCause(), Failure: a.GetFailure(), Status: int(a.GetStatus()), Requests: int(a.GetRequests()),
			Age: millis(a.GetAgeNano()), Began: millis(a.GetBeganNano()), Ended: millis(a.GetEndedNano())})
	}
	return h
}

func millis(n uint64) float64 { return float64(n/1000) / 1000 }

// detail is what a record adds to its cause.
func detail(c causes.Cause, r *observev1.Record) string {
	if t := r.GetTries(); len(t) > 0 && t[len(t)-1].GetFailure() != "" {
		return t[len(t)-1].GetFailure()
	}
	if d := r.GetDetails(); d != c.Details() && !strings.HasPrefix(d, "upstream_reset_") {
		return d
	}
	return ""
}

// Like reports whether two stories say the same of different requests.
func Like(a, b *apiv1.Story) bool {
	same := func(x, y *apiv1.Hop) bool {
		return x.Workload == y.Workload && x.Service == y.Service && x.Side == y.Side
	}
	if a.Cause != b.Cause || a.Status != b.Status || a.At != b.At || !same(&a.Hops[a.Hop], &b.Hops[b.Hop]) || len(a.Decided) != len(b.Decided) {
		return false
	}
	for i := range a.Decided {
		x, y := &a.Decided[i], &b.Decided[i]
		if x.Kind != y.Kind || x.Namespace != y.Namespace || x.Name != y.Name || x.Line != y.Line {
			return false
		}
	}
	return true
}

// Merge counts stories that are like an earlier one instead of telling them again.
func Merge(all []apiv1.Story) []apiv1.Story {
	var out []apiv1.Story
	for i := range all {
		n := slices.IndexFunc(out, func(s apiv1.Story) bool { return Like(&s, &all[i]) })
		if n < 0 {
			out = append(out, all[i])
		} else {
			out[n].Others++
		}
	}
	return out
}

// About reports whether a story concerns calls from a workload (or anybody: "") to a service or workload; both are names, or
// namespace/name.
func About(s *apiv1.Story, from, to string) bool {
	for i := range s.Hops {
		h := &s.Hops[i]
		source, target := h.Workload, h.Peer
		if h.Side == "destination" {
			source, target = h.Peer, h.Workload
		}
		if is(source, from) && (is(target, to) || isHost(h.Service, to) || isHost(s.Target, to)) {
			return true
		}
	}
	return false
}

// is reports whether a workload (namespace/name) is meant by a name; a Deployment's pods by that of the Deployment, or of its app.
func is(workload, name string) bool {
	if name == "" || workload == name {
		return true
	}
	_, short, _ := strings.Cut(workload, "/")
	if strings.Contains(name, "/") {
		short = workload
	}
	return short == name || strings.HasPrefix(short, name+"-")
}

// isHost reports whether a host (with a port, perhaps) is that of a service's name.
func isHost(host, name string) bool {
	if namespace, short, ok := strings.Cut(name, "/"); ok {
		name = short + "." + namespace
	}
	rest, ok := strings.CutPrefix(host, name)
	return ok && (rest == "" || rest[0] == '.' || rest[0] == ':' || rest[0] == '/')
}
