package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/weirmesh/weir/ca"
)

// ignoredNamespaces have no workloads of a mesh; Istio leaves the same ones alone.
var ignoredNamespaces = []string{metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease, "local-path-storage"}

const (
	// publishers write at the same time: a cluster of 1,000 namespaces is done within
	// seconds at the client's rate.
	publishers = 4
	// Whoever else writes the same ConfigMap (another control plane beside this one) is
	// answered at most this often in the end, and named.
	repairFirst = time.Second
	repairMost  = 5 * time.Minute
	// repairForget without a repair ends the waiting.
	repairForget = 10 * time.Minute
)

// PublisherOptions are those of a Publisher. Labels may be empty.
type PublisherOptions struct {
	Client    kubernetes.Interface
	Authority ca.Source
	Labels    map[string]string
	Log       *slog.Logger
}

// Publisher keeps the roots in a ConfigMap of every namespace.
type Publisher struct {
	o          PublisherOptions
	queue      workqueue.TypedRateLimitingInterface[string]
	namespaces cache.Store
	maps       cache.Store

	mu      sync.Mutex
	repairs map[string]repair // by namespace
}

// repair is the last one of a namespace's ConfigMap.
type repair struct {
	at   time.Time
	wait time.Duration // until the next
}

// NewPublisher makes a publisher. Its Run is for the leader, once more for every term.
func NewPublisher(o PublisherOptions) (*Publisher, error) {
	if o.Client == nil || o.Authority == nil || o.Log == nil {
		return nil, errors.New("publishing roots: a client, an authority and a logger are required")
	}
	return &Publisher{o: o}, nil
}

// Run publishes until ctx ends.
func (p *Publisher) Run(ctx context.Context) error {
	run := &Publisher{o: p.o, repairs: map[string]repair{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[string](200*time.Millisecond, time.Minute))}
	return run.run(logging(ctx, p.o.Log))
}

func (p *Publisher) run(ctx context.Context) error {
	all := informers.NewSharedInformerFactory(p.o.Client, 0).Core().V1().Namespaces().Informer()
	ours := informers.NewSharedInformerFactoryWithOptions(p.o.Client, 0, informers.WithTweakListOptions(func(l *metav1.ListOptions) {
		l.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, RootConfigMap).String()
	})).Core().V1().ConfigMaps().Informer()
	p.namespaces, p.maps = all.GetStore(), ours.GetStore()
	// Of a namespace only name and state are needed.
	trim := all.SetTransform(func(o any) (any, error) {
		if ns, ok := o.(*corev1.Namespace); ok {
			o = &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns.Name, UID: ns.UID, ResourceVersion: ns.ResourceVersion}, Status: ns.Status}
		}
		return o, nil
	})
	_, err1 := all.AddEventHandler(handler(func(o any) { p.queue.Add(o.(*corev1.Namespace).Name) }))
	_, err2 := ours.AddEventHandler(handler(func(o any) {
		if m := o.(*corev1.ConfigMap); m.Name == RootConfigMap {
			p.queue.Add(m.Namespace)
		}
	}))
	if err := errors.Join(trim, err1, err2); err != nil {
		return fmt.Errorf("publishing roots: %w", err)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { all.RunWithContext(ctx) })
	wg.Go(func() { ours.RunWithContext(ctx) })
	defer p.queue.ShutDown()
	if !cache.WaitForCacheSync(ctx.Done(), all.HasSynced, ours.HasSynced) {
		return nil
	}
	for range publishers {
		wg.Go(func() {
			for p.next(ctx) {
			}
		})
	}
	for {
		_, replaced := p.o.Authority.Watch()
		for _, ns := range p.namespaces.ListKeys() {
			p.queue.Add(ns)
		}
		select {
		case <-replaced:
		case <-ctx.Done():
			return nil
		}
	}
}

func (p *Publisher) next(ctx context.Context) bool {
	ns, end := p.queue.Get()
	if end {
		return false
	}
	defer p.queue.Done(ns)
	switch err := p.publish(ctx, ns); {
	case err == nil || ctx.Err() != nil:
		p.queue.Forget(ns)
	default:
		if p.queue.NumRequeues(ns) == 3 { // conflicts and short outages are nobody's concern
			p.o.Log.Warn("roots cannot be published", "namespace", ns, "configmap", RootConfigMap, "err", err)
		}
		p.queue.AddRateLimited(ns)
	}
	return true
}

// publish makes the ConfigMap of a namespace what it should be.
func (p *Publisher) publish(ctx context.Context, ns string) error {
	o, there, _ := p.namespaces.GetByKey(ns)
	if !there || o.(*corev1.Namespace).Status.Phase == corev1.NamespaceTerminating || slices.Contains(ignoredNamespaces, ns) {
		return nil
	}
	authority, _ := p.o.Authority.Watch()
	roots := string(authority.Bundle().PEM())
	client := p.o.Client.CoreV1().ConfigMaps(ns)
	o, there, _ = p.maps.GetByKey(ns + "/" + RootConfigMap)
	if !there {
		_, err := client.Create(ctx, &corev1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: RootConfigMap, Labels: p.o.Labels},
			Data:       map[string]string{RootKey: roots},
		}, metav1.CreateOptions{})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) || apierrors.IsNotFound(err) {
			return nil // the namespace went meanwhile
		}
		return err
	}
	held := o.(*corev1.ConfigMap)
	labelled := !slices.ContainsFunc(slices.Collect(maps.Keys(p.o.Labels)), func(k string) bool { return held.Labels[k] != p.o.Labels[k] })
	if held.Data[RootKey] == roots && labelled {
		return nil
	}
	// Our own roots of before are replaced at once; what somebody else wrote, with patience.
	if wait := p.patience(ns, held); wait > 0 {
		p.queue.AddAfter(ns, wait)
		return nil
	}
	m := held.DeepCopy()
	if m.Labels == nil {
		m.Labels = map[string]string{}
	}
	maps.Copy(m.Labels, p.o.Labels)
	if m.Data == nil {
		m.Data = map[string]string{}
	}
	m.Data[RootKey] = roots
	_, err := client.Update(ctx, m, metav1.UpdateOptions{}) // of the version read: who wrote since then is seen first
	if apierrors.IsNotFound(err) {
		return nil // the event of that is on its way
	}
	return err
}

// patience is how long to wait before a ConfigMap is repaired: the longer, the more often it
// had to be.
func (p *Publisher) patience(ns string, held *corev1.ConfigMap) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	r := p.repairs[ns]
	if wait := r.at.Add(r.wait).Sub(now); wait > 0 {
		return wait
	}
	if now.Sub(r.at) > r.wait+repairForget {
		r = repair{}
	}
	r = repair{now, min(max(2*r.wait, repairFirst), repairMost)}
	p.repairs[ns] = r
	if r.wait > 8*repairFirst {
		p.o.Log.Warn("somebody else writes the ConfigMap of the roots; pods that mount it may trust another control plane", "namespace", ns, "configmap", RootConfigMap,
			"writer", lastWriter(held), "repaired_again_after", r.wait)
	}
	return 0
}

func lastWriter(m *corev1.ConfigMap) string {
	var last metav1.ManagedFieldsEntry
	for _, f := range m.ManagedFields {
		if f.Time != nil && (last.Time == nil || last.Time.Before(f.Time)) {
			last = f
		}
	}
	return last.Manager
}
