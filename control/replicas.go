package control

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	replicasv1 "github.com/weirmesh/weir/api/replicas/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/mesh"
)

const (
	// replicaTime is how long another replica has to answer for all of its proxies, pageTime for itself: less than a caller of the API waits.
	replicaTime, pageTime = 10 * time.Second, 4 * time.Second
	// mostReplicas bounds those that are asked, mostAnswered what one may answer, a page in pieces of which size: some 20,000 proxies.
	mostReplicas            = 16
	mostAnswered, pagePiece = 32 << 20, 256 << 10
	// mostOfProxy is what is passed on of a proxy: three times the longest answer.
	mostOfProxy = 1 << 20
	// tapLook is how often a tap looks whether there are other replicas.
	tapLook = 2 * time.Second
	// control is the name of the control plane's Service and service account.
	control = "istiod"
	// xdsPort is where replicas are reached, of the control plane's own Service.
	xdsPort = 15012
)

// replicas are the other control planes of the mesh, of this revision and of others, to which other proxies are connected.
type replicas struct {
	replicasv1.UnimplementedReplicasServer
	p    *Plane
	self string // tells this one apart: the list of addresses has its own

	mu    sync.Mutex
	conns map[string]*grpc.ClientConn
	own   []string             // addresses at which this one answers
	away  map[string]time.Time // those that did not answer when they were asked last, since when
}

func newReplicas(p *Plane) *replicas {
	return &replicas{p: p, self: rand.Text(), conns: map[string]*grpc.ClientConn{}, away: map[string]time.Time{}}
}

// admit refuses callers that are no control plane of this mesh.
func (x *replicas) admit(ctx context.Context) error {
	var who string
	if gp, ok := peer.FromContext(ctx); ok {
		if t, ok := gp.AuthInfo.(credentials.TLSInfo); ok && t.SPIFFEID != nil {
			who = t.SPIFFEID.String()
		}
	}
	if who != x.p.id.String() {
		return status.Errorf(codes.PermissionDenied, "this is for replicas of the control plane (%s), and not for %q", x.p.id, who)
	}
	return nil
}

// answering is a stream on which another replica is answered.
type answering = grpc.ServerStreamingServer[replicasv1.Answer]

// Ask is replicasv1.ReplicasServer.
func (x *replicas) Ask(q *replicasv1.Question, stream answering) error {
	if err := x.admit(stream.Context()); err != nil {
		return err
	}
	if !understood(q.ProtoReflect()) {
		return status.Error(codes.Unimplemented, "the question says what this replica does not know: it is older")
	}
	if !answerable(q) {
		return status.Error(codes.InvalidArgument, "the question is out of bounds, or not known here")
	}
	if err := stream.Send(&replicasv1.Answer{Replica: x.self}); err != nil {
		return err
	}
	switch of := q.GetQuestion().(type) {
	case *replicasv1.Question_Connected:
		return sendPage(stream, x.p.proxyStatuses())
	case *replicasv1.Question_Edges:
		return sendPage(stream, x.p.ownEdges(time.Unix(0, int64(of.Edges.GetSinceUnixNano()))))
	case *replicasv1.Question_Ledger:
		return sendPage(stream, x.p.ownCallers())
	case *replicasv1.Question_Holders:
		return sendPage(stream, x.p.ownHolders(time.Now().Round(0), of.Holders.GetOverdue()))
	}
	if t := q.GetProxies().GetTap(); t != nil {
		return x.serveTap(t, stream)
	}
	all, asked, silent := x.p.askOwn(stream.Context(), question{message: q.GetProxies(), workload: q.GetWorkload()})
	for _, a := range all {
		if proto.Size(a.message) > mostOfProxy {
			silent = append(silent, a.node)
			continue
		}
		if err := stream.Send(&replicasv1.Answer{Node: a.node, Workload: a.workload, Message: a.message}); err != nil {
			return err
		}
	}
	for _, node := range silent {
		if err := stream.Send(&replicasv1.Answer{Node: node, Silent: true}); err != nil {
			return err
		}
	}
	return stream.Send(&replicasv1.Answer{Asked: uint32(asked)})
}

// understood reports whether all of a question is known here: half of it would be another question.
func understood(m protoreflect.Message) bool {
	ok := len(m.GetUnknown()) == 0
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Message() != nil && f.Cardinality() != protoreflect.Repeated {
			ok = ok && understood(v.Message())
		}
		return ok
	})
	return ok
}

