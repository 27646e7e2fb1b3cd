// Package dump is Envoy's /config_dump: which resources a client of xDS holds, or is to
// hold, as JSON that istioctl and other tools read.
//
// Resources with names, versions and bodies enter Write; Read gives a dump back, as
// written by Weir or by Envoy, with the bodies as JSON. Both planes write, the command
// line reads. What Envoy's API marks as sensitive (private keys, passwords) never leaves.
// Everything here is a function of its arguments and may be called from any goroutine.
package dump

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/xds/resource"
)

// Resource is one resource that a client holds.
type Resource struct {
	TypeURL, Name, Version string
	Body                   *anypb.Any
	Static                 bool // from the bootstrap file
	// Refused is about a newer version that the client did not take; nil if there is none.
	Refused *Refusal
}

// Refusal says why a version of a resource was not taken.
type Refusal struct {
	Version string    `json:"version_info,omitempty"` // the server's, of the response
	Details string    `json:"details"`
	Time    time.Time `json:"last_update_attempt"`
}

// Dump is what a client holds. Its resources need no order.
type Dump struct {
	Bootstrap proto.Message // an envoy.config.bootstrap.v3.Bootstrap, nil for none
	Resources []Resource
}

// section is one of the dump's messages, envoy.admin.v3.<name>.
type section struct {
	name, typeURL string
	// The fields of the two lists, the types of their elements, and the field of the body.
	static, dynamic, staticType, dynamicType, body string
}

const adminPrefix = "type.googleapis.com/envoy.admin.v3."

// sections are in Envoy's order.
var sections = []section{
	{"ClustersConfigDump", resource.ClusterType, "static_clusters", "dynamic_active_clusters", "StaticCluster", "DynamicCluster", "cluster"},
	{"EcdsConfigDump", resource.ExtensionConfigType, "", "ecds_filters", "", "EcdsFilterConfig", "ecds_filter"},
	{"EndpointsConfigDump", resource.EndpointType, "static_endpoint_configs", "dynamic_endpoint_configs", "StaticEndpointConfig", "DynamicEndpointConfig", "endpoint_config"},
	{"ListenersConfigDump", resource.ListenerType, "static_listeners", "dynamic_listeners", "StaticListener", "DynamicListener", "listener"},
	{"RoutesConfigDump", resource.RouteType, "static_route_configs", "dynamic_route_configs", "StaticRouteConfig", "DynamicRouteConfig", "route_config"},
	{"SecretsConfigDump", resource.SecretType, "static_secrets", "dynamic_active_secrets", "StaticSecret", "DynamicSecret", "secret"},
}

// nested reports whether the body of a dynamic element is in its active_state.
func (s *section) nested() bool { return s.typeURL == resource.ListenerType }

// Query chooses a part of a dump, as the query of GET /config_dump does.
type Query struct {
	// EDS includes load assignments.
	EDS bool
	// Resource is the list of which alone the elements are wanted, for example
	// "dynamic_listeners"; "" for everything.
	Resource string
	// Name matches the names of the resources wanted; nil for all.
	Name *regexp.Regexp
}

// ParseQuery reads include_eds, resource and name_regex.
func ParseQuery(v url.Values) (Query, error) {
	q := Query{EDS: v.Has("include_eds"), Resource: v.Get("resource")}
	if v.Has("mask") {
		return q, errors.New("mask is not supported: resource and name_regex choose parts")
	}
	if q.Resource != "" && !slices.ContainsFunc(sections, func(s section) bool { return s.static == q.Resource || s.dynamic == q.Resource }) {
		return q, fmt.Errorf("resource %.80q is not part of a dump: dynamic_listeners is, for example", q.Resource)
	}
	if s := v.Get("name_regex"); s != "" {
		var err error
		if q.Name, err = regexp.Compile(s); err != nil {
			return q, fmt.Errorf("name_regex: %w", err)
		}
	}
	return q, nil
}

