// Package forward reaches the control plane that runs in a Kubernetes cluster, through the
// API server: what kubectl port-forward does, without a port on this machine.
//
// A kubeconfig enters; connections to weir-control's API leave (Dial), and to ports of other pods (Pod). Who may forward ports
// of pods in the namespace of the installation may look into the mesh: there is no other
// credential. A Cluster is safe for concurrent use.
package forward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/httpstream" //nolint:staticcheck // client-go 0.37 still takes and gives its types (2026-11)
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"

	"github.com/weirmesh/weir/internal/kubeconfig"
)

// Options say which cluster is meant. The zero value is kubectl's: KUBECONFIG, ~/.kube/config
// and the current context.
type Options struct {
	Kubeconfig, Context string
	// Namespace is that of the installation.
	Namespace string
	// Revision is the one whose control plane is meant, "default" of an installation without a name; "": any that is there.
	Revision string
}

// port is where weir-control serves its API in a pod.
const port = 15014

// labels pick the pods of weir-control.
const labels = "app=istiod"

// revision is their label that says of which revision they are.
const revision = "istio.io/rev"

// Cluster is a cluster with an installation.
type Cluster struct {
	o      Options
	config *kubeconfig.Config
	client kubernetes.Interface

	control *Pod

	mu   sync.Mutex
	pods []*Pod
}

// Pod is the way to a port of one pod, for which its own loopback is good enough.
type Pod struct {
	c    *Cluster
	name func(context.Context) (namespace, name string, err error) // asked when a connection is opened
	port int

	mu   sync.Mutex
	conn httpstream.Connection
	id   int
}

// Open reads the kubeconfig. Nothing is called yet.
func Open(o Options) (*Cluster, error) {
	config, err := kubeconfig.Load(o.Kubeconfig, o.Context)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(config.REST)
	if err != nil {
		return nil, fmt.Errorf("reading the kubeconfig: %w", err)
	}
	c := &Cluster{o: o, config: config, client: client}
	c.control = &Pod{c: c, port: port, name: func(ctx context.Context) (string, string, error) {
		name, err := c.pod(ctx)
		return o.Namespace, name, err
	}}
	return c, nil
}

// Pod is the way to a port of a pod. It is closed with the Cluster, or before by the caller.
func (c *Cluster) Pod(namespace, name string, port int) *Pod {
	p := &Pod{c: c, port: port, name: func(context.Context) (string, string, error) { return namespace, name, nil }}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pods = append(c.pods, p)
	return p
}

// Client is that of the API server.
func (c *Cluster) Client() kubernetes.Interface { return c.client }

// Installation is the namespace of the mesh's own.
func (c *Cluster) Installation() string { return c.o.Namespace }

// Server is the API server's address, for people.
func (c *Cluster) Server() string { return c.config.REST.Host }

// Namespace is the one of objects that name none: that of the context.
func (c *Cluster) Namespace() string { return c.config.Namespace }

// Missing is an installation that is not there, or not ready.
type Missing struct {
	Server, Namespace string
	Revision          string    // "": of whichever
	Pods              []string  // of weir-control, none of which is ready
	Since             time.Time // when the last of them was; zero: never, or nobody knows
	Why               []string  // of each of Pods, what Kubernetes says; may be ""
	Deployment        string    // of weir-control, which has no pods; ""
	Outside           string    // where the control plane is that serves the cluster from outside; "": none does
}

func (e *Missing) Error() string {
	switch {
	case e.Outside != "":
		return fmt.Sprintf("the control plane of namespace %s of %s is outside the cluster, at %s", e.Namespace, e.Server, e.Outside)
	case e.Deployment != "":
		return fmt.Sprintf("the control plane is away%s: Deployment %s in namespace %s of %s has no pods. %s", e.since(), e.Deployment, e.Namespace, e.Server, meanwhile)
	case len(e.Pods) > 0:
		var pods []string
		for i, p := range e.Pods {
			if e.Why[i] != "" {
				p += ": " + e.Why[i]
			}
			pods = append(pods, p)
		}
		return fmt.Sprintf("the control plane is away%s: no pod of weir-control is ready in namespace %s of %s (%s). %s", e.since(), e.Namespace, e.Server, strings.Join(pods, ", "), meanwhile)
	case e.Revision != "":
		return fmt.Sprintf("there is no revision %s in namespace %s of %s: no pod of weir-control with label %s=%s", e.Revision, e.Namespace, e.Server, revision, e.Revision)
	}
	return fmt.Sprintf("weir is not installed in namespace %s of %s: there is no pod with label %s", e.Namespace, e.Server, labels)
}

// answerTime is how long a replica may take to say that it lives, if there are others: kubelet notices only after many seconds that one
// is frozen.
const answerTime = 2 * time.Second

