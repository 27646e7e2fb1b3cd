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
	"github.com/weirmesh/weir/control/why"
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

// Records is replicasv1.ReplicasServer: what the proxies know that are connected here.
func (x *replicas) Records(q *observev1.RecordsRequest, stream grpc.ServerStreamingServer[replicasv1.Answer]) error {
	if err := x.admit(stream.Context()); err != nil {
		return err
	}
	if len(q.GetId()) > maxReportText || q.GetLastErrors() > mostErrors || q.GetWhich() == nil {
		return status.Error(codes.InvalidArgument, "the question is out of bounds")
	}
	if err := stream.Send(&replicasv1.Answer{Replica: x.self}); err != nil {
		return err
	}
	told, asked, silent := x.p.edges.asking.all(stream.Context(), func(*reporter) *observev1.RecordsRequest {
		return &observev1.RecordsRequest{Which: q.GetWhich()}
	})
	for _, t := range told[:min(len(told), mostRelayed)] {
		if err := stream.Send(&replicasv1.Answer{Node: t.Node, Workload: t.Workload, Record: t.Record}); err != nil {
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

// ask asks all proxies of the mesh: those connected here, and through the other replicas theirs. silent has proxies, and replicas by
// their addresses, that did not answer.
func (x *replicas) ask(ctx context.Context, q func(*reporter) *observev1.RecordsRequest) (told []why.Told, asked int, silent []string) {
	var mu sync.Mutex
	var wait sync.WaitGroup
	for _, addr := range x.others() {
		wait.Go(func() {
			t, n, s := x.one(ctx, addr, q(nil))
			mu.Lock()
			defer mu.Unlock()
			told, asked, silent = append(told, t...), asked+n, append(silent, s...)
		})
	}
	t, n, s := x.p.edges.asking.all(ctx, q)
	wait.Wait()
	told, asked, silent = append(told, t...), asked+n, append(silent, s...)
	slices.Sort(silent)
	slices.SortStableFunc(told, func(a, b why.Told) int { return strings.Compare(a.Node, b.Node) })
	return told, asked, silent
}

// one asks another replica; what it had said before it failed counts.
func (x *replicas) one(ctx context.Context, addr string, q *observev1.RecordsRequest) (told []why.Told, asked int, silent []string) {
	ctx, cancel := context.WithTimeout(ctx, replicaTime)
	defer cancel()
	c, err := x.conn(addr)
	if err != nil {
		return nil, 0, []string{"the control plane at " + addr}
	}
	stream, err := replicasv1.NewReplicasClient(c).Records(ctx, q)
	for err == nil {
		var a *replicasv1.Answer
		if a, err = stream.Recv(); err != nil {
			break
		}
		asked += int(a.GetAsked())
		switch {
		case a.GetReplica() == x.self:
			return nil, 0, nil
		case a.GetSilent():
			silent = append(silent, a.GetNode())
		case a.GetRecord() != nil && len(told) < mostRelayed:
			told = append(told, why.Told{Node: a.GetNode(), Workload: a.GetWorkload(), Record: a.GetRecord()})
		}
	}
	if !errors.Is(err, io.EOF) && status.Code(err) != codes.Unimplemented { // one that is older knows nothing
		x.p.o.Log.Warn("another replica of the control plane did not answer", "address", addr, "err", err)
		silent = append(silent, "the control plane at "+addr)
	}
	return told, asked, silent
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

// others are the addresses of the control planes of the mesh, of all revisions, this one's among them; connections to those that are
// gone are closed.
func (x *replicas) others() []string {
	list := x.listed("")
	x.mu.Lock()
	defer x.mu.Unlock()
	for addr, c := range x.conns {
		if !slices.Contains(list, addr) {
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
		eps := snap.Endpoints.At(mesh.NewKey(svc.Namespace, svc.Name))
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
