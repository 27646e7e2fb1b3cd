package control

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/server"
)

// feeds keeps the view of every connected proxy up to date. One goroutine (run) owns
// the translation cache; streams come and go beside it.
type feeds struct {
	log *slog.Logger
	// habits is what workloads use, nil if nothing is served on demand.
	habits *learner
	wake   chan struct{}
	count  func(n int) // 1 for a proxy that comes, -1 for one that goes
	// problems are what translation had to set aside in the newest views.
	problems atomic.Pointer[[]translate.Problem]

	mu       sync.Mutex
	snapshot *mesh.Snapshot
	nodes    map[*feed]struct{}
}

type feed struct {
	node *translate.Node
	out  server.Feed
	done uint64 // snapshot version last published, 0 none
}

func newFeeds(habits *learner, log *slog.Logger, count func(int)) *feeds {
	return &feeds{log: log, habits: habits, count: count, wake: make(chan struct{}, 1), nodes: map[*feed]struct{}{}}
}

// authorize holds the node a proxy claims to be against the identity it proved.
func authorize(peer server.Peer, node *corev3.Node) error {
	_, err := parseNode(peer, node)
	return err
}

// parseNode is who the node is. On the plaintext port nobody proves anything: a node is who it says, and is given no
// secrets.
func parseNode(peer server.Peer, node *corev3.Node) (*translate.Node, error) {
	if peer.Plaintext {
		n, err := translate.ParseNode(node, translate.Peer{})
		if err == nil {
			n.Unproven = true
		}
		return n, err
	}
	id, err := identity.Parse(peer.ID)
	if err != nil {
		return nil, fmt.Errorf("configuration is only given to workloads of the mesh, with their certificate: %w", err)
	}
	return translate.ParseNode(node, translate.Peer{Namespace: id.Namespace, ServiceAccount: id.ServiceAccount})
}

// Connect begins to feed a proxy. It is server.Source.
func (f *feeds) Connect(ctx context.Context, node *corev3.Node, peer server.Peer) (*server.Feed, error) {
	n, err := parseNode(peer, node)
	if err != nil {
		return nil, err
	}
	x := &feed{node: n}
	n.OnDemand = n.OnDemand && f.habits != nil
	if n.OnDemand {
		var left func()
		n.Learned, x.out.Named, left = f.habits.connect(node, n.Namespace)
		context.AfterFunc(ctx, left)
	}
	f.mu.Lock()
	f.nodes[x] = struct{}{}
	f.mu.Unlock()
	f.count(1)
	context.AfterFunc(ctx, func() {
		f.mu.Lock()
		delete(f.nodes, x)
		f.mu.Unlock()
		f.count(-1)
	})
	f.poke()
	return &x.out, nil
}

func (f *feeds) publish(s *mesh.Snapshot) {
	f.mu.Lock()
	f.snapshot = s
	f.mu.Unlock()
	f.poke()
}

func (f *feeds) poke() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// run translates the newest snapshot for every proxy that does not have it. Snapshots
// that come while it works are merged: only the newest is translated.
func (f *feeds) run(ctx context.Context) error {
	cache := translate.New()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-f.wake:
		}
		snap, due := f.due()
		if snap == nil {
			continue
		}
		for _, x := range due {
			x.out.Publish(cache.View(snap, x.node))
			x.done = snap.Version
		}
		problems := cache.Problems()
		f.problems.Store(&problems)
	}
}

func (f *feeds) due() (*mesh.Snapshot, []*feed) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.snapshot == nil {
		return nil, nil
	}
	var out []*feed
	for x := range f.nodes {
		if x.done != f.snapshot.Version {
			out = append(out, x)
		}
	}
	return f.snapshot, out
}
