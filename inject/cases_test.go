package inject

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/config"
)

var update = flag.Bool("update", false, "rewrite testdata: only commit the changes if you understand what caused them and if they are desired")

// Each file of testdata is a pod and what somebody wants from it; the first line says
// what. "-- want: env volumes --" names the parts of the result that the case is about.
// Sections: pod, values, config, mesh (texts of the ConfigMaps), namespace (labels),
// classic (present: the cluster has no native sidecars).
func TestCases(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no cases", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			src := Source{NativeSidecars: true}
			in := Input{Pod: &corev1.Pod{}, Namespace: Namespace{Name: "shop"}}
			var want *txtar.File
			for i := range a.Files {
				f := &a.Files[i]
				text := string(f.Data)
				switch name, _, _ := strings.Cut(f.Name, ":"); name {
				case "pod":
					err = yaml.UnmarshalStrict(f.Data, in.Pod)
				case "values":
					src.Values = text
				case "config":
					src.Config = text
				case "mesh":
					src.Mesh = text
				case "namespace":
					err = yaml.UnmarshalStrict(f.Data, &in.Namespace.Labels)
				case "classic":
					src.NativeSidecars = false
				case "want":
					want = f
				default:
					t.Fatalf("there is no section %q", f.Name)
				}
				if err != nil {
					t.Fatalf("%s: %v", f.Name, err)
				}
			}
			s, settings, err := NewSettings(src, "0.1.0")
			var got string
			if err != nil {
				got = "error: " + err.Error() + "\n"
			} else {
				r := Inject(in, s)
				r.Findings = append(settings, r.Findings...)
				sound(t, in, s, r)
				_, parts, _ := strings.Cut(want.Name, ":")
				got = project(r, strings.Fields(parts))
			}
			if *update {
				want.Data = []byte(got)
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if d := cmp.Diff(string(want.Data), got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

// sound checks what must hold for every pod: the patch makes the pod, doing it again
// changes nothing, names are unique and every mount has its volume.
func sound(t interface {
	Helper()
	Errorf(string, ...any)
}, in Input, s *Settings, r *Result) {
	t.Helper()
	if r.Pod == nil {
		if len(r.Patch) > 0 {
			t.Errorf("a patch without a pod")
		}
		return
	}
	before, err := json.Marshal(in.Pod)
	if err != nil {
		t.Errorf("%v", err)
	}
	ops, err := json.Marshal(r.Patch)
	if err != nil {
		t.Errorf("%v", err)
	}
	patch, err := jsonpatch.DecodePatch(ops)
	if err != nil {
		t.Errorf("%v", err)
		return
	}
	after := before
	if len(r.Patch) > 0 {
		if after, err = patch.Apply(before); err != nil {
			t.Errorf("the patch cannot be applied: %v\n%s", err, ops)
			return
		}
	}
	var patched corev1.Pod
	if err := yaml.UnmarshalStrict(after, &patched); err != nil {
		t.Errorf("the patched pod is none: %v", err)
	}
	if d := cmp.Diff(r.Pod, &patched); d != "" {
		t.Errorf("the patch makes another pod (-pod +patched)\n%s", d)
	}
	again := in
	again.Pod = &patched
	twice := Inject(again, s)
	if twice.Pod == nil {
		t.Errorf("the second injection refuses: %v", twice.Findings)
	} else if d := cmp.Diff(r.Pod, twice.Pod); d != "" {
		t.Errorf("a second injection changes the pod (-once +twice)\n%s", d)
	}
	volumes := map[string]bool{}
	for _, v := range r.Pod.Spec.Volumes {
		if volumes[v.Name] {
			t.Errorf("two volumes %s", v.Name)
		}
		volumes[v.Name] = true
	}
	known := map[string]bool{}
	for _, v := range in.Pod.Spec.Volumes {
		known[v.Name] = true
	}
	names := map[string]bool{}
	for _, c := range slices.Concat(r.Pod.Spec.InitContainers, r.Pod.Spec.Containers) {
		if names[c.Name] {
			t.Errorf("two containers %s", c.Name)
		}
		names[c.Name] = true
		paths := map[string]bool{}
		for _, m := range c.VolumeMounts {
			if (c.Name == ProxyContainer || known[m.Name]) && !volumes[m.Name] {
				t.Errorf("container %s mounts %s, which the pod has not", c.Name, m.Name)
			}
			if paths[m.MountPath] {
				t.Errorf("container %s mounts two volumes at %s", c.Name, m.MountPath)
			}
			paths[m.MountPath] = true
		}
	}
	if !names[ProxyContainer] {
		t.Errorf("an injected pod has no proxy")
	}
}

// project shows parts of a result, a line a thing.
func project(r *Result, parts []string) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	for _, part := range parts {
		if r.Pod == nil && part != "decision" && part != "findings" {
			line("%s: not injected", part)
			continue
		}
		switch part {
		case "decision":
			line("%v %s: %s", r.Decision.Inject, r.Decision.Reason, r.Decision.Message)
		case "containers":
			for _, c := range r.Pod.Spec.InitContainers {
				line("init %s", container(&c))
			}
			for _, c := range r.Pod.Spec.Containers {
				line("%s", container(&c))
			}
		case "env":
			for _, e := range proxyOf(r.Pod).Env {
				if e.ValueFrom != nil {
					line("%s from %s", e.Name, e.ValueFrom.FieldRef.FieldPath)
				} else {
					line("%s=%s", e.Name, e.Value)
				}
			}
		case "config":
			for _, e := range proxyOf(r.Pod).Env {
				if e.Name == "PROXY_CONFIG" || e.Name == "CA_ADDR" {
					line("%s=%s", e.Name, e.Value)
				}
			}
		case "capture":
			for _, name := range []string{InitContainer, ValidationContainer} {
				if c := find(r.Pod.Spec.InitContainers, name); c != nil {
					line("%s", strings.ReplaceAll(strings.Join(c.Args, " "), " --", "\n  --"))
				}
			}
		case "probes":
			for _, c := range slices.Concat(r.Pod.Spec.InitContainers, r.Pod.Spec.Containers) {
				for _, p := range probesOf(&c) {
					if *p.probe != nil {
						line("%s %s %s", c.Name, p.field, compact(*p.probe))
					}
				}
				if c.Lifecycle != nil {
					line("%s lifecycle %s", c.Name, compact(c.Lifecycle))
				}
			}
			for _, e := range proxyOf(r.Pod).Env {
				if e.Name == envProbers {
					line("%s=%s", e.Name, e.Value)
				}
			}
		case "proxy":
			data, err := yaml.Marshal(proxyOf(r.Pod))
			if err != nil {
				panic(err)
			}
			b.Write(data)
		case "args":
			line("%s", strings.Join(proxyOf(r.Pod).Args, " "))
		case "volumes":
			for _, v := range r.Pod.Spec.Volumes {
				line("volume %s", compact(v))
			}
			for _, m := range proxyOf(r.Pod).VolumeMounts {
				line("mount %s at %s", m.Name, m.MountPath)
			}
		case "meta":
			for _, k := range slices.Sorted(maps.Keys(r.Pod.Labels)) {
				line("label %s=%s", k, r.Pod.Labels[k])
			}
			for _, k := range slices.Sorted(maps.Keys(r.Pod.Annotations)) {
				line("annotation %s=%s", k, r.Pod.Annotations[k])
			}
		case "metrics":
			for _, k := range slices.Sorted(maps.Keys(r.Pod.Annotations)) {
				if strings.HasPrefix(k, "prometheus.io/") {
					line("annotation %s=%s", k, r.Pod.Annotations[k])
				}
			}
			for _, e := range proxyOf(r.Pod).Env {
				if e.Name == envPrometheus {
					line("%s=%s", e.Name, e.Value)
				}
			}
		case "patch":
			for _, op := range r.Patch {
				line("%s %s", op.Op, op.Path)
			}
		case "findings":
			for _, f := range r.Findings {
				line("%s", f)
			}
			if config.Errors(r.Findings) > 0 && r.Decision.Inject != r.Refused() {
				line("BUG: errors and not refused")
			}
		default:
			line("there is no part %s", part)
		}
	}
	return b.String()
}

func proxyOf(p *corev1.Pod) *corev1.Container {
	return either(find(p.Spec.InitContainers, ProxyContainer), find(p.Spec.Containers, ProxyContainer))
}

func container(c *corev1.Container) string {
	s := c.Name + " " + c.Image
	if len(c.Args) > 0 {
		s += " " + c.Args[0]
	}
	if c.RestartPolicy != nil {
		s += " restart=" + string(*c.RestartPolicy)
	}
	if x := c.SecurityContext; x != nil {
		if x.RunAsUser != nil {
			s += fmt.Sprintf(" uid=%d", *x.RunAsUser)
		}
		if x.Capabilities != nil {
			s += fmt.Sprintf(" caps=+%v-%v", x.Capabilities.Add, x.Capabilities.Drop)
		}
	}
	return s
}

func compact(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(data)
}
