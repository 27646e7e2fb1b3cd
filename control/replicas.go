package control

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
	replicasv1 "github.com/weirmesh/weir/api/replicas/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/mesh"
)

const (
	// replicaTime is how long another replica has to answer, for all of its proxies.
	replicaTime = 10 * time.Second
	// mostReplicas bounds those that are asked, mostRelayed the records that one may answer: 20 MB.
	mostReplicas = 16
	mostRelayed  = 20_000
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
	own   []string // addresses at which this one answers
}

func newReplicas(p *Plane) *replicas {
	return &replicas{p: p, self: rand.Text(), conns: map[string]*grpc.ClientConn{}}
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

// Records is replicasv1.ReplicasServer: what the proxies know that are connected here.
func (x *replicas) Records(q *observev1.RecordsRequest, stream answering) error {
	return x.serve(askRecords(q), stream, len(q.GetId()) <= maxReportText && q.GetLastErrors() <= mostErrors && q.GetWhich() != nil)
}

// Limits is replicasv1.ReplicasServer.
func (x *replicas) Limits(q *observev1.LimitsRequest, stream answering) error {
	return x.serve(askLimits(q), stream, len(q.GetHost()) <= maxReportText)
}

// admitted says who is asked, if that is to be said.
func (x *replicas) admitted(stream answering, sound bool) error {
	if err := x.admit(stream.Context()); err != nil {
		return err
	}
	if !sound {
		return status.Error(codes.InvalidArgument, "the question is out of bounds")
	}
	return stream.Send(&replicasv1.Answer{Replica: x.self})
}

func (x *replicas) serve(q *observev1.ControlMessage, stream answering, sound bool) error {
	if err := x.admitted(stream, sound); err != nil {
		return err
	}
	all, asked, silent := x.p.edges.asking.all(stream.Context(), func(*reporter) *observev1.ControlMessage { return q })
	records := recordsIn(all)
	for _, t := range records[:min(len(records), mostRelayed)] {
		if err := stream.Send(&replicasv1.Answer{Node: t.Node, Workload: t.Workload, Record: t.Record}); err != nil {
			return err
		}
	}
	for _, a := range all {
		if l := a.message.GetLimits(); l != nil {
			if err := stream.Send(&replicasv1.Answer{Node: a.node, Workload: a.workload, Limits: l}); err != nil {
				return err
			}
		}
	}
	for _, node := range silent {
		if err := stream.Send(&replicasv1.Answer{Node: node, Silent: true}); err != nil {
			return err
		}
	}
	return stream.Send(&replicasv1.Answer{Asked: uint32(asked)})
}

// Tap is replicasv1.ReplicasServer.
func (x *replicas) Tap(q *observev1.TapRequest, stream answering) error {
	sound := true
	for _, text := range []string{q.GetHost(), q.GetFrom(), q.GetTo(), q.GetMethod(), q.GetPathPrefix(), q.GetFlag(), q.GetHeader(), q.GetValue()} {
		sound = sound && len(text) <= 4*maxReportText
	}
	if err := x.admitted(stream, sound); err != nil {
		return err
	}
	t, end := x.p.edges.tap(q)
	if t == nil {
		return status.Errorf(codes.ResourceExhausted, "there are %d taps already", mostTaps)
	}
	defer end()
	for {
		select {
		case l := <-t.lines:
			l.m.Dropped += t.dropped.Load()
			if err := stream.Send(&replicasv1.Answer{Node: l.node, Workload: l.workload, Tapped: l.m}); err != nil {
				return err
			}
		case <-stream.Context().Done():
			return nil
		case <-x.p.edges.stop:
			return status.Error(codes.Unavailable, "the control plane is stopping")
		}
	}
}

// ask asks all proxies of the mesh: those connected here, and through the other replicas theirs. silent has proxies, and replicas by
// their addresses, that did not answer.
func (x *replicas) ask(ctx context.Context, q func(*reporter) *observev1.ControlMessage) (told []answered, asked int, silent []string) {
	var mu sync.Mutex
	var wait sync.WaitGroup
	for _, addr := range x.others() {
		wait.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, replicaTime)
			defer cancel()
			n, of, complete := 0, 0, false
			complete = x.one(ctx, addr, q(nil), func(a *replicasv1.Answer) {
				mu.Lock()
				defer mu.Unlock()
				switch of += int(a.GetAsked()); {
				case a.GetSilent():
					silent = append(silent, a.GetNode())
				case n >= mostRelayed:
				case a.GetRecord() != nil:
					n++
					told = append(told, answered{a.GetNode(), a.GetWorkload(), &observev1.ProxyMessage{Message: &observev1.ProxyMessage_Records{Records: &observev1.Records{Records: []*observev1.Record{a.GetRecord()}}}}})
				case a.GetLimits() != nil:
					n++
					told = append(told, answered{a.GetNode(), a.GetWorkload(), &observev1.ProxyMessage{Message: &observev1.ProxyMessage_Limits{Limits: a.GetLimits()}}})
				}
			})
			mu.Lock()
			defer mu.Unlock()
			if asked += of; !complete {
				silent = append(silent, apiv1.SilentReplica+addr)
			}
		})
	}
	here, n, s := x.p.edges.asking.all(ctx, q)
	wait.Wait()
	told, asked, silent = append(told, here...), asked+n, append(silent, s...)
	slices.Sort(silent)
	slices.SortStableFunc(told, func(a, b answered) int { return strings.Compare(a.node, b.node) })
	return told, asked, silent
}

