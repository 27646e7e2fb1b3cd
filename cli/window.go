package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirmesh/weir/cli/client"
	"github.com/weirmesh/weir/config/document"
)

// window is the way to the admin interface of one proxy: on this machine a socket in the
// state folder, which only its owner may use; in a cluster a port of its pod, through the API
// server. Commands know this type and not the way.
type window struct {
	name string // namespace/name of the workload
	ask  func(ctx context.Context, method, path string) (*http.Response, error)
}

// window opens the way to the proxy of a workload: a pod, or a Deployment, of which one
// pod is asked; as name, namespace/name or, as istioctl has it, name.namespace.
func (a *app) window(ctx context.Context, workload, namespace string) (*window, error) {
	if inCluster, err := a.inCluster(); err != nil {
		return nil, err
	} else if inCluster {
		return a.podWindow(ctx, workload, namespace)
	}
	if ns, name, ok := strings.Cut(workload, "/"); ok {
		namespace, workload = ns, name
	}
	if namespace == "" {
		namespace = a.namespace()
	}
	known := a.proxyNames()
	found := podsOf(known, namespace, workload)
	if dot := strings.LastIndexByte(workload, '.'); len(found) == 0 && dot > 0 {
		if pods := podsOf(known, workload[dot+1:], workload[:dot]); len(pods) > 0 {
			namespace, workload, found = workload[dot+1:], workload[:dot], pods
		}
	}
	switch {
	case len(known) == 0:
		return nil, client.ErrNoMesh
	case len(found) == 0:
		hint := "proxies: " + joined(known)
		if near := document.Suggest(namespace+"/"+workload, known); near != "" {
			hint = "did you mean " + near + "?"
		}
		return nil, hinted(hint, "%s/%s has no proxy", namespace, workload)
	case len(found) > 1:
		a.errs.printf("%s/%s is asked, one of %d\n", namespace, found[0], len(found))
	}
	name := namespace + "/" + found[0]
	socket := a.adminSocket(name)
	return &window{name, func(ctx context.Context, method, path string) (*http.Response, error) {
		return askProxy(ctx, socket, method, path)
	}}, nil
}

// inCluster reports whether proxies of a cluster are meant, by the rules of mesh.
func (a *app) inCluster() (bool, error) {
	switch {
	case a.api != "":
		return false, nil
	case a.meant.Kubeconfig == "" && a.meant.Context == "":
		if _, err := client.Open(a.state); !errors.Is(err, client.ErrNoMesh) || len(a.proxyNames()) > 0 || !a.kubectl() {
			return false, nil
		}
	}
	return true, a.open()
}

// podWindow is window in a cluster: port 15000 of the pod, on its own loopback.
func (a *app) podWindow(ctx context.Context, workload, namespace string) (*window, error) {
	split(&namespace, &workload)
	if namespace == "" {
		namespace = a.namespace()
	}
	find := func(namespace, workload string) (found, known []string, err error) {
		pods, err := a.cluster.Client().CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		if err != nil {
			return nil, nil, fmt.Errorf("listing pods: %w", err)
		}
		found, known = withProxy(pods.Items, workload)
		return found, known, nil
	}
	found, known, err := find(namespace, workload)
	if dot := strings.LastIndexByte(workload, '.'); err == nil && len(found) == 0 && dot > 0 {
		if pods, _, err := find(workload[dot+1:], workload[:dot]); err == nil && len(pods) > 0 {
			namespace, found = workload[dot+1:], pods
		}
	}
	switch {
	case err != nil:
		return nil, err
	case len(found) == 0:
		hint := "no pod in namespace " + namespace + " has a proxy: -n names another namespace"
		if near := document.Suggest(workload, known); near != "" {
			hint = "did you mean " + near + "?"
		} else if len(known) > 0 {
			hint = "pods with a proxy: " + few(known)
		}
		return nil, hinted(hint, "%s/%s has no proxy", namespace, workload)
	case len(found) > 1:
		a.errs.printf("%s/%s is asked, one of %d\n", namespace, found[0], len(found))
	}
	way := a.cluster.Pod(namespace, found[0], adminPort)
	return &window{namespace + "/" + found[0], func(ctx context.Context, method, path string) (*http.Response, error) {
		return askVia(ctx, way.Dial, method, path)
	}}, nil
}

// withProxy are the pods that run with a proxy, and those of them that a name means: that of a pod, or else of their Deployment.
func withProxy(pods []corev1.Pod, workload string) (found, known []string) {
	for i := range pods {
		p := &pods[i]
		if p.Status.Phase != corev1.PodRunning || !slices.ContainsFunc(slices.Concat(p.Spec.InitContainers, p.Spec.Containers), func(c corev1.Container) bool { return c.Name == proxyContainers[0] }) {
			continue
		}
		if known = append(known, p.Name); ownerOf(p) == workload {
			found = append(found, p.Name)
		}
	}
	if slices.Contains(known, workload) {
		found = []string{workload}
	}
	return found, known
}

// ownerOf is the Deployment, StatefulSet, … that a pod belongs to; "" if there is none.
func ownerOf(p *corev1.Pod) string {
	o := metav1.GetControllerOf(p)
	if o == nil {
		return ""
	}
	if hash := p.Labels["pod-template-hash"]; o.Kind == "ReplicaSet" && hash != "" {
		return strings.TrimSuffix(o.Name, "-"+hash)
	}
	return o.Name
}

// podsOf are the pods called workload, or else those of the Deployment called so, which
// are named like it, with their ordinal.
func podsOf(known []string, namespace, workload string) []string {
	var found []string
	for _, name := range known {
		ns, pod, _ := strings.Cut(name, "/")
		if ns != namespace {
			continue
		}
		if pod == workload {
			return []string{pod}
		}
		if ordinal, ok := strings.CutPrefix(pod, workload+"-"); ok && strings.Trim(ordinal, "0123456789") == "" {
			found = append(found, pod)
		}
	}
	return found
}

// get reads what the proxy answers to a GET; the caller closes it.
func (w *window) get(ctx context.Context, path string) (io.ReadCloser, error) {
	resp, err := w.ask(ctx, http.MethodGet, path)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer func() { _ = resp.Body.Close() }()
	const most = 4 << 10
	why, err := io.ReadAll(io.LimitReader(resp.Body, most))
	if err != nil {
		return nil, fmt.Errorf("reading the proxy's answer: %w", err)
	}
	return nil, fmt.Errorf("the proxy of %s answers %s: %s", w.name, resp.Status, strings.TrimSpace(string(why)))
}
