package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"

	"github.com/weirmesh/weir/cli/archive"
	"github.com/weirmesh/weir/cli/client"
	"github.com/weirmesh/weir/cli/forward"
)

// proxyContainers are the mesh's own in a pod, the proxy first.
var proxyContainers = []string{"istio-proxy", "istio-init", "istio-validation"}

// adminPort is where a proxy in a pod answers its own loopback.
const adminPort = 15000

// clusterParts are the objects, events, logs and proxies of the mesh in a cluster.
func (a *app) clusterParts(ctx context.Context, c *client.Client, o *collection, missing map[string]error) (out []chapter, end func()) {
	out, pods := kubeParts(ctx, a.cluster.Client(), a.cluster.Installation(), o, missing)
	var ways []*forward.Pod
	var pieces []archive.Piece
	for _, n := range worst(ctx, c, pods, o, missing) {
		ns, pod, _ := strings.Cut(n, "/")
		way := a.cluster.Pod(ns, pod, adminPort)
		ways = append(ways, way)
		pieces = append(pieces, proxyPieces("proxies/"+n, way.Dial)...)
	}
	return append(out, chapter{"proxies", pieces}), func() {
		for _, w := range ways {
			_ = w.Close()
		}
	}
}

// kubeParts are what the API server has; proxied are the pods with a proxy, as namespace/name.
func kubeParts(ctx context.Context, k kubernetes.Interface, installation string, o *collection, missing map[string]error) (out []chapter, proxied []string) {
	ctx, cancel := context.WithTimeout(ctx, pieceTime)
	defer cancel()
	objects := []archive.Piece{
		{Name: "kubernetes/version.json", Fetch: func(context.Context) ([]byte, error) {
			v, err := k.Discovery().ServerVersion()
			return indented(v, err)
		}},
		{Name: "kubernetes/resources.json", Fetch: func(context.Context) ([]byte, error) {
			_, v, err := k.Discovery().ServerGroupsAndResources()
			return indented(v, err)
		}},
		listed("kubernetes/nodes.json", func(ctx context.Context) (runtime.Object, error) {
			return k.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		}),
		listed("kubernetes/mutatingwebhookconfigurations.json", func(ctx context.Context) (runtime.Object, error) {
			return k.AdmissionregistrationV1().MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
		}),
		listed("kubernetes/validatingwebhookconfigurations.json", func(ctx context.Context) (runtime.Object, error) {
			return k.AdmissionregistrationV1().ValidatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
		}),
	}
	pods, err := k.CoreV1().Pods(metav1.NamespaceAll).List(ctx, metav1.ListOptions{})
	if err != nil {
		missing["kubernetes/pods of all namespaces"] = err
		if pods, err = k.CoreV1().Pods(installation).List(ctx, metav1.ListOptions{}); err != nil {
			missing["kubernetes/pods of "+installation] = err
			pods = &corev1.PodList{}
		}
	}
	namespaces := []string{}
	if o.wants(installation) {
		namespaces = append(namespaces, installation)
	}
	var logs []archive.Piece
	for i := range pods.Items {
		p := &pods.Items[i]
		if !o.wants(p.Namespace) {
			continue
		}
		has := slices.ContainsFunc(slices.Concat(p.Spec.InitContainers, p.Spec.Containers), func(c corev1.Container) bool { return c.Name == proxyContainers[0] })
		if has {
			proxied = append(proxied, p.Namespace+"/"+p.Name)
			if !slices.Contains(namespaces, p.Namespace) {
				namespaces = append(namespaces, p.Namespace)
			}
		}
		logs = append(logs, podLogs(k, p, p.Namespace == installation, o)...)
	}
	slices.Sort(namespaces)
	for _, ns := range namespaces {
		objects = append(objects, namespaceObjects(k, ns, ns == installation)...)
	}
	return []chapter{{"objects of Kubernetes", objects}, {"logs", logs}}, proxied
}

