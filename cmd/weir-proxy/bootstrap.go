package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/proxy/overload"
)

// readBootstrap reads what of a bootstrap a proxy alone can have. Other parts are
// refused, because ignoring them would look like obeying.
func readBootstrap(file string) (*bootstrapv3.Bootstrap, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	b, err := parseBootstrap(text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return b, nil
}

func parseBootstrap(text []byte) (*bootstrapv3.Bootstrap, error) {
	doc, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(doc, []byte("{")) {
		return nil, errors.New("is not a bootstrap: it begins with static_resources, node or admin")
	}
	if doc, err = asTypedStructs(doc); err != nil {
		return nil, err
	}
	b := &bootstrapv3.Bootstrap{}
	if err := protojson.Unmarshal(doc, b); err != nil {
		return nil, placed(doc, err)
	}
	if err := read(b); err != nil {
		return nil, err
	}
	static := b.GetStaticResources()
	switch {
	case len(static.GetSecrets()) > 0:
		return nil, errors.New("static_resources.secrets: not supported; give certificates inline or by filename where they are used")
	case len(static.GetListeners()) == 0 && b.GetDynamicResources() == nil:
		return nil, errors.New("static_resources.listeners: is empty, so there is nothing to do")
	}
	names := map[string]bool{}
	for i, l := range static.GetListeners() {
		if l.GetName() == "" { // optional (Listener.name): Envoy makes a UUID
			l.Name = fmt.Sprintf("static_resources.listeners[%d]", i)
		}
		if names["listener "+l.GetName()] {
			return nil, fmt.Errorf("static_resources.listeners[%d]: there are two listeners %q; give each a name of its own", i, l.GetName())
		}
		names["listener "+l.GetName()] = true
	}
	for i, c := range static.GetClusters() {
		if names["cluster "+c.GetName()] {
			return nil, fmt.Errorf("static_resources.clusters[%d]: there are two clusters %q; give each a name of its own", i, c.GetName())
		}
		names["cluster "+c.GetName()] = true
	}
	if err := checkClusters(b); err != nil {
		return nil, err
	}
	return b, nil
}

// read refuses what is not read of a bootstrap. Without effect here, and so no lie: when statistics would be sent to those who are
// not there, and in which message of a stream the node stands.
func read(b *bootstrapv3.Bootstrap) error {
	d, a := b.GetDynamicResources(), b.GetDynamicResources().GetAdsConfig()
	for _, m := range []struct {
		path   string
		m      proto.Message
		fields []protoreflect.Name
	}{
		{"", b, []protoreflect.Name{"node", "static_resources", "dynamic_resources", "admin", "overload_manager", "layered_runtime", "stats_flush_interval", "stats_flush_on_admin"}},
		{"admin.", b.GetAdmin(), []protoreflect.Name{"address"}},
		{"admin.address.", b.GetAdmin().GetAddress(), []protoreflect.Name{"socket_address"}},
		{"admin.address.socket_address.", b.GetAdmin().GetAddress().GetSocketAddress(), []protoreflect.Name{"address", "port_value"}},
		{"dynamic_resources.", d, []protoreflect.Name{"lds_config", "cds_config", "ads_config"}},
		{"dynamic_resources.ads_config.", a, []protoreflect.Name{"api_type", "transport_api_version", "grpc_services", "set_node_on_first_message_only"}},
		{"dynamic_resources.ads_config.grpc_services[0].", first(a.GetGrpcServices()), []protoreflect.Name{"envoy_grpc"}},
		{"dynamic_resources.ads_config.grpc_services[0].envoy_grpc.", first(a.GetGrpcServices()).GetEnvoyGrpc(), []protoreflect.Name{"cluster_name"}},
	} {
		var err error
		m.m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, _ protoreflect.Value) bool {
			if !slices.Contains(m.fields, f.Name()) {
				err = fmt.Errorf("%s%s: not supported: leave it out", m.path, f.Name())
			}
			return err == nil
		})
		if err != nil {
			return err
		}
	}
	for i, layer := range b.GetLayeredRuntime().GetLayers() {
		if layer.GetStaticLayer() == nil {
			return fmt.Errorf("layered_runtime.layers[%d]: only a static_layer is supported", i)
		}
		for key := range layer.GetStaticLayer().GetFields() {
			if key != overload.RuntimeConnections {
				return fmt.Errorf("layered_runtime.layers[%d].static_layer: %s is not supported; %s is", i, key, overload.RuntimeConnections)
			}
		}
	}
	return nil
}

func first(s []*corev3.GrpcService) *corev3.GrpcService {
	if len(s) == 0 {
		return nil
	}
	return s[0]
}

// where is how protojson says where, in a document that nobody has seen. The space is
// one of two, so that nobody relies on it.
var where = regexp.MustCompile(`^proto:[ \x{00a0}](?:syntax error )?\(line 1:(\d+)\):[ \x{00a0}]`)

// placed names the field that an error of protojson is about.
func placed(doc []byte, err error) error {
	m := where.FindStringSubmatch(err.Error())
	if m == nil {
		return err
	}
	column, _ := strconv.Atoi(m[1])
	return fmt.Errorf("%s: %s", pathAt(doc, column-1), strings.TrimPrefix(err.Error(), m[0]))
}

// pathAt is the path of the field that stands at an offset of a JSON document.
func pathAt(doc []byte, offset int) string {
	type level struct {
		name  string // of the field
		index int    // of the entry; -1 in an object
		key   bool   // an object's next token is a name
	}
	var stack []level
	d := json.NewDecoder(bytes.NewReader(doc))
	for {
		t, err := d.Token()
		if err != nil {
			break
		}
		top := len(stack) - 1
		switch v := t.(type) {
		case json.Delim:
			switch v {
			case '{', '[':
				if top >= 0 && stack[top].index >= 0 {
					stack[top].index++
				}
				next := level{index: -1, key: true}
				if v == '[' {
					next = level{index: 0}
				}
				stack = append(stack, next)
				if d.InputOffset() > int64(offset) {
					stack = stack[:len(stack)-1]
				}
			default:
				stack = stack[:top]
				if top > 0 && stack[top-1].index < 0 {
					stack[top-1].key = true
				}
			}
		default:
			switch {
			case stack[top].index >= 0:
				stack[top].index++
			case stack[top].key:
				stack[top].name, stack[top].key = t.(string), false
			default:
				stack[top].key = true
			}
		}
		if d.InputOffset() > int64(offset) {
			break
		}
	}
	var path strings.Builder
	for _, l := range stack {
		switch {
		case l.index > 0:
			fmt.Fprintf(&path, "[%d]", l.index-1)
		case l.name != "":
			if path.Len() > 0 {
				path.WriteByte('.')
			}
			path.WriteString(l.name)
		}
	}
	return path.String()
}
