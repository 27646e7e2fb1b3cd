package cni

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"

	"github.com/weirmesh/weir/capture"
	"github.com/weirmesh/weir/capture/flags"
	"github.com/weirmesh/weir/capture/nft"
)

// ValidationContainer is the init container by which a pod says that its rules are made
// from outside: its arguments say which, and it proves that they are in force. Istio's
// name, so that pods injected by Istio are protected, too.
const ValidationContainer = "istio-validation"

// Validation finds that container; nil if the pod needs no rules of ours.
func Validation(pod *corev1.Pod) *corev1.Container {
	if pod.Spec.HostNetwork {
		return nil
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.Name == ValidationContainer {
			return c
		}
	}
	return nil
}

// Rules are those that the arguments of the container ask for. Nobody here knows the
// resolvers that the pod will have, so that with --redirect-dns queries to any are taken.
func Rules(c *corev1.Container, ipv6 bool) (capture.Ruleset, error) {
	o, err := flags.Parse(c.Args, flags.Place{
		IPv6: ipv6,
		Env: func(name string) (string, bool) {
			for _, e := range c.Env {
				if e.Name == name && e.ValueFrom == nil {
					return e.Value, true
				}
			}
			return "", false
		},
		Resolvers: func() ([]netip.Addr, error) { return nil, nil },
		User: func(name string) (uint32, error) {
			return 0, fmt.Errorf("user %q: only the pod's image knows its number", name)
		},
	})
	if err != nil {
		return capture.Ruleset{}, fmt.Errorf("arguments of init container %s: %w", c.Name, err)
	}
	return capture.Rules(o.Config)
}

// Kernel is what is done to network namespaces. Paths name files that are namespaces.
type Kernel struct {
	In      func(path string, f func() error) error
	Apply   func(capture.Ruleset) error
	Present func() (bool, error)
	IPv6    func() (bool, error)
}

// Linux is the Kernel that is there.
func Linux() Kernel {
	return Kernel{In: nft.In, Apply: nft.Apply, Present: nft.Present, IPv6: capture.HasIPv6}
}

// Protect makes the rules that a pod asks for; made is false if it asks for none.
func (k Kernel) Protect(netns string, pod *corev1.Pod) (made bool, err error) {
	c := Validation(pod)
	if c == nil {
		return false, nil
	}
	err = k.In(netns, func() error {
		ipv6, err := k.IPv6()
		if err != nil {
			return err
		}
		r, err := Rules(c, ipv6)
		if err != nil {
			return err
		}
		return k.Apply(r)
	})
	return err == nil, err
}

// Protected reports whether a network namespace has rules.
func (k Kernel) Protected(netns string) (there bool, err error) {
	err = k.In(netns, func() error {
		there, err = k.Present()
		return err
	})
	return there, err
}
