package server

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/weirmesh/weir/xds/resource"
)

// session is one stream whose client introduced itself.
type session struct {
	server *Server
	stream grpc.ServerStream
	node   *corev3.Node
	peer   Peer
	since  time.Time
	cp     *corev3.ControlPlane
	feed   *Feed
	wake   chan struct{} // there may be a newer View
	move   chan struct{} // holds a token when the client is to come to another server

	mu          sync.Mutex
	m           *machine
	bytes       uint64
	behindSince time.Time
	sent        bool // something, since active changed
	gone        bool
	changed     chan struct{} // closed at the next change, if somebody waits for it
	standing    Standing
}

// DeltaAggregatedResources serves one delta stream. It is called by gRPC.
func (s *Server) DeltaAggregatedResources(stream grpc.BidiStreamingServer[discoveryv3.DeltaDiscoveryRequest, discoveryv3.DeltaDiscoveryResponse]) error {
	return serve(s, stream, stream.Recv, false, (*machine).deltaRequest)
}

// StreamAggregatedResources serves one state-of-the-world stream. It is called by gRPC.
func (s *Server) StreamAggregatedResources(stream grpc.BidiStreamingServer[discoveryv3.DiscoveryRequest, discoveryv3.DiscoveryResponse]) error {
	return serve(s, stream, stream.Recv, true, (*machine).sotwRequest)
}

type request interface{ GetNode() *corev3.Node }

func serve[R request](s *Server, stream grpc.ServerStream, recv func() (R, error), sotw bool,
	step func(*machine, R, time.Time) ([]*response, error),
) error {
	who, err := s.identify(stream.Context())
	if err != nil {
		return err
	}
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()

	requests := make(chan R)
	ended := make(chan error, 1)
	go func() { // ends with the stream, which ends with this function
		for {
			r, err := recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case requests <- r:
			case <-ctx.Done():
				return
			}
		}
	}()

	tooLate := time.NewTimer(firstRequest)
	defer tooLate.Stop()
	var first R
	select {
	case first = <-requests:
	case err := <-ended:
		return endOf(err)
	case <-s.stop:
		return errStopping
	case <-tooLate.C:
		return status.Errorf(codes.DeadlineExceeded, "no request came within %v", firstRequest)
	}
	se, err := s.introduce(ctx, stream, who, first.GetNode(), sotw)
	if err != nil {
		return err
	}
	log := s.opts.Log.With("node", se.node.GetId())
	log.Debug("xds stream opened", "peer", se.peer.Addr, "sotw", sotw)
	defer func() {
		se.leave()
		log.Debug("xds stream ended", "after", time.Since(se.since))
	}()

	begun, err := s.begin(ctx, se)
	if err != nil {
		return err
	}
	defer begun()
	// Who is slow to take it must not keep the others waiting.
	defer time.AfterFunc(s.opts.MaxBeginning, begun).Stop()
	publish := func() error {
		return se.do(func(m *machine, _ time.Time) ([]*response, error) {
			if v := se.feed.latest(); v != m.latest {
				return m.publish(v), nil
			}
			return nil, nil
		})
	}
	request := func(r R) error {
		return se.do(func(m *machine, now time.Time) ([]*response, error) { return step(m, r, now) })
	}
	if err := publish(); err != nil {
		return err
	}
	if err := request(first); err != nil {
		return err
	}
	draining, leave := s.draining, (<-chan time.Time)(nil)
	for {
		select {
		case <-draining:
			draining = nil
			t := s.handover()
			defer t.Stop()
			leave = t.C
		case <-leave:
			return errStopping
		case <-se.move:
			return errMoving
		case r := <-requests:
			err = request(r)
		case <-se.wake:
			err = publish()
		case err := <-ended:
			return endOf(err)
		case <-s.stop:
			return errStopping
		}
		if err != nil {
			return err
		}
		if se.answeredFirst() {
			begun()
		}
	}
}

