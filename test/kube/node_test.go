package kube

import (
	"context"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// node is a shell of root's on the cluster's first node, for what no API can break: WEIR_NODE
// is a command that reads a script, such as `ssh NODE sudo bash` or
// `. ../shared/kube/lib.sh k1 1; in_node bash`. Cleanups may use it, too.
func node(t *testing.T, script string) *exec.Cmd {
	t.Helper()
	shell := os.Getenv("WEIR_NODE")
	if shell == "" {
		t.Skip("WEIR_NODE is no command that runs a script on the cluster's node, as root")
	}
	cmd := exec.CommandContext(context.WithoutCancel(t.Context()), "bash", "-c", shell)
	cmd.Stdin, cmd.Stderr = strings.NewReader(script), t.Output()
	return cmd
}

// onNode runs a script on the node that has to succeed.
func onNode(t *testing.T, script string) {
	t.Helper()
	cmd := node(t, script)
	cmd.Stdout = t.Output()
	if err := cmd.Run(); err != nil {
		t.Fatalf("on the node: %v\n%s", err, script)
	}
}

// hostname is the name of the node of WEIR_NODE.
func hostname(t *testing.T) string {
	t.Helper()
	name, err := node(t, "hostname").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(name))
}

// pinned are flags that keep the control plane there.
func pinned(t *testing.T) []string {
	return []string{"--set", `pilot.nodeSelector.kubernetes\.io/hostname=` + hostname(t)}
}

// networks are the node's network configurations, byte for byte.
func networks(t *testing.T) string {
	t.Helper()
	out, err := node(t, `cd /etc/cni/net.d && for f in $(ls -A); do echo "== $f"; cat "$f"; done`).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// here is the address at which the cluster reaches this machine, as the API server sees it.
func here(c *cluster.Cluster) string {
	c.T.Helper()
	server, err := url.Parse(c.Config.Host)
	if err != nil {
		c.T.Fatal(err)
	}
	var d net.Dialer
	conn, err := d.DialContext(c.T.Context(), "tcp", server.Host)
	if err != nil {
		c.T.Fatal(err)
	}
	defer conn.Close()
	host, _, err := net.SplitHostPort(conn.LocalAddr().String())
	if err != nil {
		c.T.Fatal(err)
	}
	return host
}
