package state

import (
	"slices"
	"strings"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/dynamicpb"
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
	for _, m := range []proto.Message{&listenerv3.Listener{}, &hcmv3.HttpConnectionManager{}, &tcpproxyv3.TcpProxy{}, &routev3.RouteConfiguration{}, &routev3.VirtualHost{}, &clusterv3.Cluster{},
		&endpointv3.ClusterLoadAssignment{}, &tlsv3.Secret{}, &tlsv3.UpstreamTlsContext{}, &tlsv3.DownstreamTlsContext{}} {
		if _, known := fields[m.ProtoReflect().Descriptor().FullName()]; !known {
			t.Errorf("%s is not in the table", m.ProtoReflect().Descriptor().FullName())
		}
		walk(m.ProtoReflect().Descriptor())
	}
	t.Logf("%d messages: %d fields are honoured, %d left alone, %d refused", len(seen), acts, inert, refused)
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