// begin waits for the first View and for a place among the streams that begin: what a
// stream is sent then is most of what it costs, so of thousands that come back at once
// (the control plane or the network was away) a few are served to their end after the
// other, first come, first served. begun gives the place back.
func (s *Server) begin(ctx context.Context, se *session) (begun func(), err error) {
	for se.feed.latest() == nil {
		select {
		case <-se.wake:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-s.stop:
			return nil, errStopping
		}
	}
	select {
	case s.places <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-s.stop:
		return nil, errStopping
	}
	return sync.OnceFunc(func() { <-s.places }), nil
}

// endOf is what a stream ends with when its client stops sending.
func endOf(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// identify finds out who opened a stream. Who cannot show that takes no place of those who can.
func (s *Server) identify(ctx context.Context) (Peer, error) {
	p := peerOf(ctx)
	if s.opts.Authenticate == nil || p.ID != "" || p.Plaintext {
		return p, nil
	}
	var err error
	if p.ID, p.Workload, err = s.opts.Authenticate(ctx); err != nil {
		if s.tell(time.Now()) {
			s.opts.Log.Warn("xds stream refused", "peer", p.Addr, "err", err)
		}
		if _, ok := status.FromError(err); !ok {
			err = status.Error(codes.Unauthenticated, err.Error())
		}
	}
	return p, err
}

// tell reports whether there is room in the log for another stranger.
func (s *Server) tell(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if second := now.Truncate(time.Second); !second.Equal(s.second) {
		s.second, s.told = second, 0
	}
	s.told++
	return s.told <= maxTold
}

// introduce checks whether p may be the node and finds the Feed for it.
func (s *Server) introduce(ctx context.Context, stream grpc.ServerStream, p Peer, node *corev3.Node, sotw bool) (*session, error) {
	if node.GetId() == "" {
		return nil, status.Error(codes.InvalidArgument, "the first request on a stream must carry the node with its id")
	}
	if s.opts.Authorize == nil {
		return nil, status.Error(codes.PermissionDenied, "this control plane has no rule by which it could admit a node")
	}
	if err := s.opts.Authorize(p, node); err != nil {
		s.opts.Log.Warn("xds stream refused", "node", node.GetId(), "peer", p.Addr, "id", p.ID, "err", err)
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	feed, err := s.opts.Source.Connect(ctx, node, p)
	if err != nil {
		if _, ok := status.FromError(err); !ok {
			err = status.Error(codes.Unavailable, err.Error())
		}
		return nil, err
	}
	se := &session{
		server: s, stream: stream, node: node, peer: p, since: time.Now(),
		cp: &corev3.ControlPlane{Identifier: s.opts.Identifier}, feed: feed, wake: make(chan struct{}, 1), move: make(chan struct{}, 1),
		// Nonces of another stream must not pass for this one's.
		m: newMachine(sotw, rand.Text()[:8]+"-", limits{types: maxTypes, names: s.opts.MaxNames}, s.bundles),
	}
	se.standing.se = se
	feed.follow(se)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[se] = struct{}{}
	return se, nil
}

func (se *session) leave() {
	se.feed.unfollow(se)
	se.server.mu.Lock()
	delete(se.server.sessions, se)
	se.server.mu.Unlock()
	se.mu.Lock()
	defer se.mu.Unlock()
	se.gone = true
	se.notify()
	se.server.opts.Observer.Left(se.node.GetId())
}

// offer takes the newest View in the goroutine of who published it if the stream is at rest
// and stays so, which costs a tenth of waking it; else the stream takes it.
func (se *session) offer() {
	if se.mu.TryLock() {
		if v := se.feed.latest(); v == se.m.latest {
			se.mu.Unlock()
			return
		} else if before := se.mark(); se.m.pass(v) {
			said := se.note(before, time.Now(), false)
			se.mu.Unlock()
			said.tell(se)
			return
		}
		se.mu.Unlock()
	}
	select {
	case se.wake <- struct{}{}:
	default:
	}
}

// answeredFirst reports whether the client has answered all that it begins with.
func (se *session) answeredFirst() bool {
	se.mu.Lock()
	defer se.mu.Unlock()
	return se.m.settled > 0
}

// mark is how far a stream is.
type mark struct{ active, settled uint64 }

func (se *session) mark() mark { return mark{se.m.active, se.m.settled} }

// said is what a step of the machine has to tell others.
type said struct {
	from, to  mark
	nacks     []rejection
	mended    []mending
	named     []naming
	begun     bool
	converged bool
	applied   []*resource.Resource
}

// note takes from the machine what a step has to tell. se.mu is held.
func (se *session) note(before mark, now time.Time, sends bool) said {
	m := se.m
	x := said{from: before, to: se.mark(), nacks: m.nacks, mended: m.mended, named: m.named}
	m.nacks, m.mended, m.named = nil, nil, nil
	if x.to.settled > before.settled {
		x.applied, m.accepted = m.accepted, nil
	}
	switch upToDate := m.latest == nil || m.active == m.latest.Version; {
	case upToDate:
		se.behindSince = time.Time{}
	case se.behindSince.IsZero():
		se.behindSince = now
	}
	x.begun = sends && !se.sent && before.active > 0 && m.latest.Version > before.active
	x.converged = x.to.active > before.active && before.active > 0 && se.sent
	se.sent = se.sent && x.to.active == before.active || sends
	se.notify()
	return x
}

func (x *said) tell(se *session) {
	if se.feed.Named != nil {
		for _, n := range x.named {
			se.feed.Named(n.typeURL, n.name, n.asks)
		}
	}
	observer := se.server.opts.Observer
	if x.begun {
		observer.Begun(x.from.active)
	}
	if x.converged {
		observer.Converged(x.from.active, x.to.active)
	}
	if len(x.applied) > 0 {
		observer.Applied(x.from.settled, x.to.settled, x.applied)
	}
	for _, n := range x.mended {
		observer.Mended(se.node.GetId(), n.typeURL, n.name)
	}
	for _, n := range x.nacks {
		observer.Rejected(se.node.GetId(), n.typeURL, n.nack, n.resources)
		se.server.opts.Log.Warn("configuration rejected", "node", se.node.GetId(), "type", resource.Short(n.typeURL), "names", n.nack.Names, "version", n.nack.Version, "err", n.nack.Message)
	}
}

// do takes one step of the machine and sends what comes of it.
func (se *session) do(step func(*machine, time.Time) ([]*response, error)) error {
	se.mu.Lock()
	now, before := time.Now(), se.mark()
	out, err := step(se.m, now)
	said := se.note(before, now, len(out) > 0)
	se.mu.Unlock()
	said.tell(se)
	if err != nil {
		return err
	}
	observer := se.server.opts.Observer
	for _, r := range out {
		began := time.Now()
		f, err := encode(r, se.m.sotw, se.cp)
		if err != nil {
			observer.Failed()
			return status.Errorf(codes.Internal, "marshalling a response: %v", err)
		}
		var size uint64
		for _, b := range f {
			size += uint64(b.Len())
		}
		if most := uint64(se.server.opts.MaxResponseBytes); size > most {
			err := status.Errorf(codes.ResourceExhausted, "%s is a response of %d bytes, and a client takes %d: let it see less (Sidecar objects, exportTo), or ask for what it uses",
				resource.Short(r.typeURL), size, most)
			observer.Failed()
			se.server.opts.Log.Error("configuration is too large to be sent", "node", se.node.GetId(), "type", resource.Short(r.typeURL), "bytes", size, "most", most)
			return err
		}
		written := time.Now()
		if err := se.stream.SendMsg(f); err != nil {
			return err
		}
		observer.Sent(r.typeURL, int(size), written.Sub(began), time.Since(written))
		se.mu.Lock()
		se.bytes += size
		se.mu.Unlock()
	}
	return nil
}

// notify wakes who waits for a change. se.mu is held.
func (se *session) notify() {
	if se.changed != nil {
		close(se.changed)
		se.changed = nil
	}
}

func peerOf(ctx context.Context) Peer {
	var p Peer
	if gp, ok := peer.FromContext(ctx); ok {
		p.Addr = gp.Addr.String()
		switch a := gp.AuthInfo.(type) {
		case credentials.TLSInfo:
			if a.SPIFFEID != nil {
				p.ID = a.SPIFFEID.String()
			}
		case interface{ AuthType() string }:
			p.Plaintext = a.AuthType() == insecure.NewCredentials().Info().SecurityProtocol
		}
	}
	return p
}
