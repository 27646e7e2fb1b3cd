package plainxds

import (
	"bytes"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	adminv3 "github.com/envoyproxy/go-control-plane/envoy/admin/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	cachev3 "github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/xds/dump"
)

// dumped is what /config_dump answers.
func (p *plane) dumped(query string) *adminv3.ConfigDump {
	p.t.Helper()
	v, err := url.ParseQuery(query)
	if err != nil {
		p.t.Fatal(err)
	}
	q, err := dump.ParseQuery(v)
	if err != nil {
		p.t.Fatal(err)
	}
	d, err := p.proxy.Dump()
	if err != nil {
		p.t.Fatal(err)
	}
	var b bytes.Buffer
	if err := dump.Write(&b, d, q); err != nil {
		p.t.Fatal(err)
	}
	out := &adminv3.ConfigDump{}
	if err := protojson.Unmarshal(b.Bytes(), out); err != nil {
		p.t.Fatalf("%v\n%s", err, b.String())
	}
	for _, secret := range []string{"PRIVATE KEY", p.vars["KEY"]} {
		if strings.Contains(b.String(), secret) {
			p.t.Errorf("a private key is shown:\n%s", b.String())
		}
	}
	return out
}

// held are the names in a dump, by kind.
func (p *plane) held(query string) string {
	p.t.Helper()
	var out []string
	for _, a := range p.dumped(query).GetConfigs() {
		m, err := a.UnmarshalNew()
		if err != nil {
			p.t.Fatal(err)
		}
		switch s := m.(type) {
		case *adminv3.BootstrapConfigDump:
			out = append(out, "bootstrap "+s.GetBootstrap().GetNode().GetId())
		case *adminv3.ClustersConfigDump:
			for _, c := range s.GetStaticClusters() {
				out = append(out, "static CDS "+p.name(c.GetCluster()))
			}
			for _, c := range s.GetDynamicActiveClusters() {
				out = append(out, "CDS "+p.name(c.GetCluster()))
			}
		case *adminv3.EndpointsConfigDump:
			for _, e := range s.GetDynamicEndpointConfigs() {
				out = append(out, "EDS "+p.name(e.GetEndpointConfig()))
			}
		case *adminv3.ListenersConfigDump:
			for _, l := range s.GetDynamicListeners() {
				out = append(out, "LDS "+l.GetName())
			}
		case *adminv3.ListenersConfigDump_DynamicListener:
			l := &listenerv3.Listener{}
			if err := s.GetActiveState().GetListener().UnmarshalTo(l); err != nil || l.GetName() != s.GetName() {
				p.t.Errorf("%v: %v", s, err)
			}
			out = append(out, "LDS "+s.GetName())
		case *adminv3.RoutesConfigDump:
			for _, r := range s.GetDynamicRouteConfigs() {
				out = append(out, "RDS "+p.name(r.GetRouteConfig()))
			}
		case *adminv3.EcdsConfigDump:
			for _, e := range s.GetEcdsFilters() {
				out = append(out, "ECDS "+p.name(e.GetEcdsFilter()))
			}
		case *adminv3.SecretsConfigDump:
			for _, x := range s.GetDynamicActiveSecrets() {
				out = append(out, "SDS "+x.GetName())
			}
		default:
			p.t.Errorf("%T", m)
		}
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// name is that of a resource in an Any.
func (p *plane) name(a *anypb.Any) string {
	p.t.Helper()
	m, err := a.UnmarshalNew()
	if err != nil {
		p.t.Fatal(err)
	}
	return cachev3.GetResourceName(m)
}

// What has come shows beside what the bootstrap has, as in Envoy, and what was taken away does not.
func TestDump(t *testing.T) {
	both(t, func(t *testing.T, p *plane) {
		p.publish(nil, "envoy.yaml")
		p.run()
		holds := func(query, want string) {
			p.until("/config_dump?"+query, func() error {
				if got := p.held(query); got != want {
					return fmt.Errorf("%s\nwant %s", got, want)
				}
				return nil
			})
		}
		const rest = "CDS logical, CDS original, CDS sds_server, CDS static, CDS strict, ECDS doors, EDS eds, LDS http, LDS original, LDS tcp, LDS tls, RDS local_route, SDS default, SDS server_cert, bootstrap test-node, static CDS xds_cluster"
		holds("include_eds", "CDS eds, "+rest)
		holds("resource=dynamic_listeners", "LDS http, LDS original, LDS tcp, LDS tls")
		holds("name_regex=^t", "LDS tcp, LDS tls")
		for _, c := range p.proxy.Clusters() {
			if c.Static != (c.Name == "xds_cluster") {
				t.Errorf("%s is said to be static: %v", c.Name, c.Static)
			}
		}
		p.publish(without("tcp", "strict"), "envoy.yaml")
		left := strings.NewReplacer("CDS strict, ", "", "LDS tcp, ", "")
		holds("include_eds", "CDS eds, "+left.Replace(rest))
	})
}