// namespaceObjects are those of a namespace of the mesh. Secrets are not asked for.
func namespaceObjects(k kubernetes.Interface, ns string, own bool) []archive.Piece {
	all := metav1.ListOptions{}
	file := func(kind string) string { return "kubernetes/" + ns + "/" + kind + ".json" }
	out := []archive.Piece{
		listed(file("namespace"), func(ctx context.Context) (runtime.Object, error) {
			return k.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{})
		}),
		listed(file("pods"), func(ctx context.Context) (runtime.Object, error) { return k.CoreV1().Pods(ns).List(ctx, all) }),
		listed(file("services"), func(ctx context.Context) (runtime.Object, error) { return k.CoreV1().Services(ns).List(ctx, all) }),
		listed(file("endpointslices"), func(ctx context.Context) (runtime.Object, error) {
			return k.DiscoveryV1().EndpointSlices(ns).List(ctx, all)
		}),
		listed(file("deployments"), func(ctx context.Context) (runtime.Object, error) { return k.AppsV1().Deployments(ns).List(ctx, all) }),
		listed(file("daemonsets"), func(ctx context.Context) (runtime.Object, error) { return k.AppsV1().DaemonSets(ns).List(ctx, all) }),
		listed(file("statefulsets"), func(ctx context.Context) (runtime.Object, error) { return k.AppsV1().StatefulSets(ns).List(ctx, all) }),
		listed(file("events"), func(ctx context.Context) (runtime.Object, error) { return k.CoreV1().Events(ns).List(ctx, all) }),
	}
	if own {
		out = append(out, listed(file("configmaps"), func(ctx context.Context) (runtime.Object, error) { return k.CoreV1().ConfigMaps(ns).List(ctx, all) }),
			listed(file("leases"), func(ctx context.Context) (runtime.Object, error) { return k.CoordinationV1().Leases(ns).List(ctx, all) }),
			listed(file("poddisruptionbudgets"), func(ctx context.Context) (runtime.Object, error) {
				return k.PolicyV1().PodDisruptionBudgets(ns).List(ctx, all)
			}),
			listed(file("horizontalpodautoscalers"), func(ctx context.Context) (runtime.Object, error) {
				return k.AutoscalingV2().HorizontalPodAutoscalers(ns).List(ctx, all)
			}))
	}
	return out
}

func listed(name string, list func(context.Context) (runtime.Object, error)) archive.Piece {
	return archive.Piece{Name: name, Fetch: func(ctx context.Context) ([]byte, error) { v, err := list(ctx); return indented(v, err) }}
}

// indented is v as JSON, also where there is an error beside it.
func indented(v any, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	return json.MarshalIndent(v, "", " ")
}

// podLogs are those of the mesh's own containers: all of a pod of the installation, and what ran before they were restarted.
func podLogs(k kubernetes.Interface, p *corev1.Pod, own bool, o *collection) (out []archive.Piece) {
	restarts := map[string]int32{}
	for _, s := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
		restarts[s.Name] = s.RestartCount
	}
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		if !own && !slices.Contains(proxyContainers, c.Name) {
			continue
		}
		for _, before := range []bool{false, true} {
			if before && restarts[c.Name] == 0 {
				continue
			}
			name := fmt.Sprintf("logs/%s/%s/%s%s.log", p.Namespace, p.Name, c.Name, map[bool]string{true: "-before"}[before])
			l := &corev1.PodLogOptions{Container: c.Name, Previous: before, SinceSeconds: new(int64(cmp.Or(o.since.Seconds(), 1))), TailLines: new(int64(o.tail)), LimitBytes: new(2 * o.piece * mebibyte)}
			if before {
				l.SinceSeconds = nil // why it ended is wanted, whenever that was
			}
			out = append(out, archive.Piece{Name: name, Fetch: func(ctx context.Context) ([]byte, error) {
				return k.CoreV1().Pods(p.Namespace).GetLogs(p.Name, l).DoRaw(ctx)
			}})
		}
	}
	return out
}