// Write writes the part of d that q chooses, an element at a time: a dump is as large as
// the mesh.
func Write(w io.Writer, d *Dump, q Query) error {
	out := &writer{w: w}
	out.text("{\n \"configs\": [")
	if d.Bootstrap != nil && q.Resource == "" && q.Name == nil {
		body, err := marshal(d.Bootstrap)
		if err != nil {
			return fmt.Errorf("bootstrap: %w", err)
		}
		out.element(2, map[string]any{"@type": adminPrefix + "BootstrapConfigDump", "bootstrap": body})
	}
	resources := joined(d.Resources)
	slices.SortStableFunc(resources, func(a, b Resource) int { return strings.Compare(a.Name, b.Name) })
	for _, s := range sections {
		wanted := func(static bool) func(Resource) bool {
			return func(r Resource) bool {
				return r.TypeURL == s.typeURL && r.Static == static && (q.Name == nil || q.Name.MatchString(r.Name))
			}
		}
		switch {
		case q.Resource != "":
			for _, list := range []struct {
				field, typ string
				static     bool
			}{{s.static, s.staticType, true}, {s.dynamic, s.dynamicType, false}} {
				if list.field != q.Resource {
					continue
				}
				if err := out.elements(2, &s, resources, wanted(list.static), adminPrefix+s.name+"."+list.typ); err != nil {
					return err
				}
			}
		case s.typeURL == resource.EndpointType && !q.EDS, s.typeURL == resource.ExtensionConfigType && !slices.ContainsFunc(resources, wanted(false)):
		default:
			out.open(2, "{\n   \"@type\": %q", adminPrefix+s.name)
			for _, list := range []struct {
				field  string
				static bool
			}{{s.static, true}, {s.dynamic, false}} {
				if list.field == "" || !slices.ContainsFunc(resources, wanted(list.static)) {
					continue
				}
				out.text(",\n   \"" + list.field + "\": [")
				out.first = true
				if err := out.elements(4, &s, resources, wanted(list.static), ""); err != nil {
					return err
				}
				out.text("\n   ]")
			}
			out.text("\n  }")
			out.first = false
		}
	}
	out.text("\n ]\n}\n")
	return out.err
}

// writer writes lists of JSON objects.
type writer struct {
	w     io.Writer
	err   error
	begun bool // an element of the outermost list is there
	first bool
}

func (w *writer) text(s string) {
	if w.err == nil {
		_, w.err = io.WriteString(w.w, s)
	}
}

// open begins an element of the outermost list.
func (w *writer) open(indent int, format string, args ...any) {
	if w.begun {
		w.text(",")
	}
	w.begun = true
	w.text("\n" + strings.Repeat(" ", indent) + fmt.Sprintf(format, args...))
}

func (w *writer) element(indent int, v any) {
	b, err := json.MarshalIndent(v, strings.Repeat(" ", indent), " ")
	if err != nil && w.err == nil {
		w.err = err
	}
	w.open(indent, "%s", b)
}

// elements writes the resources wanted. typ is the @type that elements of the outermost
// list have.
func (w *writer) elements(indent int, s *section, all []Resource, wanted func(Resource) bool, typ string) error {
	if typ == "" {
		outer := w.begun
		defer func() { w.begun = outer }()
		w.begun = false
	}
	for _, r := range all {
		if !wanted(r) {
			continue
		}
		v, err := s.element(r)
		if err != nil {
			return err
		}
		if typ != "" {
			v["@type"] = typ
		}
		w.element(indent, v)
		if w.err != nil {
			return w.err
		}
	}
	return nil
}

// element is a resource as the section's lists have it.
func (s *section) element(r Resource) (map[string]any, error) {
	body, err := marshal(r.Body)
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w", resource.Short(r.TypeURL), r.Name, err)
	}
	v := map[string]any{s.body: body}
	if r.Version != "" {
		v["version_info"] = r.Version
	}
	if s.nested() && !r.Static {
		v = map[string]any{"active_state": v}
	}
	if r.TypeURL == resource.SecretType || s.nested() && !r.Static {
		v["name"] = r.Name
	}
	if r.Refused != nil {
		v["error_state"] = r.Refused
	}
	return v, nil
}

// joined puts virtual hosts that come by VHDS (named "<route configuration>/<host>") into
// the route configurations that they belong to, as Envoy does.
func joined(all []Resource) []Resource {
	hosts := map[string][]*routev3.VirtualHost{}
	for _, r := range all {
		table, _, ok := strings.Cut(r.Name, "/")
		h := &routev3.VirtualHost{}
		if r.TypeURL == resource.VirtualHostType && ok && r.Body.UnmarshalTo(h) == nil {
			hosts[table] = append(hosts[table], h)
		}
	}
	out := slices.Clone(all)
	for i, r := range out {
		c := &routev3.RouteConfiguration{}
		if r.TypeURL != resource.RouteType || len(hosts[r.Name]) == 0 || r.Body.UnmarshalTo(c) != nil {
			continue
		}
		c.VirtualHosts = append(c.VirtualHosts, hosts[r.Name]...)
		slices.SortStableFunc(c.VirtualHosts, func(a, b *routev3.VirtualHost) int { return strings.Compare(a.GetName(), b.GetName()) })
		if a, err := anypb.New(c); err == nil {
			out[i].Body = a
		}
	}
	return out
}

// marshal writes a message as JSON with the names of the proto, without secrets. What is
// packed in a type that this program does not know is named, not shown.
func marshal(m proto.Message) (json.RawMessage, error) {
	m, err := redacted(m)
	if err != nil {
		return nil, err
	}
	b, err := protojson.MarshalOptions{UseProtoNames: true, Resolver: protoregistry.GlobalTypes}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var tidy bytes.Buffer // protojson puts spaces at random
	if err := json.Compact(&tidy, b); err != nil {
		return nil, err
	}
	return tidy.Bytes(), nil
}