// tap has the other replicas tell of what their proxies see, until ctx ends.
func (x *replicas) tap(ctx context.Context, q *observev1.TapRequest, t *tap) {
	m := order(q)
	for _, addr := range x.others() {
		go x.one(ctx, addr, m, func(a *replicasv1.Answer) { // ends with ctx
			if a.GetTapped() != nil {
				t.take(told{a.GetNode(), a.GetWorkload(), a.GetTapped()})
			}
		})
	}
}

// one asks another replica; what it had said before it failed counts. complete is false if it did not say everything.
func (x *replicas) one(ctx context.Context, addr string, q *observev1.ControlMessage, take func(*replicasv1.Answer)) (complete bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c, err := x.conn(addr)
	if err != nil {
		return false
	}
	var stream grpc.ServerStreamingClient[replicasv1.Answer]
	switch other := replicasv1.NewReplicasClient(c); m := q.GetMessage().(type) {
	case *observev1.ControlMessage_Records:
		stream, err = other.Records(ctx, m.Records)
	case *observev1.ControlMessage_Limits:
		stream, err = other.Limits(ctx, m.Limits)
	case *observev1.ControlMessage_Tap:
		stream, err = other.Tap(ctx, m.Tap)
	}
	for err == nil {
		var a *replicasv1.Answer
		if a, err = stream.Recv(); err == nil {
			if a.GetReplica() == x.self {
				x.mu.Lock()
				x.own = append(x.own, addr)
				x.mu.Unlock()
				return true
			}
			take(a)
		}
	}
	if errors.Is(err, io.EOF) || status.Code(err) == codes.Unimplemented || ctx.Err() != nil && q.GetTap() != nil { // one that is older knows nothing
		return true
	}
	x.p.o.Log.Warn("another replica of the control plane did not answer", "address", addr, "err", err)
	return false
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

// others are the addresses of the control planes of the mesh, of all revisions, this one's among them as long as nobody has asked there;
// connections to those that are gone are closed.
func (x *replicas) others() []string {
	list := x.listed("")
	x.mu.Lock()
	defer x.mu.Unlock()
	list = slices.DeleteFunc(slices.Clone(list), func(addr string) bool { return slices.Contains(x.own, addr) })
	list = list[:min(len(list), mostReplicas)]
	for addr, c := range x.conns {
		if !slices.Contains(list, addr) && !slices.Contains(x.own, addr) {
			_ = c.Close() // nothing is lost with it
			delete(x.conns, addr)
		}
	}
	return list
}

// alike are those of others that proxies connected here may be connected to as well: of the same revision.
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
	n := len(x.others())
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
