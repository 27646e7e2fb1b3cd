package state

import (
	"maps"
	"slices"
	"strings"
	"testing"

	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"
	"google.golang.org/protobuf/types/known/anypb"
)

// Every field of the resources that are consumed, and of every message in them, has a fate: it is honoured or left alone by the table, or refused by its
// path. None is unknown to the walk, and of none it is said that all of a message is honoured though nothing reads it.
func TestEveryFieldHasAFate(t *testing.T) {
	read := selectors(t)
	var acts, inert, refused int
	seen := map[protoreflect.FullName]bool{}
	var walk func(d protoreflect.MessageDescriptor)
	walk = func(d protoreflect.MessageDescriptor) {
		name := d.FullName()
		if seen[name] || strings.HasPrefix(string(name), "google.protobuf.") {
			return
		}
		seen[name] = true
		k, known := fields[name]
		if !known {
			return // refused wherever it is set: its fields have no chance
		}
		for i := range d.Fields().Len() {
			fd := d.Fields().Get(i)
			_, left := k.inert[string(fd.Name())]
			switch {
			case k.all || slices.Contains(k.acts, string(fd.Name())):
				acts++
				if k.all && !isRead(read, name, fd) {
					t.Errorf("%s is said to be honoured with all of its message, and nothing reads it", fd.FullName())
				}
			case left:
				inert++
				continue
			default:
				refused++
				if err := checkMessage(having(d, fd), "x"); err == nil || !strings.Contains(err.Error(), "x."+string(fd.Name())+": field is not supported") || !strings.HasSuffix(err.Error(), k.refused[string(fd.Name())]) {
					t.Errorf("%s is not refused: %v", fd.FullName(), err)
				}
				continue
			}
			if fd.IsMap() {
				fd = fd.MapValue()
			}
			if fd.Message() != nil {
				walk(fd.Message())
			}
		}
	}
	// Messages in a typed_config are found by nothing but their names.
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		m, err := protoregistry.GlobalTypes.FindMessageByName(name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		walk(m.Descriptor())
	}
	t.Logf("%d messages: %d fields are honoured, %d left alone, %d refused", len(seen), acts, inert, refused)
}

// Fields that are newer than this proxy are told wherever they are, also in messages of which everything is honoured.
func TestNewerFieldsAreRefused(t *testing.T) {
	newer := protowire.AppendVarint(protowire.AppendTag(nil, 10_000, protowire.VarintType), 1)
	for name := range fields {
		d, err := protoregistry.GlobalTypes.FindMessageByName(name)
		if err != nil {
			t.Fatal(err)
		}
		m := dynamicpb.NewMessage(d.Descriptor())
		m.SetUnknown(newer)
		if err := checkMessage(m, "x"); err == nil || err.Error() != "x: 4 bytes of fields newer than this proxy" {
			t.Errorf("%s: %v", name, err)
		}
	}
	b, err := proto.Marshal(&tlsinspectorv3.TlsInspector{})
	if err != nil {
		t.Fatal(err)
	}
	for path, m := range map[string]proto.Message{
		"x.path[0]":                 &matcherv3.MetadataMatcher{Path: []*matcherv3.MetadataMatcher_PathSegment{{}}},
		"x.value.list_match.one_of": &matcherv3.MetadataMatcher{Value: &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_ListMatch{ListMatch: &matcherv3.ListMatcher{MatchPattern: &matcherv3.ListMatcher_OneOf{OneOf: &matcherv3.ValueMatcher{}}}}}},
	} {
		switch m := m.(*matcherv3.MetadataMatcher); {
		case len(m.GetPath()) > 0:
			m.GetPath()[0].ProtoReflect().SetUnknown(newer)
		default:
			m.GetValue().GetListMatch().GetOneOf().ProtoReflect().SetUnknown(newer)
		}
		if err := check(m, "x"); err == nil || err.Error() != path+": 4 bytes of fields newer than this proxy" {
			t.Errorf("%s: %v", path, err)
		}
	}
	a := &anypb.Any{TypeUrl: tlsInspectorURL, Value: append(b, newer...)}
	if err := unpack(a, &tlsinspectorv3.TlsInspector{}, "listener l.listener_filters[0] i"); err == nil || !strings.HasPrefix(err.Error(), "listener l.listener_filters[0] i: 4 bytes") {
		t.Errorf("in a typed_config: %v", err)
	}
}

// having is a message in which one field is set.
func having(d protoreflect.MessageDescriptor, fd protoreflect.FieldDescriptor) protoreflect.Message {
	m := dynamicpb.NewMessage(d)
	switch {
	case fd.IsMap():
		mm := m.Mutable(fd).Map()
		mm.Set(fd.MapKey().Default().MapKey(), mm.NewValue())
	case fd.IsList():
		l := m.Mutable(fd).List()
		l.Append(l.NewElement())
	case fd.Message() != nil:
		m.Mutable(fd)
	case fd.Kind() == protoreflect.EnumKind:
		m.Set(fd, protoreflect.ValueOfEnum(1))
	case fd.Kind() == protoreflect.BoolKind:
		m.Set(fd, protoreflect.ValueOfBool(true))
	case fd.Kind() == protoreflect.StringKind:
		m.Set(fd, protoreflect.ValueOfString("x"))
	case fd.Kind() == protoreflect.BytesKind:
		m.Set(fd, protoreflect.ValueOfBytes([]byte("x")))
	case fd.Kind() == protoreflect.Uint32Kind:
		m.Set(fd, protoreflect.ValueOfUint32(1))
	case fd.Kind() == protoreflect.Uint64Kind:
		m.Set(fd, protoreflect.ValueOfUint64(1))
	case fd.Kind() == protoreflect.Int32Kind:
		m.Set(fd, protoreflect.ValueOfInt32(1))
	case fd.Kind() == protoreflect.Int64Kind:
		m.Set(fd, protoreflect.ValueOfInt64(1))
	case fd.Kind() == protoreflect.DoubleKind:
		m.Set(fd, protoreflect.ValueOfFloat64(1))
	}
	return m
}