// whoAnswers is the first that does; if none does, the first, of which the caller learns why.
func whoAnswers(ctx context.Context, pods []string, answers func(ctx context.Context, pod string) error) string {
	if len(pods) == 1 {
		return pods[0]
	}
	for _, pod := range pods {
		within, cancel := context.WithTimeout(ctx, answerTime)
		err := answers(within, pod)
		cancel()
		if err == nil {
			return pod
		}
	}
	return pods[0]
}

// answers asks a pod of weir-control whether it lives.
func (c *Cluster) answers(ctx context.Context, pod string) error {
	p := &Pod{c: c, port: port, name: func(context.Context) (string, string, error) { return c.o.Namespace, pod, nil }}
	defer p.Close()
	transport := &http.Transport{DialContext: p.Dial}
	defer transport.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost/healthz/live", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(r)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// meanwhile is what a mesh does without its control plane.
const meanwhile = "Proxies go on with what they have; pods that ask for one do not start, and objects of the mesh cannot be changed"

func (e *Missing) since() string {
	if e.Since.IsZero() {
		return ""
	}
	return " since " + e.Since.UTC().Format(time.RFC3339)
}

// unready is since when a pod is not ready, and what Kubernetes says about it.
func unready(p *corev1.Pod) (since time.Time, why string) {
	since = p.CreationTimestamp.Time
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && !c.LastTransitionTime.IsZero() {
			since = c.LastTransitionTime.Time
		}
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			why = c.Message
		}
	}
	for _, s := range p.Status.ContainerStatuses {
		if s.State.Waiting != nil {
			why = cmp.Or(why, s.State.Waiting.Reason)
		}
	}
	if p.DeletionTimestamp != nil {
		why = "it is going"
	}
	return since, why
}

// installed finds the Deployment whose pods are missing.
func (c *Cluster) installed(ctx context.Context, m *Missing) {
	list, err := c.client.AppsV1().Deployments(c.o.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labels})
	if err != nil {
		return // who may not see it is told the rest
	}
	for i := range list.Items {
		d := &list.Items[i]
		if c.o.Revision != "" && cmp.Or(d.Labels[revision], "default") != c.o.Revision {
			continue
		}
		m.Deployment = d.Name
		for _, cond := range d.Status.Conditions {
			if cond.Type == appsv1.DeploymentAvailable && cond.Status != corev1.ConditionTrue {
				m.Since = cond.LastTransitionTime.Time
			}
		}
		if m.Since.IsZero() { // a Deployment that is to have no pods is said to have all of them
			m.Since = c.lastSign(ctx, strings.TrimPrefix(d.Name, "istiod"))
		}
		return
	}
}

// lastSign is when a control plane of a revision last said that it leads; zero: nobody knows.
func (c *Cluster) lastSign(ctx context.Context, suffix string) time.Time {
	lease, err := c.client.CoordinationV1().Leases(c.o.Namespace).Get(ctx, "istio-revision-leader"+suffix, metav1.GetOptions{})
	if err != nil || lease.Spec.RenewTime == nil {
		return time.Time{}
	}
	return lease.Spec.RenewTime.Time
}

// pod finds a pod that serves.
func (c *Cluster) pod(ctx context.Context) (string, error) {
	list, err := c.client.CoreV1().Pods(c.o.Namespace).List(ctx, metav1.ListOptions{LabelSelector: labels})
	if err != nil {
		return "", c.config.Unreachable("looking for weir-control", err)
	}
	missing := &Missing{Server: c.Server(), Namespace: c.o.Namespace, Revision: c.o.Revision}
	var ready []string
	for _, p := range list.Items {
		if c.o.Revision != "" && cmp.Or(p.Labels[revision], "default") != c.o.Revision {
			continue
		}
		if p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(cond corev1.PodCondition) bool {
			return cond.Type == corev1.PodReady && cond.Status == corev1.ConditionTrue
		}) {
			ready = append(ready, p.Name)
			continue
		}
		since, why := unready(&p)
		missing.Pods, missing.Why = append(missing.Pods, p.Name), append(missing.Why, why)
		if since.After(missing.Since) {
			missing.Since = since
		}
	}
	if len(ready) > 0 {
		return whoAnswers(ctx, ready, c.answers), nil
	}
	if len(missing.Pods) == 0 {
		if missing.Outside = outside(ctx, c.client, c.o.Namespace, c.o.Revision); missing.Outside == "" {
			c.installed(ctx, missing)
		}
	}
	return "", missing
}

