// Package cluster is what tests need of a Kubernetes cluster: namespaces that end with the
// test, objects from YAML, conditions waited for, commands and logs of containers, and a
// list of all there is.
//
// The kubeconfig of KUBECONFIG enters, any cluster's; without it the test skips. Called by
// the tests under test/kube. A Cluster belongs to one test and may be used by its
// goroutines.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"
)

// Patience is how long anything may take that needs no image and no program of ours.
const Patience = 30 * time.Second

// prefix of the names of tests' namespaces.
const prefix = "weir-e2e-"

// Cluster is the API server, and a namespace of the test's own.
type Cluster struct {
	T         *testing.T
	Config    *rest.Config
	Client    kubernetes.Interface
	Objects   dynamic.Interface
	Namespace string

	mu       sync.Mutex
	kinds    meta.RESTMapper
	warnings []string
}

// Connect skips without KUBECONFIG. The namespace has the labels given, as KEY=VALUE.
func Connect(t *testing.T, labels ...string) *Cluster {
	t.Helper()
	file := os.Getenv("KUBECONFIG")
	if file == "" {
		t.Skip("KUBECONFIG names no cluster: ../shared/kube/up.sh makes one, and make e2e takes any")
	}
	c := &Cluster{T: t}
	var err error
	if c.Config, err = clientcmd.BuildConfigFromFlags("", file); err != nil {
		t.Fatal(err)
	}
	c.Config.QPS, c.Config.Burst, c.Config.WarningHandler = 500, 1000, c
	c.Client, c.Objects = kubernetes.NewForConfigOrDie(c.Config), dynamic.NewForConfigOrDie(c.Config)
	c.discover()
	c.Namespace = c.NewNamespace(labels...)
	return c
}

// In is the same cluster and namespace for a subtest.
func (c *Cluster) In(t *testing.T) *Cluster {
	return &Cluster{T: t, Config: c.Config, Client: c.Client, Objects: c.Objects, Namespace: c.Namespace, kinds: c.kinds}
}

// NewNamespace makes one that ends with the test; labels are KEY=VALUE.
func (c *Cluster) NewNamespace(labels ...string) string {
	c.T.Helper()
	m := map[string]string{}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		m[k] = v
	}
	ns, err := c.Client.CoreV1().Namespaces().Create(c.T.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: prefix, Labels: m}}, metav1.CreateOptions{})
	if err != nil {
		c.T.Fatal(err)
	}
	c.T.Cleanup(func() { c.EndNamespace(ns.Name) })
	// Pods are refused before the namespace has its service account.
	c.Eventually("the namespace has its service account", func() bool {
		_, err := c.Client.CoreV1().ServiceAccounts(ns.Name).Get(c.T.Context(), "default", metav1.GetOptions{})
		return err == nil
	})
	return ns.Name
}

// EndNamespace deletes one that may be gone already.
func (c *Cluster) EndNamespace(name string) {
	if err := c.Client.CoreV1().Namespaces().Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		c.T.Error(err)
	}
}

// AwaitNamespaces waits until those of earlier tests are gone, but for our own and those named.
func (c *Cluster) AwaitNamespaces(but ...string) {
	c.T.Helper()
	c.Until("earlier tests' namespaces are gone", 2*time.Minute, func() string {
		l, err := c.Client.CoreV1().Namespaces().List(c.T.Context(), metav1.ListOptions{})
		if err != nil {
			return err.Error()
		}
		for _, ns := range l.Items {
			if strings.HasPrefix(ns.Name, prefix) && ns.Name != c.Namespace && !slices.Contains(but, ns.Name) {
				return ns.Name + " is " + string(ns.Status.Phase)
			}
		}
		return ""
	})
}

// HandleWarningHeader keeps what the API server warned of; it is rest.WarningHandler's.
func (c *Cluster) HandleWarningHeader(_ int, _ string, text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.warnings = append(c.warnings, text)
}

// Warnings are those since the last call.
func (c *Cluster) Warnings() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := c.warnings
	c.warnings = nil
	return out
}

// discover asks which kinds there are, again and again if need be: an API server on a busy
// machine may not answer at once.
func (c *Cluster) discover() {
	c.T.Helper()
	c.Until("the API server says what it serves", Patience, func() string {
		groups, err := restmapper.GetAPIGroupResources(discovery.NewDiscoveryClientForConfigOrDie(c.Config))
		if err != nil {
			return err.Error()
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.kinds = restmapper.NewDiscoveryRESTMapper(groups)
		return ""
	})
}

func (c *Cluster) mapping(u *unstructured.Unstructured) (*meta.RESTMapping, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kinds.RESTMapping(u.GroupVersionKind().GroupKind(), u.GroupVersionKind().Version)
}

// Serves reports whether the cluster knows a kind.
func (c *Cluster) Serves(apiVersion, kind string) bool {
	c.discover()
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind}}
	_, err := c.mapping(u)
	return err == nil
}

