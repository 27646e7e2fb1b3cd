package inject

import (
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Op is one operation of a JSON patch (RFC 6902).
type Op struct {
	Op    string `json:"op"` // add, replace or remove
	Path  string `json:"path"`
	Value any    `json:"value,omitempty"`
}

// diff is the patch from a pod to what inject made of it. It names only what inject
// changes: fields of the pod that this program does not know stay as they are.
func diff(before, after *corev1.Pod) []Op {
	d := &differ{}
	d.strings("/metadata/labels", before.Labels, after.Labels)
	d.strings("/metadata/annotations", before.Annotations, after.Annotations)
	d.containers("/spec/initContainers", before.Spec.InitContainers, after.Spec.InitContainers)
	d.containers("/spec/containers", before.Spec.Containers, after.Spec.Containers)
	list(d, "/spec/volumes", before.Spec.Volumes, after.Spec.Volumes)
	list(d, "/spec/imagePullSecrets", before.Spec.ImagePullSecrets, after.Spec.ImagePullSecrets)
	return d.ops
}

type differ struct{ ops []Op }

func (d *differ) add(path string, value any)     { d.ops = append(d.ops, Op{"add", path, value}) }
func (d *differ) replace(path string, value any) { d.ops = append(d.ops, Op{"replace", path, value}) }
func (d *differ) remove(path string)             { d.ops = append(d.ops, Op{Op: "remove", Path: path}) }

// escape makes a segment of a JSON pointer (RFC 6901).
func escape(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "~", "~0"), "/", "~1")
}

func (d *differ) strings(path string, before, after map[string]string) {
	if before == nil && len(after) > 0 {
		d.add(path, after)
		return
	}
	for _, k := range slices.Sorted(maps.Keys(before)) {
		if _, ok := after[k]; !ok {
			d.remove(path + "/" + escape(k))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(after)) {
		old, ok := before[k]
		switch {
		case !ok:
			d.add(path+"/"+escape(k), after[k])
		case old != after[k]:
			d.replace(path+"/"+escape(k), after[k])
		}
	}
}

// list handles entries that are added, or removed, and never change.
func list[T any](d *differ, path string, before, after []T) {
	has := func(in []T, item T) bool {
		return slices.ContainsFunc(in, func(t T) bool { return reflect.DeepEqual(t, item) })
	}
	kept := len(before)
	for i, b := range slices.Backward(before) {
		if !has(after, b) {
			d.remove(path + "/" + strconv.Itoa(i))
			kept--
		}
	}
	if before == nil && len(after) > 0 {
		d.add(path, after)
		return
	}
	for _, item := range after {
		if !has(before, item) {
			d.add(path+"/"+strconv.Itoa(kept), item)
			kept++
		}
	}
}

// containers: those of the injector come, go, move and change as wholes; of the pod's own
// the order stays, and only what probes and hooks ask changes.
func (d *differ) containers(path string, before, after []corev1.Container) {
	if before == nil {
		if len(after) > 0 {
			d.add(path, after)
		}
		return
	}
	at := func(i int) string { return path + "/" + strconv.Itoa(i) }
	own := func(c *corev1.Container) bool { return ours(c.Name) }
	rest := slices.Clone(before)
	stays := func(c *corev1.Container) bool {
		now := find(after, c.Name)
		return now != nil && (!own(c) || reflect.DeepEqual(c, now))
	}
	drop := func(gone func(*corev1.Container) bool) {
		for i := len(rest) - 1; i >= 0; i-- {
			if gone(&rest[i]) {
				d.remove(at(i))
				rest = slices.Delete(rest, i, i+1)
			}
		}
	}
	drop(func(c *corev1.Container) bool { return !stays(c) })
	if !inOrder(rest, after) {
		drop(own)
	}
	for i := range after {
		if i >= len(rest) || rest[i].Name != after[i].Name {
			d.add(at(i), after[i])
			rest = slices.Insert(rest, i, after[i])
			continue
		}
		if !own(&after[i]) {
			d.application(at(i), &rest[i], &after[i])
		}
	}
}

// inOrder reports whether the names of some come in the order of all.
func inOrder(some, all []corev1.Container) bool {
	i := 0
	for j := range all {
		if i < len(some) && some[i].Name == all[j].Name {
			i++
		}
	}
	return i == len(some)
}

func (d *differ) application(path string, before, after *corev1.Container) {
	old := probesOf(before)
	for i, p := range probesOf(after) {
		if *p.probe != nil && *old[i].probe != nil {
			d.handler(path+"/"+p.field, &(*old[i].probe).ProbeHandler, &(*p.probe).ProbeHandler)
		}
	}
	if before.Lifecycle == nil || after.Lifecycle == nil {
		return
	}
	for _, h := range []struct {
		name          string
		before, after *corev1.LifecycleHandler
	}{{"preStop", before.Lifecycle.PreStop, after.Lifecycle.PreStop}, {"postStart", before.Lifecycle.PostStart, after.Lifecycle.PostStart}} {
		if h.before != nil && h.after != nil && !reflect.DeepEqual(h.before.HTTPGet, h.after.HTTPGet) {
			d.replace(path+"/lifecycle/"+h.name+"/httpGet", h.after.HTTPGet)
		}
	}
}

func (d *differ) handler(path string, before, after *corev1.ProbeHandler) {
	field(d, path+"/tcpSocket", before.TCPSocket, after.TCPSocket)
	field(d, path+"/grpc", before.GRPC, after.GRPC)
	field(d, path+"/httpGet", before.HTTPGet, after.HTTPGet)
}

func field[T any](d *differ, path string, before, after *T) {
	switch {
	case before == nil && after == nil:
	case before == nil:
		d.add(path, after)
	case after == nil:
		d.remove(path)
	case !reflect.DeepEqual(before, after):
		d.replace(path, after)
	}
}