// outside is the address of a control plane that serves the cluster from outside: its Service has no pods, but an EndpointSlice of the
// installation (global.remotePilotAddress). "": there is none, or it may not be seen.
func outside(ctx context.Context, k kubernetes.Interface, namespace, revision string) string {
	service := "istiod"
	if revision != "" && revision != "default" {
		service += "-" + revision
	}
	list, err := k.DiscoveryV1().EndpointSlices(namespace).List(ctx, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=" + service + "," + discoveryv1.LabelManagedBy + "=weir"})
	if err != nil {
		return ""
	}
	for _, s := range list.Items {
		for _, e := range s.Endpoints {
			if len(e.Addresses) > 0 {
				return e.Addresses[0]
			}
		}
	}
	return ""
}

// connect opens the one connection to a pod through which all others go.
func (p *Pod) connect(ctx context.Context) (httpstream.Connection, int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.id++
	if p.conn != nil {
		select {
		case <-p.conn.CloseChan():
		default:
			return p.conn, p.id, nil
		}
	}
	c := p.c
	namespace, pod, err := p.name(ctx)
	if err != nil {
		return nil, 0, err
	}
	at := c.client.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name(pod).SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(c.config.REST)
	if err != nil {
		return nil, 0, err
	}
	old := spdy.NewDialer(upgrader, &http.Client{Transport: transport, Timeout: 30 * time.Second}, http.MethodPost, at)
	websocket, err := portforward.NewSPDYOverWebsocketDialer(at, c.config.REST)
	if err != nil {
		return nil, 0, err
	}
	// API servers before 1.31, and proxies before them, know no WebSocket here.
	dialer := portforward.NewFallbackDialer(websocket, old, func(err error) bool {
		return httpstream.IsUpgradeFailure(err) || httpstream.IsHTTPSProxyError(err)
	})
	p.conn, _, err = dialer.Dial(portforward.PortForwardProtocolV1Name)
	if err != nil {
		p.conn = nil
		if apierrors.IsForbidden(err) {
			return nil, 0, fmt.Errorf("forwarding a port of pod %s/%s: %w", namespace, pod, err)
		}
		return nil, 0, fmt.Errorf("reaching pod %s/%s through the API server: %w", namespace, pod, err)
	}
	return p.conn, p.id, nil
}

// Dial opens a connection to weir-control, whatever address it is given.
func (c *Cluster) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return c.control.Dial(ctx, network, address)
}

// Dial opens a connection to the port, whatever address it is given.
func (p *Pod) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	through, id, err := p.connect(ctx)
	if err != nil {
		return nil, err
	}
	h := http.Header{}
	h.Set(corev1.StreamType, corev1.StreamTypeError)
	h.Set(corev1.PortHeader, strconv.Itoa(p.port))
	h.Set(corev1.PortForwardRequestIDHeader, strconv.Itoa(id))
	failed, err := through.CreateStream(h)
	if err != nil {
		return nil, fmt.Errorf("forwarding a port: %w", err)
	}
	_ = failed.Close() // nothing is written to it
	h.Set(corev1.StreamType, corev1.StreamTypeData)
	data, err := through.CreateStream(h)
	if err != nil {
		through.RemoveStreams(failed)
		return nil, fmt.Errorf("forwarding a port: %w", err)
	}
	x := &stream{Stream: data, through: through, failed: failed, why: make(chan error, 1)}
	go func() { // ends with the stream
		text, err := io.ReadAll(io.LimitReader(failed, 4096))
		if err == nil && len(text) > 0 {
			x.why <- errors.New(string(text))
			_ = data.Reset()
		}
		close(x.why)
	}()
	return x, nil
}

// Close ends all connections.
func (c *Cluster) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.control.Close()
	for _, p := range c.pods {
		err = errors.Join(err, p.Close())
	}
	return err
}

// Close ends all connections.
func (p *Pod) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn == nil {
		return nil
	}
	return p.conn.Close()
}

// stream is a connection of net/http. Deadlines are the contexts' of requests.
type stream struct {
	httpstream.Stream
	through httpstream.Connection
	failed  httpstream.Stream
	why     chan error // what the kubelet says if it cannot connect
}

func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Stream.Read(b)
	if err != nil {
		select {
		case why := <-s.why:
			if why != nil {
				return n, why
			}
		default:
		}
	}
	return n, err
}

func (s *stream) Close() error {
	err := s.Reset()
	s.through.RemoveStreams(s.Stream, s.failed)
	return err
}

type address struct{}

func (address) Network() string { return "port-forward" }
func (address) String() string  { return "weir-control" }

func (s *stream) LocalAddr() net.Addr              { return address{} }
func (s *stream) RemoteAddr() net.Addr             { return address{} }
func (s *stream) SetDeadline(time.Time) error      { return nil }
func (s *stream) SetReadDeadline(time.Time) error  { return nil }
func (s *stream) SetWriteDeadline(time.Time) error { return nil }
