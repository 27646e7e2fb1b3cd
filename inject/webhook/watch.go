package webhook

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/version"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	listersv1 "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/inject"
	"github.com/weirmesh/weir/internal/backoff"
	"github.com/weirmesh/weir/mesh"
)

// MeshConfigName is the ConfigMap with the MeshConfig, and MeshConfigKey its key.
const (
	MeshConfigName = "istio"
	MeshConfigKey  = "mesh"
)

// Watcher follows what an installation says about injection, and the labels of namespaces.
type Watcher struct {
	client  kubernetes.Interface
	base    inject.Source // what is no ConfigMap's
	version string
	log     *slog.Logger

	state    atomic.Pointer[watched]
	mu       sync.Mutex // of texts
	texts    map[string]map[string]string
	labels   atomic.Pointer[listersv1.NamespaceLister]
	findings atomic.Pointer[[]config.Finding]
}

type watched struct {
	settings *inject.Settings
	err      error
}

// NewWatcher makes a Watcher of the ConfigMaps in base.Namespace. Of base it uses what
// they do not say; version is the tag of images if they do not name one.
func NewWatcher(client kubernetes.Interface, base inject.Source, version string, log *slog.Logger) *Watcher {
	w := &Watcher{client: client, base: base, version: version, log: log, texts: map[string]map[string]string{}}
	w.state.Store(&watched{err: errors.New("the ConfigMaps " + MeshConfigName + " and " + inject.ConfigMapName + " are not read yet")})
	return w
}

// Settings is what is in force; after a text that cannot be read the one before.
func (w *Watcher) Settings() (*inject.Settings, error) {
	s := w.state.Load()
	return s.settings, s.err
}

// Findings are about settings without effect, and texts that could not be read.
func (w *Watcher) Findings() []config.Finding {
	if f := w.findings.Load(); f != nil {
		return *f
	}
	return nil
}

// Labels of a namespace; nil if it is not known.
func (w *Watcher) Labels(namespace string) map[string]string {
	l := w.labels.Load()
	if l == nil {
		return nil
	}
	ns, err := (*l).Get(namespace)
	if err != nil {
		return nil
	}
	return ns.Labels
}

// Run watches until ctx ends.
func (w *Watcher) Run(ctx context.Context) error {
	wait := backoff.Backoff{Min: 100 * time.Millisecond, Max: 10 * time.Second}
	for {
		native, err := NativeSidecars(ctx, w.client)
		if err == nil {
			w.base.NativeSidecars = native
			w.log.Info("proxies are put into pods", "native_sidecars", native)
			break
		}
		w.log.Warn("asking which Kubernetes this is", "err", err)
		if wait.Wait(ctx) != nil {
			return nil
		}
	}
	all := informers.NewSharedInformerFactory(w.client, 0)
	namespaces := all.Core().V1().Namespaces()
	if err := namespaces.Informer().SetTransform(func(o any) (any, error) {
		if ns, ok := o.(*corev1.Namespace); ok {
			return &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns.Name, Labels: ns.Labels, ResourceVersion: ns.ResourceVersion}}, nil
		}
		return o, nil
	}); err != nil {
		return err
	}
	lister := namespaces.Lister()
	w.labels.Store(&lister)
	factories := []informers.SharedInformerFactory{all}
	for _, name := range []string{MeshConfigName + w.suffix(), inject.ConfigMapName + w.suffix()} {
		f := informers.NewSharedInformerFactoryWithOptions(w.client, 0, informers.WithNamespace(w.base.Namespace), informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
		}))
		took := func(o any) {
			if c, ok := o.(*corev1.ConfigMap); ok {
				w.take(name, c.Data)
			}
		}
		if _, err := f.Core().V1().ConfigMaps().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: took, UpdateFunc: func(_, o any) { took(o) },
			// One that is gone is about to come back, or everything is about to go.
			DeleteFunc: func(any) {
				w.log.Warn("a ConfigMap of the injector is gone: what it said stays in force", "name", name)
			},
		}); err != nil {
			return err
		}
		factories = append(factories, f)
	}
	for _, f := range factories {
		f.Start(ctx.Done())
	}
	<-ctx.Done()
	for _, f := range factories {
		f.Shutdown()
	}
	return nil
}

func (w *Watcher) suffix() string {
	if w.base.Revision == "" || w.base.Revision == "default" {
		return ""
	}
	return "-" + w.base.Revision
}

// take reads settings anew with what a ConfigMap says now.
func (w *Watcher) take(name string, data map[string]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.texts[name] = data
	own, settings := w.texts[inject.ConfigMapName+w.suffix()], w.texts[MeshConfigName+w.suffix()]
	if own == nil || settings == nil {
		return // the other one first
	}
	src := w.base
	src.Config, src.Values, src.Mesh = own[inject.ConfigKey], own[inject.ValuesKey], settings[MeshConfigKey]
	s, findings, err := inject.NewSettings(src, w.version)
	if err != nil {
		w.log.Error("settings of the injector cannot be read; those before stay in force", "err", err)
		w.findings.Store(&[]config.Finding{config.New(config.InjectorSetting, mesh.Ref{Kind: "ConfigMap", Namespace: w.base.Namespace, Name: inject.ConfigMapName + w.suffix()}, "", 0,
			"cannot be read, and what it said before stays in force: "+err.Error(), "correct it, or install again")})
		if w.state.Load().settings == nil {
			w.state.Store(&watched{err: err})
		}
		return
	}
	w.findings.Store(&findings)
	for _, f := range findings {
		w.log.Warn("a setting of the injector has no effect", "finding", f.String())
	}
	w.state.Store(&watched{settings: s})
}

// NativeSidecars reports whether every node runs init containers that stay: Kubernetes
// 1.29 and later. A kubelet may be three versions behind its API server
// (kubernetes.io/releases/version-skew-policy, as of 1.34); an older one would wait for
// the proxy to end before it starts the application.
func NativeSidecars(ctx context.Context, client kubernetes.Interface) (bool, error) {
	const since = 29
	info, err := client.Discovery().ServerVersion()
	if err != nil {
		return false, fmt.Errorf("asking the API server for its version: %w", err)
	}
	v, err := version.ParseGeneric(info.GitVersion)
	if err != nil {
		return false, fmt.Errorf("the API server's version: %w", err)
	}
	if v.Major() != 1 || v.Minor() >= since+3 {
		return true, nil
	}
	if v.Minor() < since {
		return false, nil
	}
	nodes, err := client.CoreV1().Nodes().List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if apierrors.IsForbidden(err) {
		return false, nil // what works everywhere
	}
	if err != nil {
		return false, fmt.Errorf("listing nodes: %w", err)
	}
	for _, n := range nodes.Items {
		k, err := version.ParseGeneric(n.Status.NodeInfo.KubeletVersion)
		if err != nil || k.Minor() < since {
			return false, nil
		}
	}
	return true, nil
}