// each finds where the objects of a text are kept; those without a namespace are in ours.
func (c *Cluster) each(text string, do func(dynamic.ResourceInterface, *unstructured.Unstructured) error) error {
	d := yaml.NewYAMLOrJSONDecoder(strings.NewReader(text), 4096)
	for {
		u := &unstructured.Unstructured{}
		if err := d.Decode(&u.Object); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if len(u.Object) == 0 {
			continue
		}
		var m *meta.RESTMapping
		c.Eventually(u.GetKind()+" is served", func() bool {
			var err error
			if m, err = c.mapping(u); err != nil {
				c.discover()
			}
			return err == nil
		})
		var r dynamic.ResourceInterface = c.Objects.Resource(m.Resource)
		if m.Scope.Name() == meta.RESTScopeNameNamespace {
			if u.GetNamespace() == "" {
				u.SetNamespace(c.Namespace)
			}
			r = c.Objects.Resource(m.Resource).Namespace(u.GetNamespace())
		}
		if err := do(r, u); err != nil {
			return fmt.Errorf("%s %s: %w", u.GetKind(), u.GetName(), err)
		}
	}
}

// TryApply applies objects in YAML as kubectl --server-side does, until one is refused.
func (c *Cluster) TryApply(text string) error {
	c.T.Helper()
	return c.each(text, func(r dynamic.ResourceInterface, u *unstructured.Unstructured) error {
		_, err := r.Apply(c.T.Context(), u.GetName(), u, metav1.ApplyOptions{FieldManager: "weir-e2e", Force: true})
		return err
	})
}

// Apply is TryApply that must succeed.
func (c *Cluster) Apply(text string) {
	c.T.Helper()
	if err := c.TryApply(text); err != nil {
		c.T.Fatal(err)
	}
}

// ApplyFile applies a file.
func (c *Cluster) ApplyFile(name string) {
	c.T.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		c.T.Fatal(err)
	}
	c.Apply(string(b))
}

// Delete deletes objects; those that are not there are no error.
func (c *Cluster) Delete(text string) {
	c.T.Helper()
	err := c.each(text, func(r dynamic.ResourceInterface, u *unstructured.Unstructured) error {
		if err := r.Delete(context.WithoutCancel(c.T.Context()), u.GetName(), metav1.DeleteOptions{}); !apierrors.IsNotFound(err) {
			return err
		}
		return nil
	})
	if err != nil {
		c.T.Fatal(err)
	}
}

// Get is one object as the API server has it, nil if there is none.
func (c *Cluster) Get(apiVersion, kind, namespace, name string) *unstructured.Unstructured {
	c.T.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": apiVersion, "kind": kind}}
	m, err := c.mapping(u)
	if err != nil {
		c.discover()
		if m, err = c.mapping(u); err != nil {
			return nil
		}
	}
	got, err := c.Objects.Resource(m.Resource).Namespace(namespace).Get(c.T.Context(), name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		c.T.Fatal(err)
	}
	if err != nil {
		return nil
	}
	return got
}

// Eventually waits, for Patience, until ok.
func (c *Cluster) Eventually(what string, ok func() bool) {
	c.T.Helper()
	c.Until(what, Patience, func() string {
		if ok() {
			return ""
		}
		return "no"
	})
}

// Until waits until why is empty; if it never is, the test ends with what it said last. Cleanups
// may wait, too.
func (c *Cluster) Until(what string, patience time.Duration, why func() string) {
	c.T.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(patience); ; {
		last := why()
		if last == "" {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			c.T.Fatalf("not after %v: %s: %s", patience, what, last)
		}
	}
}

// volatile are kinds whose objects come and go by themselves.
var volatile = []string{"events"}

// All lists every object of the cluster, as "resource.group namespace/name", sorted.
func (c *Cluster) All() []string {
	c.T.Helper()
	lists, err := c.Client.Discovery().ServerPreferredResources()
	if err != nil {
		c.T.Fatal(err)
	}
	var out []string
	for _, l := range lists {
		for _, r := range l.APIResources {
			if !slices.Contains(r.Verbs, "list") || slices.Contains(volatile, r.Name) {
				continue
			}
			at := fromGroup(l.GroupVersion, r.Name)
			got, err := c.Objects.Resource(at).List(c.T.Context(), metav1.ListOptions{})
			if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
				continue // gone since, or only said to be listed
			}
			if err != nil {
				c.T.Fatalf("listing %s: %v", at, err)
			}
			for _, o := range got.Items {
				// A cluster that has just begun writes the leases of its nodes and API servers late.
				if r.Name == "leases" && strings.HasPrefix(o.GetNamespace(), "kube-") {
					continue
				}
				out = append(out, at.GroupResource().String()+" "+o.GetNamespace()+"/"+o.GetName())
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
