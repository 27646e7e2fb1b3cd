// Package agent keeps the CNI plugin of package cni in force on one node.
//
// The folders of the node's container runtime, the node's pods as the API server tells
// them, and the reports of plugin calls enter; a program, an entry in the runtime's network
// configuration and a file that lets the plugin ask the API server leave, rules in the
// network namespaces of pods that began without, metrics and a word about readiness.
//
// What is promised: a pod whose rules are left to the node runs with them or does not run.
// The plugin fails where it cannot know; a pod that began while it was not there stands
// still in its init container, which proves the rules, until the agent has made them; and
// pods that run are looked at again and again. An agent that ends leaves the plugin behind,
// so that its successor finds no gap, unless its DaemonSet is gone: then it takes all away.
//
// Run is called once. It uses a few goroutines of its own; nothing else is shared.
package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/weirmesh/weir/capture/cni"
	"github.com/weirmesh/weir/internal/kubewatch"
	"github.com/weirmesh/weir/internal/runner"
)

// Options of an Agent. What has no default is required.
type Options struct {
	Client kubernetes.Interface
	Node   string
	// Namespace, ServiceAccount and DaemonSet are the agent's own.
	Namespace, ServiceAccount, DaemonSet string
	Files                                Files
	// Server and CA are how the plugin, in the host's network, reaches the API server.
	Server string
	CA     func() ([]byte, error)
	// Exclude are namespaces without rules. The agent's own must be among them: it starts
	// where the plugin cannot work yet.
	Exclude []string
	Repair  Mode
	// Taint is removed from the node when the agent is ready; "": none.
	Taint  string
	Proc   string // /proc of the host, as it is mounted here
	Kernel cni.Kernel
	HTTP   net.Listener // metrics and readiness; nil: not served
	Log    *slog.Logger
	// Plain says that lists are not streamed: client-go's fakes cannot.
	Plain bool
}

// Agent is the node agent.
type Agent struct {
	o       Options
	metrics *metrics
	files   *Files
	pods    *pods

	installed, swept atomic.Bool
}

// New makes an Agent.
func New(o Options) *Agent {
	o.Files.Exclude = o.Exclude
	a := &Agent{o: o, metrics: newMetrics()}
	a.files = &a.o.Files
	a.pods = newPods(&a.o, a.metrics)
	return a
}

// farewell bounds what an agent does after it was told to end: less than the 30 s after
// which it is killed.
const farewell = 10 * time.Second

// Run works until ctx ends. An error means that nothing can be done here.
func (a *Agent) Run(ctx context.Context) error {
	reports, err := listen(a.files.socket())
	if err != nil {
		return err
	}
	g := runner.New(ctx)
	g.Go("installing the plugin", a.install)
	g.Go("looking after pods", func(ctx context.Context) error { return a.pods.run(ctx, kubewatch.New(a.o.Log), a.ready) })
	g.Go("taking reports", func(ctx context.Context) error { return a.take(ctx, reports) })
	if a.o.HTTP != nil {
		g.Go("serving metrics", a.serve)
	}
	err = g.Wait()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
	defer cancel()
	if !a.over(ctx) {
		a.o.Log.Info("the plugin stays: it works on without the agent, until the next one comes")
		return err
	}
	if e := a.files.Remove(); e != nil {
		return fmt.Errorf("taking the plugin away: %w", e)
	}
	a.o.Log.Info("the plugin was taken away, because the DaemonSet is gone", "daemonset", a.o.Namespace+"/"+a.o.DaemonSet)
	return err
}

// over reports whether the installation has ended, and not only this pod. Rights that were
// taken away say so, too: an upgrade keeps them. If nobody answers, the plugin stays, and
// pods that it cannot tell from meshed ones do not start.
func (a *Agent) over(ctx context.Context) bool {
	d, err := a.o.Client.AppsV1().DaemonSets(a.o.Namespace).Get(ctx, a.o.DaemonSet, metav1.GetOptions{})
	if err == nil {
		return d.DeletionTimestamp != nil
	}
	return apierrors.IsNotFound(err) || apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err)
}

// ready is called when the pods that were there at the start have been looked at, and
// whenever the plugin was installed.
func (a *Agent) ready(ctx context.Context) {
	a.swept.Store(true)
	a.untaint(ctx)
}

// unready says what is missing, "" if nothing.
func (a *Agent) unready() string {
	switch {
	case !a.installed.Load():
		return "the plugin is not installed"
	case !a.swept.Load():
		return "the pods of this node have not been looked at yet"
	}
	return ""
}

func (a *Agent) serve(ctx context.Context) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(a.metrics.registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if why := a.unready(); why != "" {
			http.Error(w, why, http.StatusServiceUnavailable)
		}
	})
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(a.o.HTTP); ctx.Err() == nil {
		return err
	}
	return nil
}

// take counts and tells what plugin calls report.
func (a *Agent) take(ctx context.Context, l *net.UnixConn) error {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	buf := make([]byte, cni.MaxReport)
	for {
		n, err := l.Read(buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		r, err := cni.ReadReport(buf[:n])
		if err != nil {
			a.o.Log.Warn("a report of the plugin cannot be read", "err", err)
			continue
		}
		a.metrics.call(r)
		switch r.Result {
		case "failed":
			a.o.Log.Warn("a pod was not started", "pod", r.Pod, "err", r.Error)
		case "captured":
			a.o.Log.Info("a pod's traffic is captured", "pod", r.Pod, "seconds", r.Seconds)
		}
	}
}
