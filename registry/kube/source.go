// Package kube sees what runs in a Kubernetes cluster.
//
// Services, EndpointSlices, Pods, Nodes and Secrets with certificates enter, from the API
// server; config.Facts leave, in the words of registry and mesh, by change. Endpoints are
// those of EndpointSlices, joined with Pods (identity, labels, whether a proxy is there)
// and their Nodes (locality). Of each object only what it was lowered to is kept, and what
// was lowered to the same as before is not told: a status that changes costs nothing.
//
// There is no queue: what an event says is published at once, together with what came
// while the reader was busy. Run calls publish from its own goroutine, one call at a time;
// Why, Shown, OtherImages and Away may be called from any.
package kube

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/kube"
	"github.com/weirmesh/weir/internal/kubewatch"
)

// Options of a Source. All are required.
type Options struct {
	Server       *kubewatch.Server
	Client       kubernetes.Interface
	Heads        metadata.Interface
	DomainSuffix string // "cluster.local"
	// Namespace is that of the installation: Secrets are read there at least, and everywhere
	// if that is granted.
	Namespace string
	Log       *slog.Logger
}

// Source watches what runs.
type Source struct {
	o     Options
	facts *kubewatch.Batch[config.ID, config.Fact]

	mu    sync.Mutex
	world *world
}

// New makes a Source.
func New(o Options) *Source {
	return &Source{o: o, facts: kubewatch.NewBatch[config.ID, config.Fact](), world: newWorld(kube.Options{DomainSuffix: o.DomainSuffix}, o.Namespace)}
}

// withoutCertificates are types of Secrets that hold none, of which there may be many:
// releases of Helm, tokens.
const withoutCertificates = "type!=helm.sh/release.v1,type!=kubernetes.io/service-account-token,type!=bootstrap.kubernetes.io/token,type!=kubernetes.io/dockerconfigjson"

// Run publishes all there is in one call, and then what changes, until ctx ends.
func (s *Source) Run(ctx context.Context, publish func([]config.Fact)) error {
	ctx, stop := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer stop() // first
	s.facts.Await("Service", "EndpointSlice", "Pod", "Node", "Secret")
	core := s.o.Client.CoreV1()
	running.Go(func() {
		watch(ctx, s, core.Services(""), kubewatch.Mirror[*corev1.Service]{Kind: "Service"}, (*world).service, (*world).noService)
	})
	running.Go(func() {
		watch(ctx, s, s.o.Client.DiscoveryV1().EndpointSlices(""), kubewatch.Mirror[*discoveryv1.EndpointSlice]{Kind: "EndpointSlice"}, (*world).slice, (*world).noSlice)
	})
	running.Go(func() {
		watch(ctx, s, core.Pods(""), kubewatch.Mirror[*corev1.Pod]{Kind: "Pod", Trim: s.world.trimPod}, (*world).pod, (*world).noPod)
	})
	running.Go(func() {
		watch(ctx, s, s.o.Heads.Resource(corev1.SchemeGroupVersion.WithResource("nodes")), kubewatch.Mirror[*metav1.PartialObjectMetadata]{Kind: "Node"}, (*world).node, (*world).noNode)
	})
	running.Go(func() {
		watch(ctx, s, core.Secrets(s.secrets(ctx)), kubewatch.Mirror[*corev1.Secret]{Kind: "Secret", Fields: withoutCertificates, Trim: trimSecret}, (*world).secret, (*world).noSecret)
	})
	return s.facts.Run(ctx, publish)
}

// secrets is the namespace whose Secrets may be read, "" for all.
func (s *Source) secrets(ctx context.Context) string {
	for {
		_, err := s.o.Client.CoreV1().Secrets("").List(ctx, metav1.ListOptions{Limit: 1, FieldSelector: withoutCertificates})
		switch {
		case err == nil:
			return ""
		case apierrors.IsForbidden(err):
			s.o.Log.Info("gateways find their certificates in one namespace", "namespace", s.o.Namespace, "why", "the ClusterRole of weir-control does not grant Secrets elsewhere")
			return s.o.Namespace
		case ctx.Err() != nil:
			return ""
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

// watch lets the objects of one kind change the world.
func watch[L runtime.Object, O metav1.Object](ctx context.Context, s *Source, client kubewatch.Client[L], m kubewatch.Mirror[O],
	put func(*world, O) []config.Fact, drop func(*world, types.NamespacedName) []config.Fact,
) {
	m.Put = func(o O) { s.change(func(w *world) []config.Fact { return put(w, o) }) }
	m.Drop = func(n types.NamespacedName) { s.change(func(w *world) []config.Fact { return drop(w, n) }) }
	m.Synced = func() { s.facts.Here(m.Kind) }
	if m.Kind == "Secret" { // who may not read them has gateways without TLS, and all else
		m.Refused = m.Synced
	}
	kubewatch.Watch(ctx, s.o.Server, client, m)
}

// change tells of changes in the order in which they were made.
func (s *Source) change(do func(*world) []config.Fact) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range do(s.world) {
		s.facts.Put(f.ID, f)
	}
}

// Why says why a pod is no workload of the mesh, for people; "" if it is one.
func (s *Source) Why(namespace, name string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.world.pods[types.NamespacedName{Namespace: namespace, Name: name}]
	switch {
	case !ok:
		return "the API server has told of no such pod"
	case p.workload == nil && p.ended:
		return "the pod has ended"
	case p.workload == nil:
		return "the pod has no address yet"
	}
	return ""
}

// Shown is what is known of a pod whose token somebody shows from an address: whether it is known with its addresses, whether it has ended, and at which other
// pod the address is; zero if it is its own, or may be that of several: what comes from a node or a gateway may be anybody's.
func (s *Source) Shown(pod types.NamespacedName, uid types.UID, from netip.Addr) (known, ended bool, at types.NamespacedName) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.world.shown(pod, uid, from)
}

// OtherImages finds pods to which the injector of a revision, which gives pods an image, would give another proxy today.
func (s *Source) OtherImages(revision, image string) []config.Finding {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.world.otherImages(revision, image)
}

// Away finds parts of the installation that are not there, or not ready: node agents and replicas of control planes.
func (s *Source) Away() []config.Finding {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.world.away()
}
