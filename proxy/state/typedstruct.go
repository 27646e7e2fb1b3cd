package state

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	udpav1 "github.com/cncf/xds/go/udpa/type/v1"
	xdsv3 "github.com/cncf/xds/go/xds/type/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"
)

// maxTypedStruct bounds what is turned into another message by way of JSON.
const maxTypedStruct = 1 << 20

// typedStruct is the type that a TypedStruct names, with its value; ok is false for any other message.
func typedStruct(a *anypb.Any, path string) (url string, value *structpb.Struct, ok bool, err error) {
	var s interface {
		proto.Message
		GetTypeUrl() string
		GetValue() *structpb.Struct
	}
	switch a.GetTypeUrl() {
	case typePrefix + "udpa.type.v1.TypedStruct":
		s = &udpav1.TypedStruct{}
	case typePrefix + "xds.type.v3.TypedStruct":
		s = &xdsv3.TypedStruct{}
	default:
		return "", nil, false, nil
	}
	if n := len(a.GetValue()); n > maxTypedStruct {
		return "", nil, false, fmt.Errorf("%s: a TypedStruct of %d bytes, at most %d; send the message itself", path, n, maxTypedStruct)
	}
	if err := a.UnmarshalTo(s); err != nil {
		return "", nil, false, fmt.Errorf("%s: %w", path, err)
	}
	return s.GetTypeUrl(), s.GetValue(), true, nil
}

// opened is a filter's configuration with its type. A TypedStruct that stands for a message of the table of fields is made that
// message; of another one only the type is looked up.
func opened(a *anypb.Any, path string) (url string, config *anypb.Any, err error) {
	url, value, ok, err := typedStruct(a, path)
	if err != nil || !ok {
		return a.GetTypeUrl(), a, err
	}
	name, _ := strings.CutPrefix(url, typePrefix)
	if _, ok := fields[protoreflect.FullName(name)]; !ok {
		return url, a, nil
	}
	t, err := protoregistry.GlobalTypes.FindMessageByURL(url)
	if err != nil {
		return "", nil, fmt.Errorf("%s: %s: %w", path, url, err)
	}
	m := t.New().Interface()
	if err := fromStruct(m, value); err != nil {
		if at := misfit(t, value, path); at != nil {
			err = at
		} else {
			err = fmt.Errorf("%s: %s", path, jsonReason(err))
		}
		return "", nil, err
	}
	config = &anypb.Any{}
	if err := anypb.MarshalFrom(config, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		return "", nil, fmt.Errorf("%s: %w", path, err)
	}
	return url, config, nil
}

func fromStruct(m proto.Message, value *structpb.Struct) error {
	if value == nil {
		return nil
	}
	text, err := protojson.Marshal(value)
	if err != nil {
		return err
	}
	return protojson.Unmarshal(text, m)
}

// misfit is the error of the first field of s, in the order of their names, that a message of type t has no place for, by its
// path; nil if each would do alone.
func misfit(t protoreflect.MessageType, s *structpb.Struct, path string) error {
	for _, key := range slices.Sorted(maps.Keys(s.GetFields())) {
		v, at := s.GetFields()[key], path+"."+key
		fd := t.Descriptor().Fields().ByJSONName(key)
		if fd == nil {
			fd = t.Descriptor().Fields().ByTextName(key)
		}
		if fd == nil {
			return fmt.Errorf("%s: %s has no such field", at, t.Descriptor().FullName())
		}
		var err error
		switch list, object := v.GetListValue(), v.GetStructValue(); {
		case isMessage(fd) && fd.IsList() && list != nil:
			of := t.New().NewField(fd).List().NewElement().Message().Type()
			for i, e := range list.GetValues() {
				if err == nil {
					err = misfitOne(of, e, fmt.Sprintf("%s[%d]", at, i))
				}
			}
		case isMessage(fd) && fd.IsMap() && object != nil:
			of := t.New().NewField(fd).Map().NewValue().Message().Type()
			for _, k := range slices.Sorted(maps.Keys(object.GetFields())) {
				if err == nil {
					err = misfitOne(of, object.GetFields()[k], fmt.Sprintf("%s[%s]", at, k))
				}
			}
		case isMessage(fd) && !fd.IsList() && !fd.IsMap() && object != nil:
			err = misfit(t.New().NewField(fd).Message().Type(), object, at)
		default:
			if e := fromStruct(t.New().Interface(), &structpb.Struct{Fields: map[string]*structpb.Value{key: v}}); e != nil {
				err = fmt.Errorf("%s: %s", at, jsonReason(e))
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func misfitOne(t protoreflect.MessageType, v *structpb.Value, at string) error {
	if v.GetStructValue() == nil {
		return fmt.Errorf("%s: is no %s", at, t.Descriptor().FullName())
	}
	return misfit(t, v.GetStructValue(), at)
}

// isMessage reports whether fd has messages that are written field by field.
func isMessage(fd protoreflect.FieldDescriptor) bool {
	if fd.IsMap() {
		fd = fd.MapValue()
	}
	return fd.Message() != nil && !strings.HasPrefix(string(fd.Message().FullName()), "google.protobuf.")
}

// jsonReason is an error of protojson without its line and column, of a text that nobody sees.
func jsonReason(err error) string {
	if _, reason, ok := strings.Cut(err.Error(), "): "); ok {
		return reason
	}
	return err.Error()
}
