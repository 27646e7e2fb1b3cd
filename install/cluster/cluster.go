// Package cluster puts an installation into a Kubernetes cluster, takes it out again, and
// says whether it is whole.
//
// A kubeconfig and an install.Release enter; objects in the cluster, lines of progress and
// errors with their remedies leave. Called by cli. A Cluster may be used from one
// goroutine at a time.
package cluster

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"

	"github.com/weirmesh/weir/internal/kubeconfig"
)

// Manager is the field manager of what is applied.
const Manager = "weir"

// Cluster is a connection.
type Cluster struct {
	Context string // of the kubeconfig
	Server  string // URL of the API server
	Version string // as in v1.34.4

	// Replace lets Install make anew what Kubernetes does not let change.
	Replace bool

	config  *rest.Config
	typed   kubernetes.Interface
	dynamic dynamic.Interface
	mapper  *restmapper.DeferredDiscoveryRESTMapper
	say     func(string)
}

// Config is how the API server is reached.
func (c *Cluster) Config() *rest.Config { return c.config }

// Client is for what is not about installing.
func (c *Cluster) Client() kubernetes.Interface { return c.typed }

// Connect reads the kubeconfig (path empty: as kubectl does) and asks the API server for
// its version. say gets lines of progress.
func Connect(path, contextName string, say func(string)) (*Cluster, error) {
	config, err := kubeconfig.Load(path, contextName)
	if err != nil {
		return nil, err
	}
	config.REST.QPS, config.REST.Burst = 100, 200 // an installation is some 50 objects
	var one sync.Mutex                            // lines come from timers, too
	c := &Cluster{Context: config.Context, Server: config.REST.Host, config: config.REST, say: func(line string) {
		one.Lock()
		defer one.Unlock()
		say(line)
	}}
	config.REST.Wrap(func(next http.RoundTripper) http.RoundTripper { return &patient{next: next, say: c.say} })
	if c.typed, err = kubernetes.NewForConfig(config.REST); err != nil {
		return nil, err
	}
	if c.dynamic, err = dynamic.NewForConfig(config.REST); err != nil {
		return nil, err
	}
	v, err := c.typed.Discovery().ServerVersion()
	if err != nil {
		return nil, config.Unreachable("asking the cluster", err)
	}
	c.Version = v.GitVersion
	c.mapper = restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.typed.Discovery()))
	return c, nil
}

// resource is where objects of o's kind are.
func (c *Cluster) resource(gvk schema.GroupVersionKind, namespace string) (dynamic.ResourceInterface, error) {
	m, err := c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	if meta.IsNoMatchError(err) {
		c.mapper.Reset() // a definition that was made since
		m, err = c.mapper.RESTMapping(gvk.GroupKind(), gvk.Version)
	}
	if err != nil {
		return nil, err
	}
	if m.Scope.Name() == meta.RESTScopeNameNamespace {
		return c.dynamic.Resource(m.Resource).Namespace(namespace), nil
	}
	return c.dynamic.Resource(m.Resource), nil
}

// apply makes one object what o says, whoever changed it.
func (c *Cluster) apply(ctx context.Context, o *unstructured.Unstructured) error {
	r, err := c.resource(o.GroupVersionKind(), o.GetNamespace())
	if err != nil {
		return fmt.Errorf("%s: %w", title(o), err)
	}
	if _, err = r.Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: Manager, Force: true}); err != nil {
		return c.refused(o, err)
	}
	return nil
}

// refused says in plain words why an object was not taken.
func (c *Cluster) refused(o *unstructured.Unstructured, err error) error {
	switch {
	case apierrors.IsForbidden(err):
		return kubeconfig.Hinted("ask somebody who may, or for these rights: `weir install --dry-run` shows what is made", "%s: the cluster does not allow it: %w", title(o), err)
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		return fmt.Errorf("%s: the cluster refuses it: %w", title(o), err)
	case apierrors.IsInternalError(err) && strings.Contains(err.Error(), "failed calling webhook"):
		return kubeconfig.Hinted("a webhook of the cluster does not answer: mend or remove it (kubectl get mutatingwebhookconfigurations,validatingwebhookconfigurations)", "%s: %w", title(o), err)
	}
	return fmt.Errorf("%s: %w", title(o), err)
}

// title names an object as kubectl does.
func title(o *unstructured.Unstructured) string {
	t := strings.ToLower(o.GetKind()) + "/" + o.GetName()
	if o.GetNamespace() != "" {
		t += " in " + o.GetNamespace()
	}
	return t
}
