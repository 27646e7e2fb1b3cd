package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/internal/image"
)

func described(t *testing.T, refs ...string) map[string]image.Image {
	t.Helper()
	o := options{Hub: "hub.example/weir", Tag: "1.2", Version: "1.2", Revision: "abc", Arch: "arm64", Created: time.Unix(1e9, 0), References: refs}
	archives, err := o.archives(func(name string) ([]byte, error) { return []byte("program " + name), nil })
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]image.Image{}
	for _, a := range archives {
		for _, i := range a.images {
			for _, tag := range i.Tags {
				if _, twice := out[tag]; twice {
					t.Errorf("two images are called %s", tag)
				}
				out[tag] = i
			}
		}
	}
	return out
}

func TestImages(t *testing.T) {
	images := described(t, "registry.example/x/tcp-echo-server:1.3", "registry.example/x/tcp-echo-server:1.3", "istio/examples-helloworld-v1",
		"istio/examples-helloworld-v2@sha256:00", "nginx:1", "docker.example/curlimages/curl:8.16.0")
	for _, c := range []struct{ tag, user, entrypoint string }{
		{"hub.example/weir/weir-control:1.2", "1337:1337", "/usr/local/bin/weir-control"},
		{"hub.example/weir/weir-proxy:1.2", "1337:1337", "/usr/local/bin/weir-proxy"},
		{"istio/proxyv2:1.0.0", "1337:1337", "/usr/local/bin/weir-proxy"},
		{"hub.example/weir/weir-proxy-init:1.2", "0:0", "/usr/local/bin/weir-proxy init"},
		{"hub.example/weir/weir-cni:1.2", "0:0", "/usr/local/bin/weir-cni"},
		{"istio/proxy_init:1.0.0", "0:0", "/usr/local/bin/weir-proxy init"},
		{"hub.example/weir/weir-sample:1.2", "1000:1000", "/usr/local/bin/weir-sample"},
		{"hub.example/weir/examples-bookinfo-productpage-v1:1.2", "1000:1000", "/usr/local/bin/weir-sample as examples-bookinfo-productpage-v1"},
		{"hub.example/weir/go-httpbin:1.2", "1000:1000", "/usr/local/bin/weir-sample as mccutchen/go-httpbin"},
		{"hub.example/weir/httpbin:1.2", "0:0", "/usr/local/bin/weir-sample as kong/httpbin"},
		{"registry.example/x/tcp-echo-server:1.3", "1000:1000", "/usr/local/bin/weir-sample as tcp-echo-server"},
		{"istio/examples-helloworld-v1:latest", "1000:1000", "/usr/local/bin/weir-sample as examples-helloworld-v1"},
		{"docker.example/curlimages/curl:8.16.0", "1000:1000", "/usr/local/bin/weir-sample as curlimages/curl"},
	} {
		i, ok := images[c.tag]
		if !ok {
			t.Errorf("no image %s", c.tag)
			continue
		}
		if got := strings.Join(i.Config.Entrypoint, " "); got != c.entrypoint || i.Config.User != c.user || i.Arch != "arm64" {
			t.Errorf("%s: %s runs %q as %s, want %q as %s", c.tag, i.Arch, got, i.Config.User, c.entrypoint, c.user)
		}
		for _, label := range []string{"title", "version", "revision", "source", "licenses"} {
			if i.Config.Labels["org.opencontainers.image."+label] == "" {
				t.Errorf("%s: no label %s", c.tag, label)
			}
		}
	}
	for tag := range images {
		if strings.Contains(tag, "nginx") || strings.Contains(tag, "@") {
			t.Errorf("%s was written", tag)
		}
	}
	proxy, init := images["hub.example/weir/weir-proxy:1.2"], images["hub.example/weir/weir-proxy-init:1.2"]
	if !slices.EqualFunc(proxy.Layers, init.Layers, func(a, b image.Layer) bool { return a.Digest() == b.Digest() }) {
		t.Error("weir-proxy and weir-proxy-init have different layers")
	}
}

// The same sources give the same bytes, in whatever order manifests are read.
func TestReproducible(t *testing.T) {
	archive := func(refs ...string) []byte {
		var b bytes.Buffer
		images := described(t, refs...)
		if err := image.Write(&b, images["istio/proxyv2:1.0.0"], images["a/examples-helloworld-v1:1"]); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	if !bytes.Equal(archive("a/examples-helloworld-v1:1", "b/examples-helloworld-v1:1"), archive("b/examples-helloworld-v1:1", "a/examples-helloworld-v1:1")) {
		t.Error("two runs differ")
	}
}

func TestReferences(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.yaml": "  - image: hub/a:1 # why\n    name: x\n", "sub/b.yml": "image: \"hub/b\"\n# image: none:1\nimages: no\n", "c.txt": "image: hub/c\n",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	got, err := references([]string{dir})
	if err != nil || !slices.Equal(got, []string{"hub/a:1", "hub/b"}) {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := references([]string{filepath.Join(dir, "none")}); err == nil {
		t.Error("a folder that is not there was read")
	}
}
