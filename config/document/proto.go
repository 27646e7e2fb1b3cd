package document

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Proto fills m from v by protobuf's JSON mapping as Kubernetes knows it for Istio's
// objects: lowerCamelCase names only, enum values by name, numbers unquoted, durations
// as in Go. null means not given. path is where v stands in its object.
func Proto(v *Value, path string, m proto.Message, report func(Problem)) {
	protoDecoder{decoder{report}}.message(v, path, m.ProtoReflect())
}

type protoDecoder struct{ decoder }

func (d protoDecoder) message(v *Value, path string, m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	if v.Kind != Map {
		example := ""
		if names := jsonNames(fields); len(names) > 0 {
			example = names[0] + ": …, below it and indented"
			if fd := fields.ByJSONName(names[0]); fd.Kind() == protoreflect.StringKind && v.Plain && v.Kind == String {
				example = "{" + names[0] + ": " + v.Text + "}"
			}
		}
		d.mismatch(v, path, Map, example)
		return
	}
	oneofs := map[protoreflect.Name]string{}
	for _, f := range v.Fields {
		fd := fields.ByJSONName(f.Name)
		at := Key(path, f.Name)
		if fd == nil {
			d.unknown(f, at, jsonNames(fields), func(name string) string { return nestedField(fields, name) })
			continue
		}
		if f.Value.Kind == Null {
			continue
		}
		if o := fd.ContainingOneof(); o != nil && !o.IsSynthetic() {
			if first := oneofs[o.Name()]; first != "" {
				d.report(Problem{Path: at, Line: f.Line, Message: "cannot be given together with " + first, Hint: "keep one of the two"})
				continue
			}
			oneofs[o.Name()] = f.Name
		}
		if deprecated(fd.Options()) {
			d.report(Problem{Path: at, Line: f.Line, Message: "is deprecated", Deprecated: true})
		}
		d.field(f.Value, at, m, fd)
	}
}

func (d protoDecoder) field(v *Value, path string, m protoreflect.Message, fd protoreflect.FieldDescriptor) {
	switch {
	case fd.IsMap():
		if v.Kind != Map {
			d.mismatch(v, path, Map, "")
			return
		}
		values := m.Mutable(fd).Map()
		for _, f := range v.Fields {
			at := Key(path, f.Name)
			key, ok := d.scalar(&Value{Kind: keyKind(fd.MapKey()), Text: f.Name, Line: f.Line}, at, fd.MapKey())
			if !ok {
				continue
			}
			if f.Value.Kind == Null {
				d.report(Problem{Path: at, Line: f.Line, Message: "has no value", Hint: emptyHint(fd.MapValue())})
				continue
			}
			if val, ok := d.single(f.Value, at, fd.MapValue(), values.NewValue); ok {
				values.Set(key.MapKey(), val)
			}
		}
	case fd.IsList():
		if v.Kind != List {
			d.mismatch(v, path, List, "")
			return
		}
		values := m.Mutable(fd).List()
		for i, item := range v.Items {
			at := Index(path, i)
			if item.Kind == Null {
				d.fail(item, at, "the list entry is empty", `remove the "-", or write a value after it`)
				continue
			}
			if val, ok := d.single(item, at, fd, values.NewElement); ok {
				values.Append(val)
			}
		}
	default:
		if val, ok := d.single(v, path, fd, func() protoreflect.Value { return m.NewField(fd) }); ok {
			m.Set(fd, val)
		}
	}
}

func keyKind(fd protoreflect.FieldDescriptor) Kind {
	if fd.Kind() == protoreflect.StringKind {
		return String
	}
	return Number
}

func emptyHint(fd protoreflect.FieldDescriptor) string {
	if fd.Message() != nil && fd.Message().FullName() == "istio.networking.v1alpha3.StringMatch" {
		return "write {} to match when it is present"
	}
	return "give a value, or remove the line"
}

// single reads one value; make gives a new message for message kinds.
func (d protoDecoder) single(v *Value, path string, fd protoreflect.FieldDescriptor, make func() protoreflect.Value) (protoreflect.Value, bool) {
	if fd.Message() == nil {
		return d.scalar(v, path, fd)
	}
	val := make()
	m := val.Message()
	switch name := fd.Message().FullName(); name {
	case "google.protobuf.Duration":
		t, ok := d.duration(v, path)
		if ok {
			fields := m.Descriptor().Fields()
			m.Set(fields.ByName("seconds"), protoreflect.ValueOfInt64(int64(t/time.Second)))
			m.Set(fields.ByName("nanos"), protoreflect.ValueOfInt32(int32(t%time.Second)))
		}
		return val, ok
	default:
		if strings.HasPrefix(string(name), "google.protobuf.") && strings.HasSuffix(string(name), "Value") {
			wrapped := m.Descriptor().Fields().ByName("value")
			inner, ok := d.scalar(v, path, wrapped)
			if ok {
				m.Set(wrapped, inner)
			}
			return val, ok
		}
	}
	d.message(v, path, m)
	return val, true
}

