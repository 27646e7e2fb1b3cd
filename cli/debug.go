package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/weirmesh/weir/cli/client"
	"github.com/weirmesh/weir/config/document"
)

func (a *app) debug() *cobra.Command {
	var namespace, image, target string
	cmd := &cobra.Command{
		Use:   "debug POD --image IMAGE [flags] [-- COMMAND...]",
		Short: "put a container with tools into a pod of a cluster, beside its proxy",
		Long: `Put an ephemeral container into a running pod of a cluster: it is in the pod's
network, and sees the processes of the proxy (or of --target). Nothing is
restarted. Kubernetes keeps it for as long as the pod is there.

What it sends goes through the proxy, as the application's does. The command that
attaches a terminal to it is printed. Pods of "weir up" are processes of this
machine: "weir exec" runs a command beside one.`,
		Example: `  weir debug reviews-v1-5d6f7-abcde --image nicolaka/netshoot
  weir debug cart-0 -n shop --image busybox --target cart -- sh`,
		Args: func(cmd *cobra.Command, args []string) error {
			if n := cmd.ArgsLenAtDash(); len(args) == 0 || n == 0 || n < 0 && len(args) > 1 || n > 1 {
				return usage("`weir debug POD --image busybox -- sh`", "weir debug needs one pod")
			}
			return nil
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	a.namespaceFlag(cmd, &namespace)
	cmd.Flags().StringVar(&image, "image", "", "`image` with the tools that are wanted")
	cmd.Flags().StringVar(&target, "target", "istio-proxy", "`container` whose processes it sees")
	noValues(cmd, "image", "target")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if image == "" {
			return usage("for example --image nicolaka/netshoot", "--image says which tools are wanted")
		}
		if a.meant.Kubeconfig == "" && a.meant.Context == "" {
			if _, err := client.Open(a.state); err == nil || !errors.Is(err, client.ErrNoMesh) {
				return hinted("`weir exec "+args[0]+" -- sh`; with --context the pod of a cluster is meant", "the mesh that runs here has no containers: its pods are processes of this machine")
			}
		}
		if err := a.open(); err != nil {
			return err
		}
		pod := args[0]
		split(&namespace, &pod)
		if namespace == "" {
			namespace = a.namespace()
		}
		name, err := addTools(cmd.Context(), a.cluster.Client(), namespace, pod, target, image, args[1:])
		if err != nil {
			return err
		}
		a.errs.printf("container %s (%s) is added to pod %s/%s: in its network, with the processes of %s\n", clean(name), clean(image), clean(namespace), clean(pod), clean(target))
		a.out.printf("kubectl attach -it -n %s %s -c %s\n", clean(namespace), clean(pod), clean(name))
		return nil
	}
	return cmd
}

// addTools adds an ephemeral container to a pod, and returns its name.
func addTools(ctx context.Context, k kubernetes.Interface, namespace, pod, target, image string, command []string) (string, error) {
	p, err := k.CoreV1().Pods(namespace).Get(ctx, pod, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("looking for pod %s/%s: %w", namespace, pod, err)
	}
	var names []string
	for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
		names = append(names, c.Name)
	}
	if !slices.Contains(names, target) {
		hint := "--target names one of: " + joined(names)
		if near := document.Suggest(target, names); near != "" {
			hint = "did you mean --target " + near + "?"
		}
		return "", hinted(hint, "pod %s/%s has no container %s", namespace, pod, target)
	}
	name := fmt.Sprintf("weir-debug-%d", len(p.Spec.EphemeralContainers)+1)
	for slices.ContainsFunc(p.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == name }) {
		name += "-1"
	}
	p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, corev1.EphemeralContainer{TargetContainerName: target,
		EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: name, Image: image, Command: command, Stdin: true, TTY: true, TerminationMessagePolicy: corev1.TerminationMessageReadFile}})
	if _, err := k.CoreV1().Pods(namespace).UpdateEphemeralContainers(ctx, pod, p, metav1.UpdateOptions{}); err != nil {
		text := err.Error()
		if strings.Contains(text, "forbidden") {
			return "", hinted("it takes the right to update pods/ephemeralcontainers", "adding a container to pod %s/%s: %w", namespace, pod, err)
		}
		return "", fmt.Errorf("adding a container to pod %s/%s: %w", namespace, pod, err)
	}
	return name, nil
}
