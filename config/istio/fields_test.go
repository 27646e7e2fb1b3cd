package istio

import (
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	securityv1beta1 "istio.io/api/security/v1beta1"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/mesh"
)

// Every field of the traffic objects makes a difference to what an object is lowered to, or to what is said of it, or is refused by name:
// nothing is taken silently. It is tried out, so that a field that a newer Istio brings fails the test until somebody has decided.
func TestEveryFieldIsDoneOrRefused(t *testing.T) {
	roots := map[string]proto.Message{
		"VirtualService": &networkingv1alpha3.VirtualService{}, "DestinationRule": &networkingv1alpha3.DestinationRule{}, "Gateway": &networkingv1alpha3.Gateway{},
		"ServiceEntry": &networkingv1alpha3.ServiceEntry{}, "WorkloadEntry": &networkingv1alpha3.WorkloadEntry{}, "Sidecar": &networkingv1alpha3.Sidecar{},
		"AuthorizationPolicy": &securityv1beta1.AuthorizationPolicy{}, "RequestAuthentication": &securityv1beta1.RequestAuthentication{}, "PeerAuthentication": &securityv1beta1.PeerAuthentication{},
	}
	for kind := range gaps {
		if roots[kind] == nil {
			t.Errorf("gaps of %s: the test does not know the kind", kind)
		}
	}
	seen, tried := map[string]bool{}, 0
	for _, kind := range slices.Sorted(maps.Keys(roots)) {
		refused := map[string]bool{}
		for _, g := range gaps[kind] {
			refused[g.path] = true
		}
		whole := proto.Clone(roots[kind]).ProtoReflect()
		fill(whole)
		var walk func(m protoreflect.MessageDescriptor, above []protoreflect.FieldDescriptor, path string)
		walk = func(m protoreflect.MessageDescriptor, above []protoreflect.FieldDescriptor, path string) {
			for i := range m.Fields().Len() {
				f := m.Fields().Get(i)
				name := string(m.Name()) + "." + f.JSONName()
				at := path + "." + f.JSONName()
				if f.IsList() {
					at += "[]"
				}
				bare := strings.TrimSuffix(at, "[]")
				// A gap names a list itself, or what is in its entries. The decoder says that a field is deprecated.
				if refused[bare] || refused[at] || f.Options().(*descriptorpb.FieldOptions).GetDeprecated() {
					continue
				}
				if messages(f) && f.Message().Fields().Len() > 0 { // what is in it makes the difference
					walk(f.Message(), append(slices.Clip(above), f), at)
					continue
				}
				tried++
				switch read, why := makesADifference(kind, roots[kind], whole, above, f), without[name]; {
				case read:
				case why == "":
					t.Errorf("%s: %s makes no difference, and nothing is said of it", name, bare)
				default:
					seen[name] = true
				}
			}
		}
		walk(whole.Descriptor(), nil, "spec")
	}
	for name := range without {
		if !seen[name] {
			t.Errorf("%s: there is no such field, or it makes a difference everywhere", name)
		}
	}
	t.Logf("%d fields", tried)
}

// without are fields that make no difference, with the reason.
var without = map[string]string{
	"SidecarPort.name": "of egress listeners it is for people",
}

// messages reports whether a field holds messages of Istio's.
func messages(f protoreflect.FieldDescriptor) bool {
	return f.Message() != nil && !f.IsMap() && strings.HasPrefix(string(f.Message().FullName()), "istio.")
}

