package cluster

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
)

func fromGroup(groupVersion, resource string) schema.GroupVersionResource {
	gv, _ := schema.ParseGroupVersion(groupVersion) // the API server's own
	return gv.WithResource(resource)
}

// Pods are those of a selector in our namespace, without those that are ending.
func (c *Cluster) Pods(selector string) []corev1.Pod {
	c.T.Helper()
	l, err := c.Client.CoreV1().Pods(c.Namespace).List(c.T.Context(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		c.T.Fatal(err)
	}
	var out []corev1.Pod
	for _, p := range l.Items {
		if p.DeletionTimestamp == nil {
			out = append(out, p)
		}
	}
	return out
}

// Pod is the first pod of a selector.
func (c *Cluster) Pod(selector string) corev1.Pod {
	c.T.Helper()
	ps := c.Pods(selector)
	if len(ps) == 0 {
		c.T.Fatalf("there is no pod with %s", selector)
	}
	return ps[0]
}

// MustPod is a pod of our namespace by its name; it is waited for.
func (c *Cluster) MustPod(name string) (p *corev1.Pod) {
	c.T.Helper()
	c.Until("pod "+name+" is there", Patience, func() string {
		var err error
		if p, err = c.Client.CoreV1().Pods(c.Namespace).Get(c.T.Context(), name, metav1.GetOptions{}); err != nil {
			return err.Error()
		}
		return ""
	})
	return p
}

// Ended is how a container ended, nil if it has not.
func Ended(p *corev1.Pod, container string) *corev1.ContainerStateTerminated {
	for _, s := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		if s.Name == container {
			return s.State.Terminated
		}
	}
	return nil
}

// Ready waits until all pods of a selector, one at least, are ready, and all Deployments
// and StatefulSets of the namespace have theirs.
func (c *Cluster) Ready(selector string, patience time.Duration) {
	c.T.Helper()
	c.Until("pods are ready", patience, func() string {
		if why := c.incomplete(); why != "" {
			return why
		}
		ps := c.Pods(selector)
		if len(ps) == 0 {
			return "there is no pod with " + selector
		}
		for i := range ps {
			if why := Unready(&ps[i]); why != "" {
				return why
			}
		}
		return ""
	})
}

func (c *Cluster) incomplete() string {
	ds, err := c.Client.AppsV1().Deployments(c.Namespace).List(c.T.Context(), metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	for i := range ds.Items {
		if d := &ds.Items[i]; !RolledOut(d) {
			return fmt.Sprintf("deployment %s: %d of %d pods", d.Name, d.Status.AvailableReplicas, *d.Spec.Replicas) + conditions(d)
		}
	}
	ss, err := c.Client.AppsV1().StatefulSets(c.Namespace).List(c.T.Context(), metav1.ListOptions{})
	if err != nil {
		return err.Error()
	}
	for _, s := range ss.Items {
		if s.Status.ObservedGeneration < s.Generation || s.Status.ReadyReplicas < *s.Spec.Replicas {
			return fmt.Sprintf("statefulset %s: %d of %d pods", s.Name, s.Status.ReadyReplicas, *s.Spec.Replicas)
		}
	}
	return ""
}

func conditions(d *appsv1.Deployment) string {
	for _, x := range d.Status.Conditions {
		if x.Type == appsv1.DeploymentReplicaFailure && x.Status == corev1.ConditionTrue {
			return ": " + x.Message
		}
	}
	return ""
}

// RolledOut reports whether a Deployment has all its pods of its last version, and no others.
func RolledOut(d *appsv1.Deployment) bool {
	n := *d.Spec.Replicas
	return d.Status.ObservedGeneration >= d.Generation && d.Status.UpdatedReplicas == n && d.Status.AvailableReplicas == n && d.Status.Replicas == n
}

// Unready says what a pod lacks, container by container.
func Unready(p *corev1.Pod) string {
	for _, x := range p.Status.Conditions {
		if x.Type == corev1.PodReady && x.Status == corev1.ConditionTrue {
			return ""
		}
	}
	why := []string{"pod " + p.Name + " is " + string(p.Status.Phase)}
	for _, s := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
		switch {
		case s.State.Waiting != nil && s.State.Waiting.Reason != "PodInitializing":
			why = append(why, s.Name+": "+s.State.Waiting.Reason+" "+s.State.Waiting.Message)
		case s.State.Terminated != nil && s.State.Terminated.ExitCode != 0:
			why = append(why, fmt.Sprintf("%s: ended with %d %s", s.Name, s.State.Terminated.ExitCode, s.State.Terminated.Message))
		case s.State.Running != nil && !s.Ready:
			why = append(why, s.Name+" is not ready")
		}
	}
	return strings.Join(why, ", ")
}

// Exec runs a command in a container; err says what the command wrote to standard error,
// and is for a status other than 0, too.
func (c *Cluster) Exec(pod, container string, argv ...string) (string, error) {
	return c.ExecIn(c.Namespace, pod, container, argv...)
}

// ExecIn is Exec in another namespace.
func (c *Cluster) ExecIn(namespace, pod, container string, argv ...string) (string, error) {
	at := c.Client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: container, Command: argv, Stdout: true, Stderr: true}, scheme.ParameterCodec).URL()
	e, err := remotecommand.NewWebSocketExecutor(c.Config, "GET", at.String())
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(c.T.Context(), 2*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	err = e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &out, Stderr: &errs})
	if err != nil {
		err = fmt.Errorf("%s in %s/%s: %w: %s", strings.Join(argv, " "), pod, container, err, strings.TrimSpace(errs.String()))
	}
	return out.String(), err
}

// Status is the exit status of a command that Exec ran, -1 if it did not run.
func Status(err error) int {
	var e exec.CodeExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.Code
	}
	return -1
}

// Logs is what a container wrote.
func (c *Cluster) Logs(pod, container string) string {
	c.T.Helper()
	b, err := c.Client.CoreV1().Pods(c.Namespace).GetLogs(pod, &corev1.PodLogOptions{Container: container}).DoRaw(c.T.Context())
	if err != nil {
		c.T.Fatal(err)
	}
	return string(b)
}

// Lines are those of a log, while it is written.
type Lines struct {
	mu    sync.Mutex
	lines []string
	ended chan struct{}
}

// Follow reads a container's log until it ends, also when the pod is being deleted.
func (c *Cluster) Follow(pod, container string) *Lines {
	c.T.Helper()
	r, err := c.Client.CoreV1().Pods(c.Namespace).GetLogs(pod, &corev1.PodLogOptions{Container: container, Follow: true}).Stream(c.T.Context())
	if err != nil {
		c.T.Fatal(err)
	}
	l := &Lines{ended: make(chan struct{})}
	go func() {
		defer close(l.ended)
		defer r.Close()
		s := bufio.NewScanner(io.Reader(r))
		for s.Scan() {
			l.mu.Lock()
			l.lines = append(l.lines, s.Text())
			l.mu.Unlock()
		}
	}()
	return l
}

// All is what came so far.
func (l *Lines) All() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

// Ended is closed when the log has ended.
func (l *Lines) Ended() <-chan struct{} { return l.ended }
