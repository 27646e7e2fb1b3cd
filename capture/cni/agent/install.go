package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirmesh/weir/capture/cni"
)

const (
	// lifetime of the plugin's token, which is bound to no pod: it outlives the agent's, so
	// that pods start while the agent is replaced. Renewed after a quarter, which leaves 18
	// hours for an agent that does not come back.
	lifetime = 24 * time.Hour
	// again is how often everything is looked at without a reason: not every file system
	// tells of changes.
	again = 10 * time.Second
)

// install keeps the plugin installed. Others write into the same folders: whatever changes
// there is looked at, and put right.
func (a *Agent) install(ctx context.Context) error {
	changes := make(chan fsnotify.Event)
	if w, err := fsnotify.NewWatcher(); err != nil {
		a.o.Log.Warn("changes of network configurations are not noticed at once", "err", err)
	} else {
		defer func() { _ = w.Close() }()
		for _, dir := range []string{a.files.Net, a.files.Bin} {
			if err := w.Add(dir); err != nil {
				a.o.Log.Warn("changes of a folder are not noticed at once", "folder", dir, "err", err)
			}
		}
		changes = w.Events
		go func() {
			for range w.Errors { // the next look finds what got lost
			}
		}()
	}
	t := time.NewTicker(again)
	defer t.Stop()
	var token keeper
	last := ""
	for {
		result, err := a.once(ctx, &token)
		if ctx.Err() != nil {
			return nil
		}
		if a.installed.Store(err == nil); err == nil {
			a.metrics.ready.Set(1)
			a.untaint(ctx)
			last = ""
		} else {
			a.metrics.ready.Set(0)
			if err.Error() != last { // once, not every ten seconds
				last = err.Error()
				a.o.Log.Warn("the plugin is not installed", "err", err)
			}
		}
		if result != "" {
			a.metrics.installs.WithLabelValues(result).Inc()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-changes:
		}
	}
}

// Results of an installation, in Istio's words.
const (
	success         = "SUCCESS"
	noProgram       = "COPY_BINARIES_FAILURE"
	noKubeconfig    = "CREATE_KUBECONFIG_FAILURE"
	noConfiguration = "CREATE_CNI_CONFIG_FAILURE"
)

// once puts right what is not: what the plugin needs first, then what has it called. The
// result is "" if there was nothing to do.
func (a *Agent) once(ctx context.Context, k *keeper) (result string, err error) {
	if err := a.access(ctx, k); err != nil {
		return noKubeconfig, fmt.Errorf("the plugin's way to the API server: %w", err)
	}
	program, err := a.files.WriteProgram()
	if err != nil {
		return noProgram, fmt.Errorf("copying the plugin: %w", err)
	}
	name, conf, err := a.files.WriteConf()
	switch {
	case errors.Is(err, cni.ErrNoNetwork) && !program:
		return "", err // waited for
	case err != nil:
		return noConfiguration, fmt.Errorf("extending the network configuration: %w", err)
	}
	if program || conf {
		a.o.Log.Info("the plugin is installed", "configuration", name)
		return success, nil
	}
	return "", nil
}

// keeper knows when a token has to be renewed.
type keeper struct {
	access cni.Access
	renew  time.Time
}

// access keeps the file by which the plugin reaches the API server. A token that cannot be
// renewed is kept: it may be good for long.
func (a *Agent) access(ctx context.Context, k *keeper) error {
	if time.Now().After(k.renew) {
		ask, cancel := context.WithTimeout(ctx, again)
		defer cancel()
		seconds := int64(lifetime / time.Second)
		t, err := a.o.Client.CoreV1().ServiceAccounts(a.o.Namespace).CreateToken(ask, a.o.ServiceAccount,
			&authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: &seconds}}, metav1.CreateOptions{})
		switch {
		case err == nil:
			ca, err := a.o.CA()
			if err != nil {
				return err
			}
			life := lifetime
			if e := t.Status.ExpirationTimestamp; !e.IsZero() { // an API server may give less
				life = time.Until(e.Time)
			}
			k.access, k.renew = cni.Access{Server: a.o.Server, CA: ca, Token: t.Status.Token}, time.Now().Add(life/4)
		case k.access.Token == "":
			return fmt.Errorf("asking for a token: %w", err)
		default:
			a.o.Log.Warn("the plugin's token is not renewed", "err", err)
		}
	}
	_, err := a.files.WriteAccess(k.access)
	return err
}

// untaint lets pods come to the node, once they are captured there.
func (a *Agent) untaint(ctx context.Context) {
	if a.o.Taint == "" || a.unready() != "" {
		return
	}
	nodes := a.o.Client.CoreV1().Nodes()
	n, err := nodes.Get(ctx, a.o.Node, metav1.GetOptions{})
	if err != nil {
		a.o.Log.Warn("the node's taint cannot be looked at", "err", err)
		return
	}
	left := slices.DeleteFunc(slices.Clone(n.Spec.Taints), func(t corev1.Taint) bool { return t.Key == a.o.Taint })
	if len(left) == len(n.Spec.Taints) {
		return
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": n.ResourceVersion}, "spec": map[string]any{"taints": left}})
	if err == nil {
		_, err = nodes.Patch(ctx, a.o.Node, types.MergePatchType, patch, metav1.PatchOptions{})
	}
	if err != nil {
		a.o.Log.Warn("the node's taint is not removed", "taint", a.o.Taint, "err", err) // the next look tries again
		return
	}
	a.o.Log.Info("the node takes pods now", "taint", a.o.Taint)
}
