// Package server is the sending end of the xDS corridor: an aggregated discovery service
// (xDS v3, delta and state of the world) over gRPC.
//
// Views enter, one Feed per connected node; responses leave to each stream's subscriptions,
// in an order that makes before it breaks, and receipts of what is in effect where come
// back (Clients, WaitActive). What a stream is sent is decided by a pure machine
// (machine.go has the rules); Server is the gRPC edge around one machine per stream. Every
// exported method may be called from any goroutine.
//
// Assemble it like this, the options being part of the bargain:
//
//	s := server.New(server.Options{...})
//	g := grpc.NewServer(append(s.GRPCOptions(), creds)...)
//	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, s)
//	go s.Run(ctx) // when ctx ends the streams end, so that g.GracefulStop returns at once
package server

import (
	"cmp"
	"context"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/weirmesh/weir/xds/resource"
)

// Source says what a node should hold.
type Source interface {
	// Connect is called once per stream, with the node it introduced itself as, after
	// Authorize agreed. The Feed may be shared by streams. ctx ends with the stream. An
	// error ends the stream; a gRPC status error keeps its code.
	Connect(ctx context.Context, node *corev3.Node, peer Peer) (*Feed, error)
}

// Peer is who is at the other end of the connection.
type Peer struct {
	Addr string
	// ID is the SPIFFE ID in the peer's verified certificate, or of what Authenticate found;
	// "" if neither is there.
	ID string
	// Workload is the one workload of that identity, as "namespace/name", if the credential
	// names it.
	Workload string
	// Plaintext says that the connection came in where no TLS is spoken.
	Plaintext bool
}

// Options are what a Server needs. Source, Authorize and Log are required.
type Options struct {
	Source Source
	// Authorize says whether the peer may be the node it claims to be: its SPIFFE ID
	// must be that of the node's namespace and service account. The text of the error is
	// shown to the peer, with code PermissionDenied. Nil refuses everybody.
	Authorize func(peer Peer, node *corev3.Node) error
	// Authenticate finds the ID and the workload of a peer that showed no certificate, by
	// the metadata of its stream. The error is shown to the peer, with code Unauthenticated
	// unless it is a gRPC status error. Nil: who shows no certificate has no ID.
	Authenticate func(ctx context.Context) (id, workload string, err error)
	// Identifier is put into control_plane.identifier of every response.
	Identifier string
	Log        *slog.Logger
	// Observer is told what happens; nil: nobody is.
	Observer Observer

	MaxStreams      int // open streams; 0: 20,000
	MaxNames        int // resource names a stream may subscribe to; 0: 200,000
	MaxRequestBytes int // of one request; 0: resource.MaxRequest
	// MaxResponseBytes is what a response may be; 0: resource.MaxResponse, what clients take.
	MaxResponseBytes int
	// Beginning is how many streams are sent their first View at a time, MaxBeginning how
	// long one may take before the next gets its place; 0: 64 and 1 s.
	Beginning    int
	MaxBeginning time.Duration
	// Full, if not nil, is asked before a stream is taken; its error refuses it.
	Full func() error
}

// Observer counts. Its methods are called from the goroutines of streams, and must not
// block nor call the Server.
type Observer interface {
	// Sent is about a response, with what it took to write it and to hand it to the connection.
	Sent(typeURL string, bytes int, writing, sending time.Duration)
	// Failed says that there was a response which could not be made.
	Failed()
	// Begun says that a client which had all of the View of version after, and to which nothing
	// was under way, is about to be sent something of a later one.
	Begun(after uint64)
	// Rejected is about a response that a client NACKed, and what was in it.
	Rejected(node, typeURL string, n *NACK, resources []*resource.Resource)
	// Mended says that a client took a resource, or that it is gone, which it had rejected on this stream.
	Mended(node, typeURL, name string)
	// Applied says that a client which had answered everything up to the View of version
	// after has now answered everything up to version to, and which resources it took to
	// get there it accepted. What a stream begins with does not count.
	Applied(after, to uint64, resources []*resource.Resource)
	// Left says that a stream of a node ended.
	Left(node string)
	// Converged says that a client to which something was sent now has all of the View of
	// version to, after it had that of version after. The first View of a stream does not
	// count.
	Converged(after, to uint64)
}

// unobserved is no Observer.
type unobserved struct{}

func (unobserved) Sent(string, int, time.Duration, time.Duration) {}
func (unobserved) Failed()                                        {}
func (unobserved) Begun(uint64)                                   {}
func (unobserved) Converged(uint64, uint64)                       {}
func (unobserved) Left(string)                                    {}
func (unobserved) Rejected(string, string, *NACK, []*resource.Resource) {
}
func (unobserved) Mended(string, string, string)                {}
func (unobserved) Applied(uint64, uint64, []*resource.Resource) {}

const (
	maxTypes     = 64 // per stream; xDS and Istio together have about fifteen
	firstRequest = 15 * time.Second
	// maxConnection bounds the streams of one connection: a proxy has two or three, and less than
	// 100 is no good manners (RFC 9113, section 6.5.2).
	maxConnection = 100
	// maxTold bounds the lines of the log about streams of strangers, in a second.
	maxTold = 20
)

// Server is an aggregated discovery service.
type Server struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	opts    Options
	bundles *bundles

	mu       sync.Mutex
	sessions map[*session]struct{}
	streams  int // sessions and those that have not introduced themselves
	stopped  bool
	idle     chan struct{} // closed when stopped and no stream is left
	stop     chan struct{} // closed when Run ends
	draining chan struct{} // closed by Drain
	over     time.Duration // written before draining is closed
	gone     chan struct{} // closed when draining and no stream is left
	places   chan struct{} // holds a token for each stream that begins
	second   time.Time     // in which told lines about strangers were written
	told     int
}

