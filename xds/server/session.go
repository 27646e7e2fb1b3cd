package server

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
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
	named  func(typeURL, name string, asks bool) // see Feed

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
	se, feed, err := s.introduce(ctx, stream, first.GetNode(), sotw)
	if err != nil {
		return err
	}
	log := s.opts.Log.With("node", se.node.GetId())
	log.Debug("xds stream opened", "peer", se.peer.Addr, "sotw", sotw)
	defer func() {
		se.leave()
		log.Debug("xds stream ended", "after", time.Since(se.since))
	}()

	view, changed, begun, err := s.begin(ctx, feed)
	if err != nil {
		return err
	}
	defer begun()
	// Who is slow to take it must not keep the others waiting.
	defer time.AfterFunc(s.opts.MaxBeginning, begun).Stop()
	publish := func() error {
		return se.do(log, func(m *machine, _ time.Time) ([]*response, error) { return m.publish(view), nil })
	}
	request := func(r R) error {
		return se.do(log, func(m *machine, now time.Time) ([]*response, error) { return step(m, r, now) })
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
		case r := <-requests:
			err = request(r)
		case <-changed:
			view, changed = feed.View()
			err = publish()
		case err := <-ended:
			return endOf(err)
		case <-s.stop:
			return errStopping
		}
		if err != nil {
			return err
		}
		if se.m.settled > 0 { // written by this goroutine only
			begun()
		}
	}
}

// begin waits for the first View and for a place among the streams that begin: what a
// stream is sent then is most of what it costs, so of thousands that come back at once
// (the control plane or the network was away) a few are served to their end after the
// other, first come, first served. begun gives the place back.
func (s *Server) begin(ctx context.Context, feed *Feed) (view *resource.View, changed <-chan struct{}, begun func(), err error) {
	for view, changed = feed.View(); view == nil; view, changed = feed.View() {
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil, nil, ctx.Err()
		case <-s.stop:
			return nil, nil, nil, errStopping
		}
	}
	select {
	case s.places <- struct{}{}:
	case <-ctx.Done():
		return nil, nil, nil, ctx.Err()
	case <-s.stop:
		return nil, nil, nil, errStopping
	}
	view, changed = feed.View()
	return view, changed, sync.OnceFunc(func() { <-s.places }), nil
}

// endOf is what a stream ends with when its client stops sending.
func endOf(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// introduce checks who is there and finds the Feed for it.
func (s *Server) introduce(ctx context.Context, stream grpc.ServerStream, node *corev3.Node, sotw bool) (*session, *Feed, error) {
	if node.GetId() == "" {
		return nil, nil, status.Error(codes.InvalidArgument, "the first request on a stream must carry the node with its id")
	}
	p := peerOf(stream.Context())
	if s.opts.Authorize == nil {
		return nil, nil, status.Error(codes.PermissionDenied, "this control plane has no rule by which it could admit a node")
	}
	if err := s.opts.Authorize(p, node); err != nil {
		s.opts.Log.Warn("xds stream refused", "node", node.GetId(), "peer", p.Addr, "id", p.ID, "err", err)
		return nil, nil, status.Error(codes.PermissionDenied, err.Error())
	}
	feed, err := s.opts.Source.Connect(ctx, node, p)
	if err != nil {
		if _, ok := status.FromError(err); !ok {
			err = status.Error(codes.Unavailable, err.Error())
		}
		return nil, nil, err
	}
	se := &session{
		server: s, stream: stream, node: node, peer: p, since: time.Now(),
		cp: &corev3.ControlPlane{Identifier: s.opts.Identifier}, named: feed.Named,
		// Nonces of another stream must not pass for this one's.
		m: newMachine(sotw, rand.Text()[:8]+"-", limits{types: maxTypes, names: s.opts.MaxNames}, s.bundles),
	}
	se.standing.se = se
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sessions[se] = struct{}{}
	return se, feed, nil
}

func (se *session) leave() {
	se.server.mu.Lock()
	delete(se.server.sessions, se)
	se.server.mu.Unlock()
	se.mu.Lock()
	defer se.mu.Unlock()
	se.gone = true
	se.notify()
	se.server.opts.Observer.Left(se.node.GetId())
}

// do takes one step of the machine and sends what comes of it.
func (se *session) do(log *slog.Logger, step func(*machine, time.Time) ([]*response, error)) error {
	se.mu.Lock()
	now := time.Now()
	before, settled := se.m.active, se.m.settled
	out, err := step(se.m, now)
	nacks, named := se.m.nacks, se.m.named
	se.m.nacks, se.m.named = nil, nil
	applied, accepted := se.m.settled, se.m.accepted
	if applied > settled {
		se.m.accepted = nil
	}
	switch upToDate := se.m.latest == nil || se.m.active == se.m.latest.Version; {
	case upToDate:
		se.behindSince = time.Time{}
	case se.behindSince.IsZero():
		se.behindSince = now
	}
	after := se.m.active
	converged := after > before && before > 0 && se.sent
	se.sent = se.sent && after == before || len(out) > 0
	se.notify()
	se.mu.Unlock()
	if se.named != nil {
		for _, n := range named {
			se.named(n.typeURL, n.name, n.asks)
		}
	}
	observer := se.server.opts.Observer
	if converged {
		observer.Converged(before, after)
	}
	if applied > settled && len(accepted) > 0 {
		observer.Applied(settled, applied, accepted)
	}
	for _, n := range nacks {
		observer.Rejected(se.node.GetId(), n.typeURL, n.nack, n.resources)
		log.Warn("configuration rejected", "type", resource.Short(n.typeURL), "names", n.nack.Names, "version", n.nack.Version, "err", n.nack.Message)
	}
	if err != nil {
		return err
	}
	for _, r := range out {
		f, err := encode(r, se.m.sotw, se.cp)
		if err != nil {
			return status.Errorf(codes.Internal, "marshalling a response: %v", err)
		}
		var size uint64
		for _, b := range f {
			size += uint64(b.Len())
		}
		began := time.Now()
		if err := se.stream.SendMsg(f); err != nil {
			return err
		}
		observer.Sent(r.typeURL, int(size), time.Since(began))
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
