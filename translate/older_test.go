package translate_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/resource"
)

// understood lists what proxies take that are up to two minor versions older than the control plane.
const understood = "testdata/understood.txt"

// Proxies refuse fields and messages that they do not know, and go on with what they had: so a control plane must say to older ones only
// what those knew. All that any case of testdata makes is in the list; what is new may be sent only to proxies that have said in their
// node's metadata (WEIR) that they know it. Then it is no part of what such a case makes without the word. -update adds lines: do that for
// what has been in every release that is still served, or what no older proxy is sent.
func TestOlderProxiesUnderstand(t *testing.T) {
	used := map[string]bool{}
	paths, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(paths) == 0 {
		t.Fatal("no cases", err)
	}
	for _, path := range paths {
		ar, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		node := sidecar("default", "client-0", nil)
		var units []config.Unit
		settings := meshSettings()
		for _, f := range ar.Files {
			switch {
			case strings.HasSuffix(f.Name, ".yaml"):
				units = append(units, unit(t, f.Name, f.Data))
			case f.Name == "include":
				units = append(units, included(t, string(f.Data))...)
			case f.Name == "settings":
				settings.RegistryOnly = strings.Contains(string(f.Data), "registryOnly")
				settings.AccessLog = strings.Contains(string(f.Data), "accessLog")
			case f.Name == "node":
				node = parseNode(t, string(f.Data))
			}
		}
		if node.Proxyless {
			continue
		}
		for typ, set := range translate.New().View(step(t, settings, units, false), node).Sets {
			used["type "+resource.Short(typ)] = true
			for r := range set.Values() {
				m, err := r.Any().UnmarshalNew()
				if err != nil {
					t.Fatal(err)
				}
				note(t, used, m.ProtoReflect())
			}
		}
	}
	got := slices.Sorted(maps.Keys(used))
	data, err := os.ReadFile(understood)
	if err != nil && !*update {
		t.Fatal(err)
	}
	known := strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' })
	if *update {
		known = slices.Compact(slices.Sorted(slices.Values(slices.Concat(known, got))))
		if err := os.WriteFile(understood, []byte(strings.Join(known, "\n")+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	fresh := slices.DeleteFunc(slices.Clone(got), func(s string) bool { return slices.Contains(known, s) })
	if len(fresh) > 0 {
		t.Errorf("proxies of older versions do not know:\n%s", strings.Join(fresh, "\n"))
	}
}

// note notes all fields of m that are set, by the full names of message and field; in TypedStructs by the type that is meant.
func note(t *testing.T, used map[string]bool, m protoreflect.Message) {
	if a, ok := m.Interface().(*anypb.Any); ok {
		in, err := a.UnmarshalNew()
		if err != nil {
			t.Fatalf("%s: %v", a.GetTypeUrl(), err)
		}
		used["any "+string(proto.MessageName(in))] = true
		note(t, used, in.ProtoReflect())
		return
	}
	name := string(m.Descriptor().FullName())
	if strings.HasSuffix(name, "type.v1.TypedStruct") || strings.HasSuffix(name, "type.v3.TypedStruct") {
		used["any "+m.Get(m.Descriptor().Fields().ByName("type_url")).String()] = true
		return
	}
	if strings.HasPrefix(name, "google.protobuf.") { // metadata: free of form
		return
	}
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		used[name+"."+string(f.Name())] = true
		switch {
		case f.IsMap():
			v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
				if f.MapValue().Message() != nil {
					note(t, used, v.Message())
				}
				return true
			})
		case f.Message() == nil:
		case f.IsList():
			for i := range v.List().Len() {
				note(t, used, v.List().Get(i).Message())
			}
		default:
			note(t, used, v.Message())
		}
		return true
	})
}
