package main

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/weirmesh/weir/internal/image"
	"github.com/weirmesh/weir/sample"
)

// options are what the images depend on beside the binaries.
type options struct {
	Hub, Tag, Version, Revision, Arch string
	Created                           time.Time
	References                        []string // further names for samples
}

// archive is one tar.
type archive struct {
	name   string
	images []image.Image
}

const bin = "/usr/local/bin/"

// The ids that Istio's manifests, and injected pods, give their proxies.
const proxyUser = "1337:1337"

// The samples need no right; those that stand for an image on port 80 must open it.
const sampleUser = "1000:1000"

// The names by which older manifests know the proxy.
const (
	oldProxy = "istio/proxyv2:1.0.0"
	oldInit  = "istio/proxy_init:1.0.0"
)

// archives describes every image. binary reads a program of the right architecture.
func (o options) archives(binary func(string) ([]byte, error)) ([]archive, error) {
	if o.Hub == "" || o.Tag == "" {
		return nil, fmt.Errorf("hub %q, tag %q: an image needs both in its name", o.Hub, o.Tag)
	}
	base, err := image.NewLayer("users, names, /tmp",
		image.File{Path: "/etc/passwd", Data: []byte("root:x:0:0:root:/:/sbin/nologin\nistio-proxy:x:1337:1337:istio-proxy:/:/sbin/nologin\nsample:x:1000:1000:sample:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\n")},
		image.File{Path: "/etc/group", Data: []byte("root:x:0:\nistio-proxy:x:1337:\nsample:x:1000:\nnogroup:x:65534:\n")},
		image.File{Path: "/etc/nsswitch.conf", Data: []byte("passwd: files\ngroup: files\nhosts: files dns\n")},
		image.File{Path: "/tmp/", Mode: 0o1777})
	if err != nil {
		return nil, err
	}
	program := func(name string, more ...image.File) (image.Layer, error) {
		data, err := binary(name)
		if err != nil {
			return image.Layer{}, err
		}
		return image.NewLayer(name+" "+o.Version, append(more, image.File{Path: bin + name, Mode: 0o755, Data: data})...)
	}
	control, err := program("weir-control")
	if err != nil {
		return nil, err
	}
	proxy, err := program("weir-proxy",
		image.File{Path: "/etc/istio/proxy/", UID: 1337, GID: 1337},
		image.File{Path: bin + "pilot-agent", Link: "weir-proxy"},
		image.File{Path: bin + "istio-iptables", Link: "weir-proxy"},
		image.File{Path: "/bin/sh", Link: bin + "weir-proxy"},
		image.File{Path: "/bin/bash", Link: bin + "weir-proxy"})
	if err != nil {
		return nil, err
	}
	node, err := program("weir-cni")
	if err != nil {
		return nil, err
	}
	samples, err := program(sample.Binary, links(sample.OtherNames())...)
	if err != nil {
		return nil, err
	}
	build := func(title, user string, layer image.Layer, entrypoint []string, tags ...string) image.Image {
		return image.Image{Arch: o.Arch, Created: o.Created, Layers: []image.Layer{base, layer}, Tags: tags, Config: image.Config{
			User: user, Entrypoint: entrypoint, WorkingDir: "/",
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
			Labels: map[string]string{
				"org.opencontainers.image.title":    title,
				"org.opencontainers.image.version":  o.Version,
				"org.opencontainers.image.revision": o.Revision,
				"org.opencontainers.image.source":   "https://github.com/weirmesh/weir",
				"org.opencontainers.image.licenses": "Apache-2.0",
			},
		}}
	}
	out := []archive{
		{"weir-control", []image.Image{build("weir-control", proxyUser, control, []string{bin + "weir-control"}, o.ref("weir-control"))}},
		{"weir-proxy", []image.Image{build("weir-proxy", proxyUser, proxy, []string{bin + "weir-proxy"}, o.ref("weir-proxy"), oldProxy)}},
		{"weir-proxy-init", []image.Image{build("weir-proxy-init", "0:0", proxy, []string{bin + "weir-proxy", "init"}, o.ref("weir-proxy-init"), oldInit)}},
		{"weir-cni", []image.Image{build("weir-cni", "0:0", node, []string{bin + "weir-cni"}, o.ref("weir-cni"))}},
	}
	all := archive{name: "weir-samples"}
	tags := o.sampleTags()
	for _, name := range sample.Images() {
		if len(tags[name]) == 0 {
			continue
		}
		user, entrypoint := sampleUser, []string{bin + sample.Binary, "as", name}
		switch {
		case name == sample.Binary:
			entrypoint = entrypoint[:1]
		case strings.HasSuffix(name, "/httpbin"):
			user = "0:0"
		}
		all.images = append(all.images, build(name, user, samples, entrypoint, tags[name]...))
	}
	return append(out, all), nil
}

func (o options) ref(name string) string { return o.Hub + "/" + name + ":" + o.Tag }

// sampleTags are the names of each sample's image: in our hub the last part of its name
// (the first of the table has it), and those that manifests use.
func (o options) sampleTags() map[string][]string {
	tags, taken := map[string][]string{}, map[string]bool{}
	add := func(name, ref string) {
		if !taken[ref] {
			taken[ref] = true
			tags[name] = append(tags[name], ref)
		}
	}
	for _, name := range sample.Images() {
		add(name, o.ref(path.Base(name)))
	}
	for _, ref := range slices.Sorted(slices.Values(o.References)) {
		name, ok := sample.Image(ref)
		if !ok || strings.Contains(ref, "@") { // a digest names other bytes
			continue
		}
		if !strings.Contains(path.Base(ref), ":") {
			ref += ":latest"
		}
		add(name, ref)
	}
	return tags
}

// links make files that are sample.Binary by another name.
func links(paths []string) []image.File {
	var out []image.File
	for _, p := range slices.SortedFunc(slices.Values(paths), cmp.Compare) {
		out = append(out, image.File{Path: p, Link: bin + sample.Binary})
	}
	return out
}
