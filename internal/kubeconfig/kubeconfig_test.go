package kubeconfig_test

import (
	"context"
	"errors"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/weirmesh/weir/internal/kubeconfig"
)

const two = `{"apiVersion":"v1","kind":"Config","current-context":"a","clusters":[{"name":"c","cluster":{"server":"https://127.0.0.1:1"}}],
"contexts":[{"name":"a","context":{"cluster":"c"}},{"name":"b","context":{"cluster":"c","namespace":"shop"}},{"name":"lost","context":{"cluster":"nowhere"}}]}`

// Whoever means a cluster that cannot be found is told what is wrong and what to do.
func TestLoad(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good", two)
	for _, c := range []struct {
		name, path, context, err, hint, namespace string
	}{
		{name: "the current context", path: good, namespace: "default"},
		{name: "another", path: good, context: "b", namespace: "shop"},
		{name: "one that is not there", path: good, context: "x", err: `the kubeconfig has no context "x"`, hint: "it has: a, b, lost"},
		{name: "one without its cluster", path: good, context: "lost", err: `does not say where the cluster of context "lost" is`, hint: "name another context"},
		{name: "no current context", path: write("undecided", strings.Replace(two, `"current-context":"a",`, "", 1)), err: "no current context", hint: "it has: a, b, lost"},
		{name: "no file", path: filepath.Join(dir, "none"), err: "there is no kubeconfig " + filepath.Join(dir, "none"), hint: "name another with --kubeconfig"},
		{name: "no YAML", path: write("bad", "\tx"), err: "reading the kubeconfig", hint: "name a kubeconfig with --kubeconfig"},
		{name: "nothing in it", path: write("empty", ""), err: "there is no kubeconfig, so no cluster to talk to", hint: "set KUBECONFIG, or --kubeconfig FILE"},
		{name: "nothing in it, and a context", path: write("empty", ""), context: "a", err: `has no context "a"`, hint: "it has none"},
	} {
		got, err := kubeconfig.Load(c.path, c.context)
		if c.err == "" {
			if err != nil || got.Namespace != c.namespace || got.Context == "" || got.REST.Host != "https://127.0.0.1:1" {
				t.Errorf("%s: %+v, %v", c.name, got, err)
			}
			continue
		}
		var e *kubeconfig.Error
		if !errors.As(err, &e) || !strings.Contains(e.Error(), c.err) || !strings.Contains(e.Hint, c.hint) {
			t.Errorf("%s: %v, want %q with hint %q", c.name, err, c.err, c.hint)
		}
	}
}

// An API server that does not answer is told from one that does not want us.
func TestUnreachable(t *testing.T) {
	c := &kubeconfig.Config{REST: &rest.Config{Host: "https://10.0.0.1"}, Context: "a"}
	wrapped := func(err error) error { return &url.Error{Op: "Get", URL: "https://10.0.0.1/version", Err: err} }
	for _, x := range []struct {
		err  error
		want string
	}{
		{wrapped(syscall.ECONNREFUSED), "nobody listens at https://10.0.0.1"},
		{wrapped(&net.DNSError{Name: "k", IsNotFound: true}), "has an unknown name"},
		{wrapped(context.DeadlineExceeded), "does not answer"},
		{errors.New("odd"), "asking at https://10.0.0.1: odd"},
	} {
		if got := c.Unreachable("asking", x.err); !strings.Contains(got.Error(), x.want) {
			t.Errorf("%v: %v, want %q", x.err, got, x.want)
		}
	}
}
