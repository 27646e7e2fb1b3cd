// Package resource is the freight of the xDS corridor: a named, versioned, opaque
// message of one type, marshalled once and shared by everybody it is sent to.
//
// Marshalled protobuf messages enter, immutable Resources and Views of them leave.
// Translation makes them, xds/server sends them; neither this package nor the corridor
// looks inside. Everything here is immutable once made, so any number of goroutines may
// read it; there is no clock, goroutine or logger.
package resource

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"unique"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Resource is one xDS resource. It is made by New, NewNamed or FromBytes and never changes.
type Resource struct {
	name, typeURL, version string
	// wire holds the resource as one field of envoy.service.discovery.v3.DeltaDiscoveryResponse;
	// anyAt and bodyAt are offsets into it, see encode.
	wire          []byte
	anyAt, bodyAt int
	origins       []Origin
}

// Origin names something that a resource was made of: a configuration object. It is
// interned, so that it is one word and compares as one. Its text is the maker's affair.
type Origin = unique.Handle[string]

// New marshals m deterministically. The type URL is that of m.
func New(name string, m proto.Message) (*Resource, error) {
	return NewNamed(TypeURL(m), name, m)
}

// NewNamed is New for the types whose URL does not follow from the message.
func NewNamed(typeURL, name string, m proto.Message) (*Resource, error) {
	b, err := Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("marshalling %s %q: %w", Short(typeURL), name, err)
	}
	return FromBytes(typeURL, name, b), nil
}

// FromBytes makes a Resource of a message that is marshalled already. body is copied.
func FromBytes(typeURL, name string, body []byte) *Resource {
	r := &Resource{name: name, typeURL: typeURL, version: Version(body)}
	r.encode(body)
	return r
}

// Version is the version of a resource with this content: 128 bits of SHA-256 in hex. A
// hash that cannot be steered matters, because whoever can make two contents of one
// version can keep a proxy from being told of the second.
func Version(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:16])
}

// Marshal marshals m so that equal messages give equal bytes (within one build of this
// program, which is all that a version needs: another build at worst sends once more).
func Marshal(m proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(m)
}

// Any packs m deterministically, for messages nested in a resource: anypb.New is not
// deterministic, and a resource that holds its result would change its version at random.
func Any(m proto.Message) (*anypb.Any, error) {
	b, err := Marshal(m)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: TypeURL(m), Value: b}, nil
}

// TypeURL is the type URL of m.
func TypeURL(m proto.Message) string {
	return typePrefix + string(m.ProtoReflect().Descriptor().FullName())
}

// MadeOf says what r was made of and returns r. It is for its maker, before anybody else
// has r, which keeps the slice. The content and so the version do not depend on it.
func (r *Resource) MadeOf(origins []Origin) *Resource {
	r.origins = origins
	return r
}

// Origins are what r was made of, some perhaps twice. The caller must not change them.
func (r *Resource) Origins() []Origin { return r.origins }

// Name is the name that clients subscribe to.
func (r *Resource) Name() string { return r.name }

// TypeURL is the type of the resource, for example ClusterType.
func (r *Resource) TypeURL() string { return r.typeURL }

// Version is the hash of the content.
func (r *Resource) Version() string { return r.version }

// Body is the marshalled message. The caller must not change it.
func (r *Resource) Body() []byte { return r.wire[r.bodyAt:] }

// Any is the resource as an Any that shares the body; the caller must not change that.
func (r *Resource) Any() *anypb.Any {
	return &anypb.Any{TypeUrl: r.typeURL, Value: r.Body()}
}

// Unmarshal decodes the body into m, whose type must be the resource's.
func (r *Resource) Unmarshal(m proto.Message) error {
	if err := proto.Unmarshal(r.Body(), m); err != nil {
		return fmt.Errorf("decoding %s: %w", r, err)
	}
	return nil
}

// DeltaField is the resource encoded as one element of the field `resources` of
// DeltaDiscoveryResponse, ready to be appended to one. The caller must not change it.
func (r *Resource) DeltaField() []byte { return r.wire }

// SotwField is the resource encoded as one element of the field `resources` of
// DiscoveryResponse, ready to be appended to one. The caller must not change it.
func (r *Resource) SotwField() []byte { return r.wire[r.anyAt:] }

func (r *Resource) String() string {
	return fmt.Sprintf("%s %q", Short(r.typeURL), r.name)
}

// Same reports whether a client that holds a holds b: the same resource, or the same
// version of it.
func Same(a, b *Resource) bool {
	return a == b || a != nil && b != nil && a.version == b.version
}

// Equal reports whether a and b are the same and made of the same.
func Equal(a, b *Resource) bool {
	return Same(a, b) && (a == b || slices.Equal(a.origins, b.origins))
}

// Field numbers of envoy/service/discovery/v3/discovery.proto and google/protobuf/any.proto.
const (
	fieldResources       = 2 // of DiscoveryResponse and of DeltaDiscoveryResponse
	fieldResourceVersion = 1 // of Resource
	fieldResourceName    = 3
	fieldResourceBody    = 2
	fieldAnyTypeURL      = 1
	fieldAnyValue        = 2
)

// encode lays the resource out once for both protocols:
//
//	DeltaDiscoveryResponse.resources { name, version, resource (an Any) { type_url, value } }
//	                                                  └ the same bytes are DiscoveryResponse.resources
//
// because the Any is field 2 in Resource and in DiscoveryResponse alike. Written last, it is
// a suffix of the whole, as the body is a suffix of it.
func (r *Resource) encode(body []byte) {
	size := func(field protowire.Number, n int) int {
		return protowire.SizeTag(field) + protowire.SizeBytes(n)
	}
	anySize := size(fieldAnyTypeURL, len(r.typeURL)) + size(fieldAnyValue, len(body))
	resSize := size(fieldResourceName, len(r.name)) + size(fieldResourceVersion, len(r.version)) +
		size(fieldResourceBody, anySize)

	b := make([]byte, 0, size(fieldResources, resSize))
	b = protowire.AppendTag(b, fieldResources, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(resSize))
	b = appendString(b, fieldResourceName, r.name)
	b = appendString(b, fieldResourceVersion, r.version)
	r.anyAt = len(b)
	b = protowire.AppendTag(b, fieldResourceBody, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(anySize))
	b = appendString(b, fieldAnyTypeURL, r.typeURL)
	b = protowire.AppendTag(b, fieldAnyValue, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(len(body)))
	r.bodyAt = len(b)
	r.wire = append(b, body...)
}

func appendString(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}