// answerable reports whether a question is one that this replica can answer, and within bounds.
func answerable(q *replicasv1.Question) bool {
	if len(q.GetWorkload()) > maxReportText {
		return false
	}
	switch of := q.GetQuestion().(type) {
	case *replicasv1.Question_Connected, *replicasv1.Question_Edges, *replicasv1.Question_Ledger, *replicasv1.Question_Holders:
		return true
	case *replicasv1.Question_Proxies:
		switch m := of.Proxies.GetMessage().(type) {
		case *observev1.ControlMessage_Records:
			return len(m.Records.GetId()) <= maxReportText && m.Records.GetLastErrors() <= mostErrors && m.Records.GetWhich() != nil
		case *observev1.ControlMessage_Limits:
			return len(m.Limits.GetHost()) <= maxReportText
		case *observev1.ControlMessage_LogLevel:
			l := m.LogLevel
			return q.GetWorkload() != "" && l.GetForNano() <= uint64(longestLevel) && (l.GetLevel() == "" || slices.Contains(logLevels, l.GetLevel()))
		case *observev1.ControlMessage_Tap:
			t := m.Tap
			return !slices.ContainsFunc([]string{t.GetHost(), t.GetFrom(), t.GetTo(), t.GetMethod(), t.GetPathPrefix(), t.GetFlag(), t.GetHeader(), t.GetValue()},
				func(text string) bool { return len(text) > 4*maxReportText })
		}
	}
	return false
}

// sendPage sends v as JSON.
func sendPage(stream answering, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	for piece := range slices.Chunk(body, pagePiece) {
		if err := stream.Send(&replicasv1.Answer{Page: piece}); err != nil {
			return err
		}
	}
	return nil
}

func (x *replicas) serveTap(q *observev1.TapRequest, stream answering) error {
	t, end := x.p.edges.tap(q)
	if t == nil {
		return status.Errorf(codes.ResourceExhausted, "there are %d taps already", mostTaps)
	}
	defer end()
	for {
		select {
		case l := <-t.lines:
			l.m.Dropped += t.dropped.Load()
			if err := stream.Send(&replicasv1.Answer{Node: l.node, Workload: l.workload, Message: &observev1.ProxyMessage{Message: &observev1.ProxyMessage_Tapped{Tapped: l.m}}}); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		case <-x.p.edges.stop:
			return status.Error(codes.Unavailable, "the control plane is stopping")
		}
	}
}

// ask asks proxies of the mesh: those connected here, and through the other replicas theirs. silent has proxies, and replicas by
// their addresses, that did not answer.
func (x *replicas) ask(ctx context.Context, q question) (told []answered, asked int, silent []string) {
	var mu sync.Mutex
	var elsewhere sync.WaitGroup
	elsewhere.Go(func() {
		away := x.others(ctx, replicaTime, &replicasv1.Question{Question: &replicasv1.Question_Proxies{Proxies: q.message}, Workload: q.workload}, func(a *replicasv1.Answer) error {
			mu.Lock()
			defer mu.Unlock()
			switch asked += int(a.GetAsked()); {
			case a.GetMessage().GetMessage() != nil:
				told = append(told, answered{a.GetNode(), a.GetWorkload(), a.GetMessage()})
			case a.GetNode() != "": // it is, or says what nobody here knows
				silent = append(silent, a.GetNode())
			}
			return nil
		})
		mu.Lock()
		defer mu.Unlock()
		silent = append(silent, away...)
	})
	here, n, s := x.p.askOwn(ctx, q)
	elsewhere.Wait()
	told, asked, silent = append(told, here...), asked+n, append(silent, s...)
	slices.Sort(silent)
	slices.SortStableFunc(told, func(a, b answered) int { return strings.Compare(a.node, b.node) })
	return told, asked, silent
}

// page asks the other replicas for what this one says itself, and has take judge each answer, one at a time. silent are those that did
// not answer.
func page[T any](ctx context.Context, x *replicas, q *replicasv1.Question, take func(T)) (silent []string) {
	return x.others(ctx, pageTime, q, func(a *replicasv1.Answer) error {
		if a.GetPage() == nil {
			return nil
		}
		var v T
		err := json.Unmarshal(a.GetPage(), &v)
		if err == nil {
			take(v)
		}
		return err
	})
}