// makesADifference reports whether some value of a field, of the messages above it, changes what comes of an object: one that has nothing
// else, one whose message has all of its other fields, too, one that is as full as can be, and one of which only the message is not, each with
// every mode of the messages above.
func makesADifference(kind string, empty proto.Message, whole protoreflect.Message, above []protoreflect.FieldDescriptor, f protoreflect.FieldDescriptor) bool {
	clear := func(m protoreflect.Message) {
		m.Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool { m.Clear(f); return true })
	}
	for _, context := range []func(base protoreflect.Message){
		func(base protoreflect.Message) { descend(base, above, 1) },
		func(base protoreflect.Message) { descend(base, above, 2) }, // what has shares
		func(base protoreflect.Message) { fill(descend(base, above, 1)) },
		func(base protoreflect.Message) { proto.Merge(base.Interface(), whole.Interface()) },
		func(base protoreflect.Message) {
			proto.Merge(base.Interface(), whole.Interface())
			clear(descend(base, above, 1))
		},
		func(base protoreflect.Message) {
			proto.Merge(base.Interface(), whole.Interface())
			clear(descend(base, above[:max(0, len(above)-1)], 1))
		},
	} {
		base := proto.Clone(empty).ProtoReflect()
		context(base)
		if tells(kind, base, above, f) {
			return true
		}
		for depth := range len(above) + 1 {
			of := descend(base, above[:depth], 1).Descriptor().Fields()
			for i := range of.Len() {
				mode := of.Get(i)
				if mode.Enum() == nil || mode.IsList() || mode == f {
					continue
				}
				for _, v := range values(descend(base, above[:depth], 1), mode) {
					next := proto.Clone(base.Interface()).ProtoReflect()
					if descend(next, above[:depth], 1).Set(mode, v); tells(kind, next, above, f) {
						return true
					}
				}
			}
		}
	}
	return false
}

// tells reports whether some value of the field changes what comes of base.
func tells(kind string, base protoreflect.Message, above []protoreflect.FieldDescriptor, f protoreflect.FieldDescriptor) bool {
	base = proto.Clone(base.Interface()).ProtoReflect()
	m := descend(base, above, 1)
	m.Clear(f)
	before := lowered(kind, base)
	return slices.ContainsFunc(values(m, f), func(v protoreflect.Value) bool {
		next := proto.Clone(base.Interface()).ProtoReflect()
		descend(next, above, 1).Set(f, v)
		return !reflect.DeepEqual(before, lowered(kind, next))
	})
}

// descend is the message that fields lead to, which are made where they are missing, n to a list.
func descend(m protoreflect.Message, fields []protoreflect.FieldDescriptor, n int) protoreflect.Message {
	for _, f := range fields {
		if !f.IsList() {
			m = m.Mutable(f).Message()
			continue
		}
		l := m.Mutable(f).List()
		for l.Len() < n {
			l.AppendMutable()
		}
		m = l.Get(0).Message()
	}
	return m
}

// fill gives a message all of its fields, the first of each oneof.
func fill(m protoreflect.Message) {
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		if o := f.ContainingOneof(); m.Has(f) || o != nil && m.WhichOneof(o) != nil {
			continue
		}
		m.Set(f, values(m, f)[0])
		switch {
		case !messages(f):
		case f.IsList(): // of two, which may have shares
			l := m.Mutable(f).List()
			fill(l.Get(0).Message())
			fill(l.AppendMutable().Message())
		default:
			fill(m.Mutable(f).Message())
		}
	}
}

