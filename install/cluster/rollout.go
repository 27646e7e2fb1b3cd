package cluster

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/weirmesh/weir/internal/kubeconfig"
)

// imagePatience is how long an image may fail to be pulled before it is taken to be
// missing: registries hiccup, and people shall not wait longer than half a minute.
const imagePatience = 15 * time.Second

// crashes after which a pod is taken to be broken.
const crashes = 3

// runs reports whether an object's pods are waited for.
func runs(o *unstructured.Unstructured) bool {
	return o.GetKind() == "Deployment" || o.GetKind() == "DaemonSet"
}

// rollout waits until a Deployment or DaemonSet runs as it should. It does not wait for what will not
// come: an image that is not there, a program that crashes.
func (c *Cluster) rollout(ctx context.Context, kind, namespace, name string) error {
	what := strings.ToLower(kind) + " " + name
	var noImage time.Time
	var broken, imageless error
	err := c.until(ctx, what, func() (string, error) {
		behind, selector, err := c.unready(ctx, kind, namespace, name)
		if err != nil || behind == "" {
			return "", err
		}
		if strings.HasPrefix(behind, "the cluster refuses") {
			broken = kubeconfig.Hinted("see `kubectl describe replicaset -n "+namespace+"`", "%s: %s", what, behind)
			return "", broken
		}
		pods, err := c.typed.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: metav1.FormatLabelSelector(selector)})
		if err != nil {
			return "", err
		}
		why := ""
		pulling := false
		for i := range pods.Items {
			p := &pods.Items[i]
			t := judge(p)
			why = cmp.Or(why, t.why)
			if t.image != "" {
				pulling = true
				if noImage.IsZero() {
					noImage = time.Now()
				}
				imageless = kubeconfig.Hinted("load it into the cluster's nodes, or name a registry that has it: --hub, --tag, --image-pull-policy", "image %s cannot be pulled: %s", t.image, t.detail)
				if time.Since(noImage) > imagePatience {
					broken = imageless
					return "", broken
				}
			}
			if t.crashed != "" {
				broken = kubeconfig.Hinted("kubectl logs -n "+namespace+" "+p.Name+" -c "+t.crashed, "%s crashes again and again: %s%s", p.Name, t.detail, c.lastWords(ctx, p, t.crashed))
				return "", broken
			}
		}
		if !pulling {
			noImage, imageless = time.Time{}, nil
		}
		return cmp.Or(why, behind), nil
	})
	if err == nil {
		c.say(what + " is ready")
		return nil
	}
	return cmp.Or(broken, imageless, err)
}

// unready says what a Deployment or DaemonSet lacks, "" if nothing, and which pods are its.
func (c *Cluster) unready(ctx context.Context, kind, namespace, name string) (why string, pods *metav1.LabelSelector, err error) {
	if kind == "DaemonSet" {
		d, err := c.typed.AppsV1().DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return "", nil, err
		}
		return unreadyNodes(d), d.Spec.Selector, nil
	}
	d, err := c.typed.AppsV1().Deployments(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", nil, err
	}
	return unready(d), d.Spec.Selector, nil
}

func unreadyNodes(d *appsv1.DaemonSet) string {
	want := d.Status.DesiredNumberScheduled
	switch {
	case d.Status.ObservedGeneration < d.Generation:
		return "not begun yet"
	case d.Status.UpdatedNumberScheduled < want:
		return fmt.Sprintf("on %d of %d nodes", d.Status.UpdatedNumberScheduled, want)
	case d.Status.NumberAvailable < want:
		return fmt.Sprintf("ready on %d of %d nodes", d.Status.NumberAvailable, want)
	}
	return ""
}

func unready(d *appsv1.Deployment) string {
	want := int32(1)
	if d.Spec.Replicas != nil {
		want = *d.Spec.Replicas
	}
	for _, x := range d.Status.Conditions {
		if x.Type == appsv1.DeploymentReplicaFailure && x.Status == corev1.ConditionTrue {
			return "the cluster refuses its pods: " + x.Message
		}
	}
	switch {
	case d.Status.ObservedGeneration < d.Generation:
		return "not begun yet"
	case d.Status.UpdatedReplicas < want:
		return fmt.Sprintf("%d of %d pods made", d.Status.UpdatedReplicas, want)
	case d.Status.AvailableReplicas < want || d.Status.Replicas > want:
		return fmt.Sprintf("%d of %d pods ready", min(d.Status.AvailableReplicas, want), want)
	}
	return ""
}

// trouble of a pod.
type trouble struct {
	why     string // what it waits for
	image   string // cannot be pulled
	crashed string // container that crashes
	detail  string
}

// judge says what keeps a pod from being ready.
func judge(p *corev1.Pod) trouble {
	for _, s := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		w := s.State.Waiting
		switch {
		case w == nil:
			if s.State.Running != nil && !s.Ready {
				return trouble{why: "pod " + p.Name + " runs and is not ready yet"}
			}
		case w.Reason == "ErrImagePull" || w.Reason == "ImagePullBackOff" || w.Reason == "ErrImageNeverPull" || w.Reason == "InvalidImageName" || w.Reason == "ErrImageInspect":
			return trouble{why: "image " + s.Image + ": " + w.Reason, image: s.Image, detail: cmp.Or(w.Message, w.Reason)}
		case w.Reason == "CrashLoopBackOff" && s.RestartCount >= crashes:
			t := trouble{why: "crashes", crashed: s.Name, detail: w.Message}
			if last := s.LastTerminationState.Terminated; last != nil {
				t.detail = fmt.Sprintf("it ended with status %d", last.ExitCode)
			}
			return t
		case w.Reason == "CreateContainerConfigError" || w.Reason == "CreateContainerError" || w.Reason == "RunContainerError":
			return trouble{why: "pod " + p.Name + ": " + w.Reason + ": " + w.Message}
		}
	}
	for _, x := range p.Status.Conditions {
		if x.Type == corev1.PodScheduled && x.Status == corev1.ConditionFalse {
			return trouble{why: "pod " + p.Name + " has no node: " + x.Message}
		}
	}
	if p.Status.Phase == corev1.PodPending {
		return trouble{why: "pod " + p.Name + " is being made"}
	}
	return trouble{}
}

// lastWords are the last lines a container wrote before it crashed.
func (c *Cluster) lastWords(ctx context.Context, p *corev1.Pod, container string) string {
	lines, limit := int64(3), int64(2000)
	r, err := c.typed.CoreV1().Pods(p.Namespace).GetLogs(p.Name, &corev1.PodLogOptions{Container: container, Previous: true, TailLines: &lines, LimitBytes: &limit}).Stream(ctx)
	if err != nil {
		return ""
	}
	defer r.Close()
	b, _ := io.ReadAll(io.LimitReader(r, limit))
	if s := strings.TrimSpace(string(b)); s != "" {
		return "; its last words:\n" + s
	}
	return ""
}