func (d protoDecoder) scalar(v *Value, path string, fd protoreflect.FieldDescriptor) (protoreflect.Value, bool) {
	var none protoreflect.Value
	integer := func(bits int, signed bool) (i int64, u uint64, ok bool) {
		low, high := intRange(bits, signed)
		n, ok := d.integer(v, path, low, high)
		if !ok {
			return 0, 0, false
		}
		return n.Int64(), n.Uint64(), true
	}
	switch fd.Kind() {
	case protoreflect.StringKind:
		s, ok := d.string(v, path)
		return protoreflect.ValueOfString(s), ok
	case protoreflect.BoolKind:
		b, ok := d.bool(v, path)
		return protoreflect.ValueOfBool(b), ok
	case protoreflect.BytesKind:
		b, ok := d.bytes(v, path)
		return protoreflect.ValueOfBytes(b), ok
	case protoreflect.EnumKind:
		return d.enum(v, path, fd)
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		i, _, ok := integer(32, true)
		return protoreflect.ValueOfInt32(int32(i)), ok
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		i, _, ok := integer(64, true)
		return protoreflect.ValueOfInt64(i), ok
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		_, u, ok := integer(32, false)
		return protoreflect.ValueOfUint32(uint32(u)), ok
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		_, u, ok := integer(64, false)
		return protoreflect.ValueOfUint64(u), ok
	case protoreflect.FloatKind:
		f, ok := d.float(v, path)
		if ok && math.Abs(f) > math.MaxFloat32 {
			d.fail(v, path, v.Text+" is out of range", "give a smaller number")
			return none, false
		}
		return protoreflect.ValueOfFloat32(float32(f)), ok
	case protoreflect.DoubleKind:
		f, ok := d.float(v, path)
		return protoreflect.ValueOfFloat64(f), ok
	}
	d.fail(v, path, fmt.Sprintf("fields of kind %s are not understood", fd.Kind()), "remove the field")
	return none, false
}

func (d protoDecoder) enum(v *Value, path string, fd protoreflect.FieldDescriptor) (protoreflect.Value, bool) {
	values := fd.Enum().Values()
	names := make([]string, values.Len())
	for i := range names {
		names[i] = string(values.Get(i).Name())
	}
	if v.Kind != String {
		d.fail(v, path, fmt.Sprintf("must be a name, is %s", v.Kind), "one of "+strings.Join(names, ", "))
		return protoreflect.Value{}, false
	}
	i := slices.Index(names, v.Text)
	if i < 0 {
		hint := "one of " + strings.Join(names, ", ")
		if s := Suggest(v.Text, names); s != "" {
			hint = "did you mean " + s + "?"
		}
		d.fail(v, path, fmt.Sprintf("%q is not a known value", v.Text), hint)
		return protoreflect.Value{}, false
	}
	if deprecated(values.Get(i).Options()) {
		d.report(Problem{Path: path, Line: v.Line, Message: v.Text + " is deprecated", Deprecated: true})
	}
	return protoreflect.ValueOfEnum(values.Get(i).Number()), true
}

func deprecated(options protoreflect.ProtoMessage) bool {
	switch o := options.(type) {
	case *descriptorpb.FieldOptions:
		return o.GetDeprecated()
	case *descriptorpb.EnumValueOptions:
		return o.GetDeprecated()
	}
	return false
}

func jsonNames(fields protoreflect.FieldDescriptors) []string {
	names := make([]string, fields.Len())
	for i := range names {
		names[i] = fields.Get(i).JSONName()
	}
	return names
}

// nestedField finds the field of a message one level below that is called name: users
// often get the level wrong.
func nestedField(fields protoreflect.FieldDescriptors, name string) string {
	for i := range fields.Len() {
		fd := fields.Get(i)
		if fd.Message() == nil || fd.IsMap() || fd.Message().Fields().ByJSONName(name) == nil ||
			strings.HasPrefix(string(fd.Message().FullName()), "google.") {
			continue
		}
		if fd.IsList() {
			return fd.JSONName() + "[]"
		}
		return fd.JSONName()
	}
	return ""
}
