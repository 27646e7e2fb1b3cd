package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	caserver "github.com/weirmesh/weir/ca/server"
	"github.com/weirmesh/weir/config"
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
	// why says why a workload is not known, in a cluster, where pods and their proxies begin
	// at the same time; nil: nobody is waited for.
	why func(namespace, name string) string
	// problems are what translation had to set aside in the newest views.
	problems atomic.Pointer[[]translate.Problem]

	mu       sync.Mutex
	snapshot *mesh.Snapshot
	newer    chan struct{} // closed with the next snapshot
	nodes    map[*feed]struct{}
}

type feed struct {
	node *translate.Node
	out  server.Feed
	done uint64 // snapshot version last published, 0 none
}

func newFeeds(habits *learner, log *slog.Logger, count func(int)) *feeds {
	return &feeds{log: log, habits: habits, count: count, wake: make(chan struct{}, 1), newer: make(chan struct{}), nodes: map[*feed]struct{}{}}
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
	n, err := translate.ParseNode(node, translate.Peer{Namespace: id.Namespace, ServiceAccount: id.ServiceAccount})
	if err == nil && peer.Workload != "" && peer.Workload != n.Namespace+"/"+n.Name {
		return nil, fmt.Errorf("the credential is that of %s, and the node says it is %s/%s", peer.Workload, n.Namespace, n.Name)
	}
	return n, err
}

// authenticate finds out who opens a stream without a certificate.
func (p *Plane) authenticate(ctx context.Context) (id, workload string, err error) {
	caller, err := caserver.Authenticate(ctx, p.askers)
	if errors.Is(err, caserver.ErrUnchecked) {
		return "", "", status.Error(codes.Unavailable, err.Error())
	}
	if err != nil {
		p.signer.Replayed(caserver.PeerHost(ctx), "token for configuration refused", err)
		return "", "", err
	}
	if caller.Workload != "" {
		workload = caller.ID.Namespace + "/" + caller.Workload
	}
	return caller.ID.String(), workload, nil
}

// Connect begins to feed a proxy. It is server.Source.
func (f *feeds) Connect(ctx context.Context, node *corev3.Node, peer server.Peer) (*server.Feed, error) {
	n, err := parseNode(peer, node)
	if err != nil {
		return nil, err
	}
	if err := f.meet(ctx, n); err != nil {
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

// meeting is how long a proxy is kept waiting for its pod to become known: the API server
// tells within a second. What it would be given without is right but for what other pods of
// its workload are called by.
const meeting = 5 * time.Second

// meet waits for the workload of a node that just began, and holds against it who the node
// proved to be. One that stays unknown is served as what it says it is.
func (f *feeds) meet(ctx context.Context, n *translate.Node) error {
	if f.why == nil {
		return nil
	}
	late := time.NewTimer(meeting)
	defer late.Stop()
	for {
		f.mu.Lock()
		snap, newer := f.snapshot, f.newer
		f.mu.Unlock()
		if snap != nil {
			if w := snap.Workloads.At(mesh.NewKey(n.Namespace, n.Name)); w != nil {
				if !n.Unproven && n.ServiceAccount != w.ServiceAccount {
					return status.Errorf(codes.PermissionDenied, "pod %s/%s runs as service account %s, and the credential is that of %s", n.Namespace, n.Name, w.ServiceAccount, n.ServiceAccount)
				}
				return nil
			}
		}
		select {
		case <-newer:
		case <-ctx.Done():
			return ctx.Err()
		case <-late.C:
			f.log.Warn("a proxy's pod is not known; it is served as what it says it is", "namespace", n.Namespace, "pod", n.Name, "why", f.why(n.Namespace, n.Name))
			return nil
		}
	}
}

// manyPlaintext bounds the findings about plaintext proxies: anybody who reaches their port
// can be one.
const manyPlaintext = 1000

// plaintextFindings name the proxies that are connected without TLS, where pods may be.
func (f *feeds) plaintextFindings() (out []config.Finding) {
	if f.why == nil {
		return nil // a tool of this machine
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for x := range f.nodes {
		if !x.node.Unproven || len(out) == manyPlaintext {
			continue
		}
		out = append(out, config.New(config.PlaintextProxy, mesh.Ref{Kind: "Pod", Namespace: x.node.Namespace, Name: x.node.Name}, "", 0,
			"its proxy is configured in plaintext and has no certificate: its traffic is not encrypted", "take the sidecar that is injected, or one that is led to port 15012 or 15011; then install without compatibilityVersion=1.0"))
	}
	return out
}

func (f *feeds) publish(s *mesh.Snapshot) {
	f.mu.Lock()
	f.snapshot = s
	close(f.newer)
	f.newer = make(chan struct{})
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
		if len(due) == 0 {
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
