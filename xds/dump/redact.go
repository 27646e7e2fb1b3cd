package dump

import (
	"github.com/cncf/xds/go/udpa/annotations"
	typev1 "github.com/cncf/xds/go/udpa/type/v1"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	jwtauthnv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/jwt_authn/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/internal/jwt"
)

// secret stands for what is not shown, as in Envoy.
const secret = "[redacted]"

// redacted is a copy of m without what is sensitive, and with every message that cannot be
// unpacked here replaced by a TypedStruct that says what it is.
func redacted(m proto.Message) (proto.Message, error) {
	m = proto.Clone(m)
	if err := redact(m.ProtoReflect(), false); err != nil {
		return nil, err
	}
	return m, nil
}

// redact replaces what is sensitive in m; all of it, if sensitive says so.
func redact(m protoreflect.Message, sensitive bool) error {
	if a, ok := m.Interface().(*anypb.Any); ok {
		return redactAny(a, sensitive)
	}
	if p, ok := m.Interface().(*jwtauthnv3.JwtProvider); ok {
		if keys, ok := p.GetLocalJwks().GetSpecifier().(*corev3.DataSource_InlineString); ok {
			keys.InlineString = jwt.Redacted(keys.InlineString)
		}
	}
	var fail error
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		hide := sensitive || proto.GetExtension(f.Options(), annotations.E_Sensitive).(bool)
		switch {
		case f.IsMap():
			fail = redactMap(f, v.Map(), hide)
		case f.IsList():
			fail = redactList(f, v.List(), hide)
		case f.Message() != nil:
			fail = redact(v.Message(), hide)
		case hide:
			if r, ok := hidden(f); ok {
				m.Set(f, r)
			} else {
				m.Clear(f)
			}
		}
		return fail == nil
	})
	return fail
}

func redactList(f protoreflect.FieldDescriptor, l protoreflect.List, hide bool) error {
	r, ok := hidden(f)
	for i := range l.Len() {
		switch {
		case f.Message() != nil:
			if err := redact(l.Get(i).Message(), hide); err != nil {
				return err
			}
		case hide && ok:
			l.Set(i, r)
		}
	}
	if hide && f.Message() == nil && !ok {
		l.Truncate(0)
	}
	return nil
}

func redactMap(f protoreflect.FieldDescriptor, m protoreflect.Map, hide bool) (fail error) {
	r, ok := hidden(f.MapValue())
	m.Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
		switch {
		case f.MapValue().Message() != nil:
			fail = redact(v.Message(), hide)
		case hide && ok:
			m.Set(k, r)
		case hide:
			m.Clear(k)
		}
		return fail == nil
	})
	return fail
}

// hidden is what stands for a value; of numbers and the like nothing does.
func hidden(f protoreflect.FieldDescriptor) (protoreflect.Value, bool) {
	switch f.Kind() {
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(secret), true
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(secret)), true
	}
	return protoreflect.Value{}, false
}

func redactAny(a *anypb.Any, sensitive bool) error {
	inner, err := a.UnmarshalNew()
	if err != nil {
		if inner, err = anypb.New(&typev1.TypedStruct{TypeUrl: a.GetTypeUrl()}); err != nil {
			return err
		}
		a.TypeUrl, a.Value = inner.(*anypb.Any).TypeUrl, inner.(*anypb.Any).Value
		return nil
	}
	if err := redact(inner.ProtoReflect(), sensitive); err != nil {
		return err
	}
	a.Value, err = proto.MarshalOptions{Deterministic: true}.Marshal(inner)
	return err
}