// others asks all other replicas at once, and has take judge what they say, one answer at a time. silent are those that did not say
// everything, or what take does not understand; one that is older than the question, or newer than this one, is among them, with that.
func (x *replicas) others(ctx context.Context, within time.Duration, q *replicasv1.Question, take func(*replicasv1.Answer) error) (silent []string) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var mu sync.Mutex
	var wait sync.WaitGroup
	for _, addr := range x.addresses() {
		wait.Go(func() {
			err := x.one(ctx, addr, q, func(a *replicasv1.Answer) error {
				mu.Lock()
				defer mu.Unlock()
				return take(a)
			})
			x.note(addr, err)
			if err != nil {
				x.p.o.Log.Warn("another replica of the control plane did not answer", "address", addr, "err", err)
				mu.Lock()
				defer mu.Unlock()
				silent = append(silent, silentReplica(addr, err))
			}
		})
	}
	wait.Wait()
	slices.Sort(silent)
	return silent
}

// note remembers since when a replica does not answer. One of another version does.
func (x *replicas) note(addr string, err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c := status.Code(err); err == nil || errors.Is(err, errNewer) || c == codes.Unimplemented || c == codes.InvalidArgument {
		delete(x.away, addr)
	} else if c != codes.Canceled && x.away[addr].IsZero() { // who asked may have gone
		x.away[addr] = time.Now()
	}
}

// findings are about replicas that did not answer when they were asked last.
func (x *replicas) findings() (out []config.Finding) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for addr, since := range x.away {
		out = append(out, config.New(config.ReplicaAway, mesh.Ref{Kind: "Replica", Name: addr}, "", 0,
			"a replica of the control plane does not answer the others since "+since.UTC().Format(time.RFC3339)+": proxies connected to it are not in what is shown",
			"look at its log, and at what stands between the replicas (port "+strconv.Itoa(xdsPort)+")"))
	}
	return out
}

// errNewer is what becomes of an answer that nobody here understands.
var errNewer = errors.New("it answers what this replica does not know")

// silentReplica names a replica that did not answer, and why if it is of another version.
func silentReplica(addr string, err error) string {
	out := apiv1.SilentReplica + addr
	switch c := status.Code(err); {
	case errors.Is(err, errNewer):
		out += " (a newer version: its answer is not understood)"
	case c == codes.Unimplemented, c == codes.InvalidArgument: // the latter of those that know no better
		out += " (an older version: it does not know the question)"
	}
	return out
}

// tap has the other replicas tell of what their proxies see until ctx ends, also those that come later, and those that come back.
func (x *replicas) tap(ctx context.Context, q *observev1.TapRequest, t *tap) {
	question := &replicasv1.Question{Question: &replicasv1.Question_Proxies{Proxies: order(q)}}
	type end struct {
		addr string
		err  error // nil: it is this one
	}
	asked, away, ended := map[string]bool{}, map[string]bool{}, make(chan end)
	look := time.NewTicker(tapLook)
	defer look.Stop()
	for {
		for _, addr := range x.addresses() {
			if asked[addr] {
				continue
			}
			asked[addr] = true
			go func() { // ends with ctx
				err := x.one(ctx, addr, question, func(a *replicasv1.Answer) error {
					if m := a.GetMessage().GetTapped(); m != nil {
						t.take(told{node: a.GetNode(), workload: a.GetWorkload(), m: m})
					}
					return nil
				})
				select {
				case ended <- end{addr, err}:
				case <-ctx.Done():
				}
			}()
		}
		select {
		case <-ctx.Done():
			return
		case x := <-ended:
			if x.err != nil && !away[x.addr] {
				away[x.addr] = true
				t.take(told{silent: silentReplica(x.addr, x.err)})
			}
			select { // before it is asked again
			case <-look.C:
			case <-ctx.Done():
				return
			}
			if x.err != nil {
				delete(asked, x.addr)
			}
		case <-look.C:
		}
	}
}

