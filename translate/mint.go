package translate

import (
	"fmt"
	"slices"
	"time"
	"unique"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

// mint turns messages into bytes. Whatever does not satisfy xDS's own rules, or is no
// text where text is demanded, is remembered as the first error, so that a builder can
// be written straight down and asked once at its end. A message that would be refused
// by a proxy takes everything beside it down, hence it must not leave.
type mint struct {
	err error
	// origins are what the resources made from now on are made of.
	origins []resource.Origin
}

// Origin is how resources name an object that they are made of.
func Origin(kind, namespace, name string) resource.Origin {
	return unique.Make(kind + "/" + namespace + "/" + name)
}

func originOf(r *mesh.Ref) resource.Origin { return Origin(r.Kind, r.Namespace, r.Name) }

// of notes objects; nil is none.
func (k *mint) of(refs ...*mesh.Ref) {
	for _, r := range refs {
		if r != nil {
			k.from(originOf(r))
		}
	}
}

func (k *mint) from(origins ...resource.Origin) {
	for _, o := range origins {
		if !slices.Contains(k.origins, o) {
			k.origins = append(k.origins, o)
		}
	}
}

func (k *mint) fail(err error) {
	if k.err == nil {
		k.err = err
	}
}

// check applies the rules written into the protos (protoc-gen-validate).
func (k *mint) check(m proto.Message) {
	if v, ok := m.(interface{ Validate() error }); ok && k.err == nil {
		k.err = v.Validate()
	}
}

// vet checks a part that will be marshalled with others, which it must not take down.
func (k *mint) vet(m proto.Message) {
	k.check(m)
	k.marshal(m)
}

func (k *mint) any(m proto.Message) *anypb.Any {
	k.check(m)
	a, err := resource.Any(m)
	if err != nil {
		k.fail(err)
	}
	return a
}

func (k *mint) marshal(m proto.Message) []byte {
	b, err := resource.Marshal(m)
	if err != nil {
		k.fail(err)
	}
	return b
}

// resource is nil after an error.
func (k *mint) resource(name string, m proto.Message) *resource.Resource {
	k.check(m)
	b := k.marshal(m)
	if k.err != nil {
		return nil
	}
	return resource.FromBytes(resource.TypeURL(m), name, b).MadeOf(slices.Clone(k.origins))
}

func duration(d time.Duration) *durationpb.Duration { return durationpb.New(d) }

// someDuration is nil for 0, which xDS reads as "not given".
func someDuration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// idleTimeout is someDuration of a timeout that is none when it is negative: 0 in xDS.
func idleTimeout(d time.Duration) *durationpb.Duration {
	if d < 0 {
		return durationpb.New(0)
	}
	return someDuration(d)
}

func u32(v uint32) *wrapperspb.UInt32Value { return wrapperspb.UInt32(v) }

func someU32(v uint32) *wrapperspb.UInt32Value {
	if v == 0 {
		return nil
	}
	return wrapperspb.UInt32(v)
}

func text(s string) *structpb.Value { return structpb.NewStringValue(s) }

func fields(kv map[string]*structpb.Value) *structpb.Struct { return &structpb.Struct{Fields: kv} }

// origin is the metadata by which a decision names the object, its version and the line it came from.
func origin(kind string, r *mesh.Ref, line int) *corev3.Metadata {
	m := &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{"istio": fields(map[string]*structpb.Value{"config": text(configPath(kind, r))})}}
	if r.Hash != "" {
		ours(m)["hash"] = text(r.Hash)
	}
	if line == 0 {
		line = r.Line
	}
	if r.File != "" {
		ours(m)["file"], ours(m)["line"] = text(r.File), structpb.NewNumberValue(float64(line))
	}
	return m
}

func socketAddress(addr string, port uint16) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: addr, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}

func ads() *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		InitialFetchTimeout:   &durationpb.Duration{}, // 0: wait; xDS's own default goes on with nothing after 15 s
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}

// Problem is something about an object that translation had to set aside or to decide
// against the operator's likely intention. The rest of the object is in force.
type Problem struct {
	Ref  mesh.Ref
	Line int // of the part concerned; 0: the object's own
	Text string
}

func problem(r *mesh.Ref, line int, format string, args ...any) Problem {
	return Problem{Ref: *r, Line: line, Text: fmt.Sprintf(format, args...)}
}
