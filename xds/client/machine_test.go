package client

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/xds/resource"
)

// The transcripts in testdata are one client's side of the protocol. They know
//
//	client delta|sotw [held=(a,b)]      a new client, with clusters held from before
//	subscribe CDS [names=(a,b)]         unsubscribe likewise
//	connect | drop
//	identify WORD…                      what the control plane calls itself; it must say index/1 to be asked for NDS
//	response CDS nonce=1 [removed=(a)] [type=EDS]   resources "a=1 b=2" below
//	accept | refuse [only=(a)]          the verdict on it, or on some of it, with the reason below
//	status
//
// and print what is applied ("apply …"; -a! is absent) and what is sent ("→ …").
//
// If a test fails, run go test ./xds/client -rewrite and look at the difference. Only
// commit the changes if you understand what caused them and if they are desired.
func TestMachine(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var m machine
		var last *received
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			list := func(key string) []string {
				for _, a := range d.CmdArgs {
					if a.Key == key {
						return a.Vals
					}
				}
				return nil
			}
			var out strings.Builder
			send := func(rs ...request) {
				for _, r := range rs {
					fmt.Fprintln(&out, "→", r)
				}
			}
			var typeURL string
			if len(d.CmdArgs) > 0 {
				typeURL = longURL(d.CmdArgs[0].Key)
			}
			switch d.Cmd {
			case "client":
				m = machine{sotw: d.CmdArgs[0].Key == "sotw", announced: map[string]string{}}
				if d.HasArg("announced") {
					m.announced[resource.NameTableType] = "index/1"
				}
				for _, n := range list("held") {
					m.restored = map[string]map[string]string{resource.ClusterType: {n: "1"}}
				}
			case "subscribe":
				m.subscribe(typeURL, list("names")...)
				send(m.pending()...)
			case "unsubscribe":
				m.unsubscribe(typeURL, list("names")...)
				send(m.pending()...)
			case "resubscribe": // both before anything is sent
				m.unsubscribe(typeURL, list("names")...)
				m.subscribe(typeURL, list("names")...)
				send(m.pending()...)
			case "identify":
				m.identifier = d.CmdArgs[0].Key
				send(m.pending()...)
			case "connect":
				send(m.connect()...)
			case "drop":
				m.disconnect()
			case "response":
				bodyType := typeURL
				if l := list("type"); l != nil {
					bodyType = longURL(l[0])
				}
				last = receive(&m, typeURL, bodyType, strings.Join(list("nonce"), ""), list("removed"), strings.Fields(d.Input))
				fmt.Fprintln(&out, last)
			case "accept":
				m.accepted(last)
				send(m.pending()...)
				send(m.answer(last.TypeURL, last.nonce, ""))
			case "refuse":
				if only := list("only"); only != nil {
					m.partly(last.without(refuses(only)))
				}
				send(m.answer(last.TypeURL, last.nonce, strings.TrimSpace(d.Input)))
			case "status":
				for _, s := range m.subs {
					fmt.Fprintf(&out, "%s wildcard=%v names=%v held=%v\n", resource.Short(s.typeURL), s.wildcard, s.names, s.held)
				}
			default:
				d.Fatalf(t, "unknown command %q", d.Cmd)
			}
			if out.Len() == 0 {
				return "nothing\n"
			}
			return out.String()
		})
	})
}

// refuses is an error about certain resources.
type refuses []string

func (r refuses) Error() string     { return "wrong" }
func (r refuses) Refused() []string { return r }

// receive makes a response of "name=body" and has it read.
func receive(m *machine, typeURL, bodyType, nonce string, removed, resources []string) *received {
	delta := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: typeURL, Nonce: nonce, SystemVersionInfo: "v" + nonce, RemovedResources: removed}
	sotw := &discoveryv3.DiscoveryResponse{TypeUrl: typeURL, Nonce: nonce, VersionInfo: "v" + nonce}
	for _, kv := range resources {
		name, body, hasBody := strings.Cut(kv, "=")
		// The name as field 1, as in all resources, and the content as field 2.
		b := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), name)
		b = protowire.AppendString(protowire.AppendTag(b, 2, protowire.BytesType), body)
		a := &anypb.Any{TypeUrl: bodyType, Value: b}
		sotw.Resources = append(sotw.Resources, a)
		if !hasBody {
			a = nil
		}
		delta.Resources = append(delta.Resources, &discoveryv3.Resource{Name: name, Version: body, Resource: a})
	}
	if m.sotw {
		return m.receiveSotW(sotw)
	}
	return m.receiveDelta(delta)
}

func (r *received) String() string {
	if r.problem != nil {
		return "wrong: " + r.problem.Error()
	}
	if r.empty() {
		return "apply nothing"
	}
	parts := []string{"apply", resource.Short(r.TypeURL)}
	for _, res := range r.Set {
		// The content is the last byte of what receive made.
		parts = append(parts, res.Name+"="+string(res.Body.Value[len(res.Body.Value)-1:]))
	}
	for _, n := range r.Removed {
		if slices.Contains(r.Absent, n) {
			n += "!"
		}
		parts = append(parts, "-"+n)
	}
	return strings.Join(parts, " ")
}

func (r request) String() string {
	parts := []string{resource.Short(r.typeURL)}
	add := func(key string, v any, show bool) {
		if show {
			parts = append(parts, fmt.Sprintf("%s=%v", key, v))
		}
	}
	switch {
	case r.nack != "":
		add("nack", r.nonce, true)
		add("error", fmt.Sprintf("%q", r.nack), true)
	default:
		add("ack", r.nonce, r.nonce != "")
	}
	add("sub", r.subscribe, len(r.subscribe) > 0)
	add("unsub", r.unsubscribe, len(r.unsubscribe) > 0)
	var known []string
	for _, n := range slices.Sorted(maps.Keys(r.known)) {
		known = append(known, n+"="+r.known[n])
	}
	add("known", known, len(known) > 0)
	add("names", r.names, len(r.names) > 0)
	add("version", r.version, r.version != "")
	return strings.Join(parts, " ")
}

func longURL(short string) string {
	for _, u := range []string{resource.ClusterType, resource.EndpointType, resource.ListenerType, resource.RouteType, resource.NameTableType} {
		if resource.Short(u) == short {
			return u
		}
	}
	return short
}

// What is in force and was refused is asked for again on the next stream, and a whole answer without it takes it away.
func TestWhatIsImpaired(t *testing.T) {
	m := &machine{sotw: true}
	m.subscribe(resource.ListenerType)
	m.connect()
	m.impaired(resource.ListenerType, []string{"a"})
	m.find(resource.ListenerType).held["b"] = "1"
	if r := m.receiveSotW(&discoveryv3.DiscoveryResponse{TypeUrl: resource.ListenerType}); !slices.Equal(r.Removed, []string{"a", "b"}) {
		t.Errorf("removed are %v", r.Removed)
	}
	m.disconnect()
	m.sotw = false
	for _, r := range m.connect() {
		if !maps.Equal(r.known, map[string]string{"b": "1"}) {
			t.Errorf("%v is said to be held", r.known)
		}
	}
}
