// Package cni is the chained CNI plugin that makes the capture rules of pods, so that no
// pod needs the right to make its own.
//
// A call of the container runtime enters (CNI_COMMAND and the configuration on standard
// input, by skel); the result of the plugin before leaves unchanged, or an error, and the
// runtime then starts no container and tries again later. Which rules a pod needs stands
// in the pod itself: in the arguments of its init container istio-validation, which the
// injector wrote, in the language of package capture/flags. The plugin asks the API server
// for the pod; when nobody answers it fails, because it cannot tell who needs rules.
//
// It keeps nothing: each call is a process. cni/agent installs it, gives it a token,
// counts what it did and repairs what began before it was there.
package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	corev1 "k8s.io/api/core/v1"
)

// Type is the plugin's name in network configurations, and that of its program.
const Type = "weir-cni"

// Config is the plugin's entry in a network configuration.
type Config struct {
	types.PluginConf
	// Kubeconfig is the file that says how the API server is reached; Socket is where the
	// node agent takes reports. Both as the host sees them.
	Kubeconfig string `json:"kubeconfig"`
	Socket     string `json:"socket"`
	// ExcludeNamespaces have no pods with rules; the API server is not asked about theirs.
	ExcludeNamespaces []string `json:"excludeNamespaces"`
}

// Entry is the plugin's entry as it is written into a network configuration.
func Entry(kubeconfig, socket string, exclude []string) map[string]any {
	return map[string]any{"type": Type, "kubeconfig": kubeconfig, "socket": socket, "excludeNamespaces": exclude}
}

// Plugin is what the plugin does with the world. Main fills it in.
type Plugin struct {
	Pod    func(ctx context.Context, c *Config, namespace, name string) (*corev1.Pod, error)
	Kernel Kernel
	Tell   func(c *Config, r Report) // what was done, for the node agent; may be nil
	Out    io.Writer                 // where results go
}

// Funcs are the plugin's commands. STATUS is not among them: a node whose network is said
// not to work starts no pods, and the node agent is one.
func (p *Plugin) Funcs() skel.CNIFuncs {
	return skel.CNIFuncs{Add: p.add, Check: p.check, Del: del, GC: del}
}

// Times: how long an API server that is away is waited for within a call, and a request.
// The runtime calls again; a short trouble must not cost its pause, which is longer.
const (
	patience = 8 * time.Second
	request  = 3 * time.Second
	pause    = 250 * time.Millisecond
)

// arguments are what container runtimes say of a pod.
type arguments struct {
	types.CommonArgs
	//nolint:revive // names as in CNI_ARGS
	K8S_POD_NAMESPACE, K8S_POD_NAME, K8S_POD_UID types.UnmarshallableString
}

func (p *Plugin) add(a *skel.CmdArgs) error {
	began := time.Now()
	c, err := parse(a.StdinData)
	if err != nil {
		return err
	}
	if c.PrevResult == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, Type+" is a chained plugin and makes no network: it comes behind the plugin that does", "the node agent writes such a configuration")
	}
	pod, made, err := p.protect(c, a)
	r := Report{Operation: "ADD", Pod: pod, Seconds: time.Since(began).Seconds(), Result: "ignored"}
	if made {
		r.Result = "captured"
	}
	if err != nil {
		r.Result, r.Error = "failed", err.Error()
	}
	if p.Tell != nil {
		p.Tell(c, r)
	}
	if err != nil {
		return failure(pod, err)
	}
	result, err := c.PrevResult.GetAsVersion(c.CNIVersion)
	if err != nil {
		return types.NewError(types.ErrIncompatibleCNIVersion, "writing the result of the plugin before in version "+c.CNIVersion, err.Error())
	}
	return result.PrintTo(p.Out)
}

// failure says which pod waits, and why; most reasons pass.
func failure(pod string, err error) error {
	return types.NewError(types.ErrTryAgainLater, fmt.Sprintf("pod %s is not started, because its traffic would not be captured: %v", pod, err), "")
}

// protect makes the rules of the pod that a call is about.
func (p *Plugin) protect(c *Config, a *skel.CmdArgs) (name string, made bool, err error) {
	pod, name, err := p.pod(c, a)
	if pod == nil || err != nil {
		return name, false, err
	}
	made, err = p.Kernel.Protect(a.Netns, pod)
	return name, made, err
}

// pod asks for the pod of a call; nil if it cannot be one that needs rules.
func (p *Plugin) pod(c *Config, a *skel.CmdArgs) (pod *corev1.Pod, name string, err error) {
	var args arguments
	if err := types.LoadArgs(a.Args, &args); err != nil {
		return nil, "", fmt.Errorf("reading CNI_ARGS: %w", err)
	}
	namespace, uid := string(args.K8S_POD_NAMESPACE), string(args.K8S_POD_UID)
	name = namespace + "/" + string(args.K8S_POD_NAME)
	switch {
	case args.K8S_POD_NAME == "" || namespace == "": // no pod of Kubernetes
		return nil, a.ContainerID, nil
	case slices.Contains(c.ExcludeNamespaces, namespace):
		return nil, name, nil
	case static(uid):
		return nil, name, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for {
		pod, err = p.ask(ctx, c, namespace, string(args.K8S_POD_NAME))
		if err == nil || !errors.Is(err, ErrAway) {
			break
		}
		select {
		case <-ctx.Done():
			return nil, name, err
		case <-time.After(pause):
		}
	}
	switch {
	case err != nil:
		return nil, name, err
	case uid != "" && string(pod.UID) != uid:
		return nil, name, fmt.Errorf("the API server has another pod of that name (uid %s instead of %s)", pod.UID, uid)
	}
	return pod, name, nil
}

func (p *Plugin) ask(ctx context.Context, c *Config, namespace, name string) (*corev1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, request)
	defer cancel()
	return p.Pod(ctx, c, namespace, name)
}

// static reports whether a uid is kubelet's for a pod that it reads from a file: the hash
// of the file, without dashes. No injector is asked about such a pod.
func static(uid string) bool { return len(uid) == 32 && !strings.Contains(uid, "-") }

// check says whether the rules are still there.
func (p *Plugin) check(a *skel.CmdArgs) error {
	c, err := parse(a.StdinData)
	if err != nil {
		return err
	}
	pod, name, err := p.pod(c, a)
	if err != nil {
		return failure(name, err)
	}
	if pod == nil || Validation(pod) == nil {
		return nil
	}
	there, err := p.Kernel.Protected(a.Netns)
	if err == nil && !there {
		err = errors.New("its capture rules are gone")
	}
	if err != nil {
		return types.NewError(types.ErrInternal, fmt.Sprintf("pod %s: %v", name, err), "")
	}
	return nil
}

// del has nothing to do: rules go with the network namespace. It must not fail, or the
// pod stays.
func del(*skel.CmdArgs) error { return nil }

func parse(data []byte) (*Config, error) {
	c := &Config{}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "reading the configuration of "+Type, err.Error())
	}
	if err := version.ParsePrevResult(&c.PluginConf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, "reading the result of the plugin before "+Type, err.Error())
	}
	return c, nil
}