// one asks another replica; what it had said before it failed counts, but a page only if it is whole. nil is also what becomes of a
// question to oneself.
func (x *replicas) one(ctx context.Context, addr string, q *replicasv1.Question, take func(*replicasv1.Answer) error) error {
	ctx, cancel := context.WithCancel(ctx) // an answer of this one is not wanted to its end
	defer cancel()
	c, err := x.conn(addr)
	if err != nil {
		return err
	}
	stream, err := replicasv1.NewReplicasClient(c).Ask(ctx, q)
	if err != nil {
		return err
	}
	var page []byte
	most := mostAnswered
	if q.GetProxies().GetTap() != nil {
		most = math.MaxInt
	}
	for size := 0; size <= most; {
		a, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && page != nil:
			return take(&replicasv1.Answer{Page: page})
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		case a.GetReplica() == x.self:
			x.mu.Lock()
			defer x.mu.Unlock()
			x.own = append(x.own, addr)
			return nil
		case a.GetPage() != nil:
			page = append(page, a.GetPage()...)
		case len(a.ProtoReflect().GetUnknown()) > 0 && a.GetReplica() == "" && a.GetNode() == "" && a.GetAsked() == 0:
			return errNewer
		default:
			if err := take(a); err != nil {
				return err
			}
		}
		size += proto.Size(a)
	}
	return errors.New("it says too much")
}

func (x *replicas) conn(addr string) (*grpc.ClientConn, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if c := x.conns[addr]; c != nil {
		return c, nil
	}
	c, err := grpc.NewClient("passthrough:///"+addr, grpc.WithNoProxy(),
		grpc.WithTransportCredentials(credentials.NewTLS(identity.ClientTLS(x.p.self, identity.OneOf{x.p.id}))))
	if err == nil {
		x.conns[addr] = c
	}
	return c, err
}

// addresses are those of the control planes of the mesh, of all revisions, this one's among them as long as nobody has asked there;
// connections to those that are gone are closed.
func (x *replicas) addresses() []string {
	list := x.listed("")
	x.mu.Lock()
	defer x.mu.Unlock()
	list = slices.DeleteFunc(slices.Clone(list), func(addr string) bool { return slices.Contains(x.own, addr) })
	list = list[:min(len(list), mostReplicas)]
	for addr := range x.away {
		if !slices.Contains(list, addr) {
			delete(x.away, addr)
		}
	}
	for addr, c := range x.conns {
		if !slices.Contains(list, addr) && !slices.Contains(x.own, addr) {
			_ = c.Close() // nothing is lost with it
			delete(x.conns, addr)
		}
	}
	return list
}

// alike are those addresses that proxies connected here may be connected to as well: of the same revision.
func (x *replicas) alike() []string {
	own := control
	for _, n := range x.p.o.ServerNames {
		if name, _, _ := strings.Cut(n, "."); strings.HasPrefix(name, control+"-") {
			own = name
		}
	}
	return x.listed(own)
}

// listed are the endpoints of one Service of a control plane, "": of all.
func (x *replicas) listed(service string) []string {
	list := x.p.o.Replicas
	if u := x.p.latest.Load(); list == nil && u != nil && x.p.o.Cluster != nil {
		list = replicaAddresses(u.Snapshot, x.p.id.Namespace, service)
	}
	return list[:min(len(list), mostReplicas)]
}

// alone reports whether there is no other replica, as far as is known: one address is this one's until it has answered.
func (x *replicas) alone() bool {
	n := len(x.addresses())
	x.mu.Lock()
	defer x.mu.Unlock()
	return n == 0 || n == 1 && len(x.own) == 0
}

func (x *replicas) close() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, c := range x.conns {
		_ = c.Close()
	}
	clear(x.conns)
}

// replicaAddresses are the endpoints of the control planes' Services in a namespace: istiod, and of other revisions istiod-REVISION;
// of one of these, or of all ("").
func replicaAddresses(snap *mesh.Snapshot, namespace, service string) (out []string) {
	for svc := range snap.Services.Values() {
		if svc.Namespace != namespace || service != "" && svc.Name != service || svc.Name != control && !strings.HasPrefix(svc.Name, control+"-") {
			continue
		}
		eps := snap.Endpoints.At(svc.Key())
		if eps == nil {
			continue
		}
		for i := range eps.Ports[xdsPort] {
			if a := eps.Ports[xdsPort][i].Addr; a != (netip.AddrPort{}) && !slices.Contains(out, a.String()) {
				out = append(out, a.String())
			}
		}
	}
	slices.Sort(out)
	return out
}
