package state

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/xds/resource"
)

// FuzzMutations changes real resources here and there, through every Any: what a control plane of another version, or with a
// bug, might send. Each is taken or refused by name; what is taken has no filter that nobody knows, but optional ones, which
// are reported.
func FuzzMutations(f *testing.F) {
	var all strings.Builder
	for _, x := range istioFilters {
		all.WriteString(httpFilterText(x.name, x.config, ""))
	}
	type real struct {
		u      Update
		before []Update
	}
	resources := []real{
		{u: update(f, resource.ListenerType, fmt.Sprintf(inboundManager, "", all.String()))},
		{u: update(f, resource.ListenerType, httpsListener)},
		{u: update(f, resource.RouteType, routes9080)},
		{u: update(f, resource.ClusterType, reviewsCluster)},
		{u: update(f, resource.EndpointType, reviewsEndpoints("10.0.0.1:9080 istio", "[fd00::1]:9080 disabled")), before: []Update{update(f, resource.ClusterType, reviewsCluster)}},
	}
	for i := range uint64(400) {
		f.Add(i, i*7919, byte(1+i%5))
	}
	f.Fuzz(func(t *testing.T, which, seed uint64, changes byte) {
		x := resources[which%uint64(len(resources))]
		r := rand.New(rand.NewPCG(seed, 1))
		m, err := x.u.Set[0].Body.UnmarshalNew()
		if err != nil {
			t.Fatal(err)
		}
		for range changes%16 + 1 {
			mutate(r, m.ProtoReflect(), 0)
		}
		body, err := anypb.New(m)
		if err != nil {
			t.Skip() // a string that is not UTF-8
		}
		b := newBuilder()
		for _, u := range x.before {
			if _, _, err := b.Apply(u); err != nil {
				t.Fatal(err)
			}
		}
		name := x.u.Set[0].Name
		s, _, err := b.Apply(Update{TypeURL: x.u.TypeURL, Set: []Resource{{Name: name, Body: body}}})
		b.Wanted(nil)
		b.Missing()
		if err != nil {
			if err.Error() == "" {
				t.Error("it was refused without a word")
			}
			return
		}
		l, ok := m.(*listenerv3.Listener)
		if !ok || s.listeners[name] == nil || s.listeners[name].Config == nil {
			return
		}
		for _, c := range append(l.GetFilterChains(), l.GetDefaultFilterChain()) {
			for _, n := range c.GetFilters() {
				url, _, _ := opened(n.GetTypedConfig(), "")
				if n.GetConfigDiscovery() == nil && networkFilters[url] == "" {
					t.Errorf("a network filter %s was ignored", url)
				}
				manager := &hcmv3.HttpConnectionManager{}
				if n.GetTypedConfig().MessageIs(manager) && n.GetTypedConfig().UnmarshalTo(manager) == nil {
					for _, h := range manager.GetHttpFilters() {
						url, _, _ := opened(h.GetTypedConfig(), "")
						if _, ok := httpFilters[url]; !ok && h.GetConfigDiscovery() == nil && len(s.listeners[name].Skipped) == 0 {
							t.Errorf("an HTTP filter %s was ignored", url)
						}
					}
				}
			}
		}
	})
}

// mutate changes one thing somewhere in m.
func mutate(r *rand.Rand, m protoreflect.Message, depth int) {
	if a, ok := m.Interface().(*anypb.Any); ok {
		mutateAny(r, a, depth)
		return
	}
	var set []protoreflect.FieldDescriptor
	m.Range(func(fd protoreflect.FieldDescriptor, _ protoreflect.Value) bool { set = append(set, fd); return true })
	all := m.Descriptor().Fields()
	if all.Len() == 0 {
		return
	}
	fd := all.Get(r.IntN(all.Len()))
	if len(set) > 0 && r.IntN(5) > 0 {
		fd = set[r.IntN(len(set))]
	}
	switch {
	case r.IntN(12) == 0:
		m.Clear(fd)
	case fd.IsMap():
	case fd.IsList():
		l := m.Mutable(fd).List()
		switch {
		case l.Len() > 0 && r.IntN(4) > 0 && fd.Kind() == protoreflect.MessageKind:
			mutate(r, l.Get(r.IntN(l.Len())).Message(), depth+1)
		case l.Len() > 0 && r.IntN(2) == 0:
			l.Truncate(r.IntN(l.Len()))
		case fd.Kind() == protoreflect.MessageKind:
			l.Append(l.NewElement())
		default:
			l.Append(scalar(r, fd))
		}
	case fd.Kind() == protoreflect.MessageKind:
		if depth < 12 {
			mutate(r, m.Mutable(fd).Message(), depth+1)
		}
	default:
		m.Set(fd, scalar(r, fd))
	}
}

func mutateAny(r *rand.Rand, a *anypb.Any, depth int) {
	switch r.IntN(12) {
	case 0:
		a.TypeUrl = "type.googleapis.com/mystery.Filter"
		return
	case 1:
		a.TypeUrl = ""
		return
	case 2:
		if len(a.GetValue()) > 0 {
			a.Value = a.GetValue()[:r.IntN(len(a.GetValue()))]
		}
		return
	}
	if in, err := a.UnmarshalNew(); err == nil {
		mutate(r, in.ProtoReflect(), depth+1)
		if v, err := proto.Marshal(in); err == nil {
			a.Value = v
		}
	}
}

func scalar(r *rand.Rand, fd protoreflect.FieldDescriptor) protoreflect.Value {
	number := []int64{0, 1, -1, 7, 80, 65536, 1<<31 - 1, -1 << 31, 1<<63 - 1, r.Int64()}[r.IntN(10)]
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(number&1 == 1)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(protoreflect.EnumNumber(number & 15))
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(number))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(number))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(number)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(number))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(number) / 3)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(number) / 3)
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{byte(number), 0, 255})
	default:
		return protoreflect.ValueOfString([]string{"", "x", "*", "(", "%REQ(", "10.0.0.1", "::1", "a\nb", strings.Repeat("y", 300)}[r.IntN(9)])
	}
}