// values are some that a field may have, the most ordinary one first.
func values(m protoreflect.Message, f protoreflect.FieldDescriptor) []protoreflect.Value {
	var of []protoreflect.Value
	switch f.Kind() {
	case protoreflect.StringKind:
		usual := map[protoreflect.Name]string{"protocol": "HTTPS", "key": "request.headers[a]", "bind": "192.0.2.1", "name": "http-a"}[f.Name()]
		for _, s := range []string{usual, "a", "a.example.com", "192.0.2.1", "/a", "80", "b=c"} {
			if s != "" {
				of = append(of, protoreflect.ValueOfString(s))
			}
		}
	case protoreflect.BoolKind:
		of = append(of, protoreflect.ValueOfBool(true))
	case protoreflect.EnumKind:
		for i := range f.Enum().Values().Len() {
			of = append(of, protoreflect.ValueOfEnum(f.Enum().Values().Get(i).Number()))
		}
		of = append(of[1:], of[0])
	case protoreflect.Uint32Kind:
		of = append(of, protoreflect.ValueOfUint32(80), protoreflect.ValueOfUint32(7))
	case protoreflect.Int32Kind:
		of = append(of, protoreflect.ValueOfInt32(50), protoreflect.ValueOfInt32(7))
	case protoreflect.Uint64Kind:
		of = append(of, protoreflect.ValueOfUint64(7))
	case protoreflect.DoubleKind:
		of = append(of, protoreflect.ValueOfFloat64(0.5))
	case protoreflect.BytesKind:
		of = append(of, protoreflect.ValueOfBytes([]byte("a")))
	case protoreflect.MessageKind:
		switch {
		case f.IsMap():
			for _, key := range []string{"a", "80"} {
				x := m.NewField(f)
				k := protoreflect.ValueOfString(key).MapKey()
				if f.MapKey().Kind() == protoreflect.Uint32Kind {
					k = protoreflect.ValueOfUint32(80).MapKey()
				}
				if f.MapValue().Message() != nil {
					x.Map().Mutable(k)
				} else {
					scratch := dynamicpb.NewMessage(f.Message())
					x.Map().Set(k, values(scratch, f.MapValue())[0])
				}
				of = append(of, x)
			}
			return of
		case f.IsList():
			x := m.NewField(f)
			x.List().AppendMutable()
			return append(of, x)
		}
		for _, n := range []string{"", "seconds", "value"} { // of durations and wrappers those that are not zero, too
			x := m.NewField(f)
			if p := f.Message().Fields().ByName(protoreflect.Name(n)); p != nil && p.Kind() == protoreflect.Int64Kind {
				x.Message().Set(p, protoreflect.ValueOfInt64(5))
			} else if p != nil {
				x.Message().Set(p, values(x.Message(), p)[0])
			} else if n != "" {
				continue
			}
			of = append(of, x)
		}
		slices.Reverse(of)
		return of
	default:
		panic(f.FullName())
	}
	if !f.IsList() {
		return of
	}
	var lists []protoreflect.Value
	for _, v := range of {
		x := m.NewField(f)
		x.List().Append(v)
		lists = append(lists, x)
	}
	return lists
}

// lowered is what comes of a spec, errors or not.
func lowered(kind string, spec protoreflect.Message) []any {
	o := &config.Object{ID: config.ID{Kind: kind, Namespace: "default", Name: "x"}}
	l := &lowerer{Report: config.ReportOn(mesh.Ref{}), o: o, ns: "default", suffix: "cluster.local"}
	var out any
	switch m := spec.Interface().(type) {
	case *networkingv1alpha3.VirtualService:
		out = l.virtualService(m)
	case *networkingv1alpha3.DestinationRule:
		out = l.destinationRule(m)
	case *networkingv1alpha3.Gateway:
		out = l.gateway(m)
	case *networkingv1alpha3.ServiceEntry:
		out = l.serviceEntry(m)
	case *networkingv1alpha3.WorkloadEntry:
		out = l.workloadEntry(m)
	case *networkingv1alpha3.Sidecar:
		out = l.sidecar(m)
	case *securityv1beta1.PeerAuthentication:
		out = l.peerAuthentication(m)
	case *securityv1beta1.RequestAuthentication:
		out = l.requestAuthentication(m)
	case *securityv1beta1.AuthorizationPolicy:
		out = l.authorizationPolicy(m)
	}
	return []any{out, l.Findings}
}

// What is not done stands in the documentation, too.
func TestGapsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/traffic.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(page), "## What is not done")
	if !ok {
		t.Fatal("docs/traffic.md has no section of what is not done")
	}
	for _, kind := range []string{"VirtualService", "DestinationRule", "Gateway", "Sidecar", "WorkloadEntry", "ServiceEntry"} {
		for _, g := range gaps[kind] {
			field := g.path[strings.LastIndexByte(g.path, '.')+1:]
			if !strings.Contains(table, field) {
				t.Errorf("%s %s is not in the table", kind, g.path)
			}
		}
	}
}
