// Package kubeconfig finds the API server of Kubernetes that somebody means, in the files
// that kubectl reads.
//
// The name of a file and of a context enter, perhaps empty; a rest.Config leaves, or an
// Error that says in plain words what is wrong and what to do. No request is made. All
// commands find their cluster by it, so that they mean the same one and complain alike.
package kubeconfig

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"syscall"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// Error has a remedy for whoever asked a cluster for something, in the words of weir's flags.
type Error struct {
	Err  error
	Hint string
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Hinted returns an Error; the rest is fmt.Errorf's.
func Hinted(hint, format string, args ...any) error {
	return &Error{Err: fmt.Errorf(format, args...), Hint: hint}
}

// Config is a cluster, and who asks it for something.
type Config struct {
	REST      *rest.Config
	Context   string // of the kubeconfig
	Namespace string // of objects that name none
}

// Load reads the kubeconfig at path, or if that is empty what kubectl would; contextName
// empty is its current context.
func Load(path, contextName string) (*Config, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = path
	loader := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, &clientcmd.ConfigOverrides{CurrentContext: contextName})
	raw, err := loader.RawConfig()
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, Hinted("name another with --kubeconfig", "there is no kubeconfig %s", path)
	case err != nil:
		return nil, Hinted("name a kubeconfig with --kubeconfig", "reading the kubeconfig: %w", err)
	}
	there := "it has: " + strings.Join(slices.Sorted(maps.Keys(raw.Contexts)), ", ")
	if len(raw.Contexts) == 0 {
		there = "it has none: name another kubeconfig with --kubeconfig"
	}
	current := cmp.Or(contextName, raw.CurrentContext)
	if contextName != "" && raw.Contexts[contextName] == nil {
		return nil, Hinted(there, "the kubeconfig has no context %q", contextName)
	}
	config, err := loader.ClientConfig()
	switch {
	case err != nil && len(raw.Clusters) == 0:
		return nil, Hinted("set KUBECONFIG, or --kubeconfig FILE", "there is no kubeconfig, so no cluster to talk to")
	case err != nil && current == "":
		return nil, Hinted(there, "the kubeconfig has no current context: choose one with --context")
	case clientcmd.IsEmptyConfig(err):
		return nil, Hinted("name another context with --context", "the kubeconfig does not say where the cluster of context %q is", current)
	case err != nil:
		return nil, Hinted("name a context of the kubeconfig with --context", "reading the kubeconfig: %w", err)
	}
	config.WarningHandler = rest.NoWarnings{}
	c := &Config{REST: config, Context: current}
	c.Namespace, _, _ = loader.Namespace()
	return c, nil
}

// Unreachable says in plain words why the API server did not answer; doing is what was to
// be done, for what has none.
func (c *Config) Unreachable(doing string, err error) error {
	var dns *net.DNSError
	var u *url.Error
	timeout := errors.As(err, &u) && u.Timeout()
	switch {
	case apierrors.IsUnauthorized(err):
		return Hinted("the kubeconfig's credentials may have expired: log in again", "the cluster at %s does not accept the credentials of context %s", c.REST.Host, c.Context)
	case errors.Is(err, syscall.ECONNREFUSED):
		return Hinted("is the cluster running? is it the right --context?", "nobody listens at %s, where context %s says the cluster is", c.REST.Host, c.Context)
	case errors.As(err, &dns):
		return Hinted("is it the right --context?", "the cluster of context %s has an unknown name: %v", c.Context, dns)
	case timeout:
		return Hinted("is there a way to it from here? is it the right --context?", "the cluster at %s does not answer", c.REST.Host)
	}
	return fmt.Errorf("%s at %s: %w", doing, c.REST.Host, err)
}