// New makes a Server. It serves from when it is registered; Run is what ends it.
func New(o Options) *Server {
	o.MaxStreams = cmp.Or(o.MaxStreams, 20_000)
	o.MaxNames = cmp.Or(o.MaxNames, 200_000)
	o.MaxRequestBytes = cmp.Or(o.MaxRequestBytes, resource.MaxRequest)
	o.MaxResponseBytes = cmp.Or(o.MaxResponseBytes, resource.MaxResponse)
	o.Beginning = cmp.Or(o.Beginning, 64)
	o.MaxBeginning = cmp.Or(o.MaxBeginning, time.Second)
	if o.Observer == nil {
		o.Observer = unobserved{}
	}
	return &Server{
		opts: o, bundles: newBundles(), sessions: map[*session]struct{}{},
		idle: make(chan struct{}), stop: make(chan struct{}), places: make(chan struct{}, o.Beginning),
		draining: make(chan struct{}), gone: make(chan struct{}),
	}
}

// GRPCOptions are the options that the gRPC server must be made with. Other services may
// live on it.
func (s *Server) GRPCOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ForceServerCodecV2(newCodec()),
		grpc.MaxRecvMsgSize(s.opts.MaxRequestBytes),
		grpc.MaxConcurrentStreams(maxConnection),
		// A proxy that pings every 30 s is welcome, whatever the network does to the
		// intervals; twice as often is an abuse.
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 15 * time.Second, PermitWithoutStream: true}),
		// A proxy that vanished without a word is noticed within 40 s, or 10 s after
		// something was sent to it. Until then TCP sends again, in the end every 4 s, so that
		// a proxy that can be reached again has it that soon.
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		// Requests are small, and gRPC's buffers are most of what an idle proxy costs.
		grpc.ReadBufferSize(4 << 10),
	}
}

// Drain hands the streams over to other servers: it takes no new ones and ends those
// there are one by one, each at a random moment of the time given, so that its client
// comes to another server while this one still serves the rest. What it returns is closed
// when all are gone. It may be called once; Run ends what is left.
func (s *Server) Drain(over time.Duration) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.over = over
	close(s.draining)
	if s.streams == 0 {
		close(s.gone)
	}
	return s.gone
}

// Shed ends n of the streams that are older than settled, each at a random moment of the time given, so that their clients
// connect anew, perhaps to a server that has fewer. It returns how many there will be.
func (s *Server) Shed(n int, settled, over time.Duration) int {
	all := s.snapshot()
	all = slices.DeleteFunc(all, func(se *session) bool { return time.Since(se.since) < settled })
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	all = all[:min(n, len(all))]
	for _, se := range all {
		time.AfterFunc(rand.N(max(over, 1)), func() {
			select {
			case se.move <- struct{}{}:
			default:
			}
		})
	}
	return len(all)
}

// handover is when a stream is to end, once draining is closed.
func (s *Server) handover() *time.Timer {
	if s.over <= 0 {
		return time.NewTimer(0)
	}
	return time.NewTimer(rand.N(s.over))
}

// Run waits until ctx ends, then ends all streams and returns when they are gone.
func (s *Server) Run(ctx context.Context) error {
	<-ctx.Done()
	s.mu.Lock()
	if !s.stopped {
		s.stopped = true
		close(s.stop)
		if s.streams == 0 {
			close(s.idle)
		}
	}
	s.mu.Unlock()
	<-s.idle
	return nil
}

// enter counts a stream in, if it may come.
func (s *Server) enter() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopped, closed(s.draining):
		return errStopping
	case s.streams >= s.opts.MaxStreams:
		return status.Errorf(codes.ResourceExhausted, "the control plane serves %d streams already, which is its limit", s.streams)
	case s.opts.Full != nil:
		if err := s.opts.Full(); err != nil {
			return err
		}
	}
	s.streams++
	return nil
}

func (s *Server) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.streams--
	if s.streams > 0 {
		return
	}
	if closed(s.draining) && !closed(s.gone) {
		close(s.gone)
	}
	if s.stopped {
		close(s.idle)
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

var (
	errStopping = status.Error(codes.Unavailable, "the control plane is stopping")
	errMoving   = status.Error(codes.Unavailable, "another replica of the control plane has fewer proxies")
)

// Feed carries the Views of one node, of which only the latest matters. The zero value has
// none yet.
type Feed struct {
	// Named, if not nil, is told when the client begins or ends to ask by name for resources
	// of a type of which a wildcard is limited (resource.View.Wild), in the goroutine of the
	// stream. It must not block nor call the Server. It is set before Connect returns.
	Named func(typeURL, name string, asks bool)

	mu        sync.Mutex
	view      *resource.View
	followers []*session // replaced, not changed
}

// Publish makes v the latest View. It never waits. Publish a View even if nothing in it
// changed but its Version: that is how a version becomes active on nodes it does not
// touch, and it costs no message, nor wakes anybody.
func (f *Feed) Publish(v *resource.View) {
	f.mu.Lock()
	f.view = v
	followers := f.followers
	f.mu.Unlock()
	for _, se := range followers {
		se.offer()
	}
}

// latest is nil before the first View.
func (f *Feed) latest() *resource.View {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.view
}

func (f *Feed) follow(se *session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.followers = append(slices.Clip(f.followers), se)
}

func (f *Feed) unfollow(se *session) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.followers = slices.DeleteFunc(slices.Clone(f.followers), func(o *session) bool { return o == se })
}
