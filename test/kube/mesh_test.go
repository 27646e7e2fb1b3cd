package kube

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// TestMain takes away what the tests installed, unless WEIR_KUBE_KEEP says not to.
func TestMain(m *testing.M) {
	code := m.Run()
	if os.Getenv("KUBECONFIG") != "" && os.Getenv("WEIR_KUBE_KEEP") == "" {
		if out, err := exec.Command(program, "uninstall", "--yes").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "weir uninstall: %v\n%s", err, out)
		}
	}
	os.Exit(code)
}

// program is built by make e2e.
const program = "../../bin/weir"

// samples are Istio's published manifests.
const samples = "../../../shared/fixtures/istio-samples"

// booting is how long pods may take that only start: on two busy processors a dozen of
// them take half a minute (2026-11).
const booting = 2 * time.Minute

// sample reads one of Istio's published manifests.
func sample(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(samples, name))
	if err != nil {
		t.Skipf("Istio's samples are needed: %v", err)
	}
	return string(b)
}

// images are the hub and tag of the images in the cluster's nodes, "" for weir's own idea.
func images(t *testing.T) (hub, tag string) {
	t.Helper()
	v := os.Getenv("WEIR_KUBE_IMAGES")
	if v == "" {
		return "weir", ""
	}
	colon := strings.LastIndexByte(v, ':')
	if colon < 0 {
		t.Fatalf("WEIR_KUBE_IMAGES=%q is not HUB:TAG", v)
	}
	return v[:colon], v[colon+1:]
}

// weir runs the program as people do.
func weir(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	if _, err := os.Stat(program); err != nil {
		t.Skip("bin/weir is not built: make build")
	}
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr = &out, io.MultiWriter(&errs, t.Output())
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// must is weir that has to succeed.
func must(t *testing.T, args ...string) string {
	t.Helper()
	out, errs, err := weir(t, args...)
	if err != nil {
		t.Fatalf("weir %s: %v\n%s%s", strings.Join(args, " "), err, out, errs)
	}
	return out
}

// ofImages adds the flags that say which images.
func ofImages(t *testing.T, args ...string) []string {
	if hub, tag := images(t); tag != "" {
		args = append(args, "--hub", hub, "--tag", tag)
	}
	return args
}

// install installs, or changes what is installed to flags, and returns where the ingress
// gateway is reached from here, "" if it is not.
func install(t *testing.T, flags ...string) (url string) {
	t.Helper()
	url = strings.TrimSpace(must(t, ofImages(t, append([]string{"install"}, flags...)...)...))
	if !strings.HasPrefix(url, "http://") {
		return ""
	}
	return url
}

// meshed is a namespace with sidecars in an installation that flags describe.
func meshed(t *testing.T, flags ...string) (c *cluster.Cluster, url string) {
	t.Helper()
	c = cluster.Connect(t, "istio-injection=enabled")
	return c, install(t, flags...)
}

// bare removes an installation that an earlier test left, with Istio's definitions if they
// are its own.
func bare(t *testing.T, c *cluster.Cluster) {
	t.Helper()
	c.AwaitNamespaces()
	must(t, "uninstall", "--yes")
	c.Until("the definitions are gone", cluster.Patience, func() string {
		for _, o := range c.All() {
			if strings.Contains(o, ".istio.io") {
				return o
			}
		}
		return ""
	})
}

// page gets one from outside the cluster.
func page(t *testing.T, url string) (status int, body string, err error) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Do(r)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}
