package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weirmesh/weir/xds/resource"
)

// Client is what is known of one stream.
type Client struct {
	Node string // its id
	// Metadata is node.metadata as the client sent it; it must not be modified.
	Metadata *structpb.Struct
	Agent    string // the program and its version, as it says
	Peer     Peer
	Since    time.Time // when it connected
	SotW     bool

	// Latest is the Version of the newest View published to it.
	Latest uint64
	// Active is the Version of the newest View of which everything the client subscribed
	// to is ACKed, and nothing rejected.
	Active uint64
	// BehindSince is since when Active is older than Latest; zero if it is not.
	BehindSince time.Time

	BytesSent uint64 // of responses, without framing and TLS
	Types     []TypeStatus
}

// TypeStatus is the part of a stream that is about one type.
type TypeStatus struct {
	TypeURL    string
	Wildcard   bool
	Subscribed int    // names; with a wildcard the resources that means
	Sent       uint64 // Version of the View that was last sent from
	ACKed      uint64 // and that was last ACKed
	Unanswered bool   // a response is on its way
	Waits      bool   // it has not been sent, or has not answered, all that it is to hold
	// Rejected are the resources that the client refused as they are now.
	Rejected []string
	// LastNACK is the last rejection, whether it still matters or not.
	LastNACK *NACK
}

// NACK is a rejection of a response.
type NACK struct {
	// Names are the resources that the message names, or all that the response changed.
	Names   []string
	Version uint64 // of the View they are from
	Message string // the client's
	Time    time.Time
}

// Clients is the state of all streams, by node id.
func (s *Server) Clients() []Client {
	sessions := s.snapshot()
	out := make([]Client, len(sessions))
	for i, se := range sessions {
		out[i] = se.status()
	}
	return out
}

func (s *Server) snapshot() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Keys(s.sessions), func(a, b *session) int {
		return cmp.Or(cmp.Compare(a.node.GetId(), b.node.GetId()), a.since.Compare(b.since))
	})
}

func (se *session) status() Client {
	se.mu.Lock()
	defer se.mu.Unlock()
	c := Client{
		Node: se.node.GetId(), Metadata: se.node.GetMetadata(), Agent: agent(se.node), Peer: se.peer, Since: se.since, SotW: se.m.sotw,
		Active: se.m.active, BehindSince: se.behindSince, BytesSent: se.bytes,
	}
	if v := se.m.latest; v != nil {
		c.Latest = v.Version
	}
	for _, s := range se.m.subs {
		t := TypeStatus{
			TypeURL: s.typeURL, Wildcard: s.wildcard, Subscribed: s.names.len(), Sent: s.sent, ACKed: s.acked,
			Unanswered: s.flight != nil, Waits: se.m.waits(s), Rejected: slices.Sorted(maps.Keys(s.nacked)), LastNACK: s.lastNACK,
		}
		if s.wildcard {
			all, _ := se.m.view(s).Wildcard(s.typeURL)
			t.Subscribed = all.Len()
		}
		c.Types = append(c.Types, t)
	}
	return c
}

// WaitActive waits until a View of at least this Version is active on every client that is
// connected now; who leaves meanwhile is not waited for. It fails when ctx ends, or when
// all have answered but some have rejected something.
func (s *Server) WaitActive(ctx context.Context, version uint64) error {
	var rejected []error
	sessions := s.snapshot()
	for i, se := range sessions {
		err, ended := se.waitActive(ctx, version)
		if ended {
			behind := 0
			for _, se := range sessions[i:] {
				if !se.isActive(version) {
					behind++
				}
			}
			return fmt.Errorf("waiting for version %d: %d of %d clients do not have it yet, one is %q: %w",
				version, behind, len(sessions), se.node.GetId(), ctx.Err())
		}
		if err != nil {
			rejected = append(rejected, err)
		}
	}
	return errors.Join(rejected...)
}

func (se *session) isActive(version uint64) bool {
	se.mu.Lock()
	defer se.mu.Unlock()
	return se.gone || se.m.active >= version
}

// waitActive returns why the version is not active, or that ctx ended first.
func (se *session) waitActive(ctx context.Context, version uint64) (rejected error, ended bool) {
	for {
		se.mu.Lock()
		if se.gone || se.m.active >= version {
			se.mu.Unlock()
			return nil, false
		}
		if se.m.settled >= version && se.m.rejects() {
			defer se.mu.Unlock()
			return se.rejection(), false
		}
		if se.changed == nil {
			se.changed = make(chan struct{})
		}
		changed := se.changed
		se.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, true
		}
	}
}

// rejection says what the client refuses. se.mu is held.
func (se *session) rejection() error {
	var what []string
	for _, s := range se.m.subs {
		if len(s.nacked) > 0 {
			what = append(what, fmt.Sprintf("%s %s: %s", resource.Short(s.typeURL), strings.Join(slices.Sorted(maps.Keys(s.nacked)), ", "), s.lastNACK.Message))
		}
	}
	return fmt.Errorf("%s rejected %s", se.node.GetId(), strings.Join(what, "; "))
}
