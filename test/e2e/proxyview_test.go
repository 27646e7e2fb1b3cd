package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/encoding/protojson"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/cli/envoy"
	"github.com/weirmesh/weir/test/mesh"
	"github.com/weirmesh/weir/xds/dump"
)

// What the control plane sends is what a proxy holds, resource by resource, a gateway's
// certificates with it; what a proxy refuses is seen on both sides; and no key is shown.
func TestProxyView(t *testing.T) {
	t.Parallel()
	b := newBookinfo(t)
	b.Config("networking.yaml", documents(b.origins["ours"]("bookinfo-gateway.yaml"), b.origins["ours"]("destination-rule-all.yaml"), b.origins["ours"]("virtual-service-reviews-50-v3.yaml")))
	held := func(w *mesh.Workload) *dump.Held {
		t.Helper()
		r := w.Admin(http.MethodGet, "/config_dump?include_eds")
		if bytes.Contains(r.Body, []byte("PRIVATE KEY")) {
			t.Errorf("%s shows a private key", w.Name)
		}
		h, err := dump.Read(bytes.NewReader(r.Body))
		if err != nil {
			t.Fatalf("%s: %v: %v", w.Name, r, err)
		}
		return h
	}
	differences := func(w *mesh.Workload) []dump.Difference {
		t.Helper()
		text, err := b.API().ProxyConfig(context.Background(), w.Namespace+"/"+w.Name)
		if err != nil {
			t.Fatal(err)
		}
		sent, err := dump.Read(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		out, err := dump.Diff(sent, held(w))
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	for _, w := range b.pods {
		b.Eventually(w.Name+" holds what it is sent", func() error {
			if d := differences(w); len(d) > 0 {
				return fmt.Errorf("%d differences, the first: %+v", len(d), d[0])
			}
			return nil
		})
	}
	client := held(b.client)
	complete(t, client.Bootstrap)
	if _, table, err := envoy.Clusters(client, envoy.ClusterFilter{FQDN: "reviews", Subset: "v3"}); err != nil || len(table.Rows) != 1 || table.Rows[0][5] != "reviews.default" {
		t.Errorf("clusters: %v %v", table, err)
	}
	if _, table, err := envoy.Routes(client, "reviews.default.svc.cluster.local:9080"); err != nil || len(table.Rows) != 1 || table.Rows[0][4] != "reviews.default" {
		t.Errorf("routes: %v %v", table, err)
	}
	if _, table, err := envoy.Listeners(client, envoy.ListenerFilter{Type: "HTTP"}); err != nil || !slices.ContainsFunc(table.Rows, func(r []string) bool { return r[3] == "Route: reviews.default.svc.cluster.local:9080" }) {
		t.Errorf("listeners: %v %v", table, err)
	}
	if _, table, err := envoy.Secrets(client, time.Now()); err != nil || len(table.Rows) != 2 || table.Rows[1][3] != "true" {
		t.Errorf("secrets: %v %v", table, err)
	}
	var now envoy.ClusterStatuses
	if err := json.Unmarshal(b.client.Admin(http.MethodGet, "/clusters?format=json").Body, &now); err != nil {
		t.Fatal(err)
	}
	if _, table, err := envoy.Endpoints(&now, envoy.EndpointFilter{Cluster: "outbound|9080|v3|reviews.default.svc.cluster.local"}); err != nil || len(table.Rows) != 1 || table.Rows[0][1] != "HEALTHY" {
		t.Errorf("endpoints: %v %v", table, err)
	}

	// A certificate file that is not there: the proxy refuses that cluster, and goes on.
	b.Write("refused.yaml", `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: details-files}
spec: {host: details, trafficPolicy: {tls: {mode: MUTUAL, clientCertificate: /nowhere/cert, privateKey: /nowhere/key, caCertificates: /nowhere/ca}}}
`)
	b.Eventually("the refusal is seen", func() error {
		d := differences(b.client)
		if len(d) == 0 || d[0].Refused == nil || !strings.Contains(d[0].Refused.Details, "/nowhere/") {
			return fmt.Errorf("differences: %+v", d)
		}
		for _, p := range proxies(t, b.Mesh) {
			if p.Name == "default/client-0" {
				for _, s := range p.Types {
					if s.Type == "CDS" && s.State == apiv1.Erred {
						return nil
					}
				}
				return fmt.Errorf("%+v", p.Types)
			}
		}
		return errors.New("the client is not connected")
	})
	b.Remove("refused.yaml")
	b.Eventually("nothing is refused any more", func() error {
		for _, p := range proxies(t, b.Mesh) {
			for _, s := range p.Types {
				if s.State != apiv1.Synced && s.State != apiv1.Ignored && s.State != apiv1.NotSent {
					return fmt.Errorf("%s: %+v", p.Name, s)
				}
			}
		}
		return nil
	})
}

// complete checks what an Envoy would of a bootstrap: every rule of its messages, what is in them
// packed included, and that the cluster of the control plane is there.
func complete(t *testing.T, text []byte) {
	t.Helper()
	b := &bootstrapv3.Bootstrap{}
	if err := errors.Join(protojson.Unmarshal(text, b), b.ValidateAll()); err != nil {
		t.Error(err)
	}
	name := b.GetDynamicResources().GetAdsConfig().GetGrpcServices()[0].GetEnvoyGrpc().GetClusterName()
	clusters := b.GetStaticResources().GetClusters()
	if len(clusters) != 1 || clusters[0].GetName() != name {
		t.Fatalf("cluster %q is not among %v", name, clusters)
	}
	options, secure := &upstreamsv3.HttpProtocolOptions{}, &tlsv3.UpstreamTlsContext{}
	for _, x := range clusters[0].GetTypedExtensionProtocolOptions() {
		if err := errors.Join(x.UnmarshalTo(options), options.ValidateAll()); err != nil || options.GetExplicitHttpConfig().GetHttp2ProtocolOptions() == nil {
			t.Errorf("%v %v", options, err)
		}
	}
	if err := errors.Join(clusters[0].GetTransportSocket().GetTypedConfig().UnmarshalTo(secure), secure.ValidateAll()); err != nil {
		t.Error(err)
	}
	names := secure.GetCommonTlsContext().GetValidationContext().GetMatchTypedSubjectAltNames()
	if len(names) != 1 || names[0].GetMatcher().GetExact() != "spiffe://cluster.local/ns/istio-system/sa/istiod" {
		t.Errorf("the control plane has to be %v", names)
	}
}

func proxies(t *testing.T, m *mesh.Mesh) []apiv1.ProxyStatus {
	t.Helper()
	all, _, err := m.API().Proxies(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Kiali reads Istio's debug interface, and finds what it knows; what is a secret needs the
// token.
func TestKialiReadsTheControlPlane(t *testing.T) {
	t.Parallel()
	b := newBookinfo(t)
	b.Config("networking.yaml", documents(b.origins["ours"]("bookinfo-gateway.yaml"), b.origins["ours"]("virtual-service-reviews-50-v3.yaml")))
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string, v any) int {
		t.Helper()
		resp, err := plain.Get("http://" + b.API().Address() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		if v != nil {
			if err := json.Unmarshal(body, v); err != nil {
				t.Fatalf("%s: %v:\n%s", path, err, body)
			}
		}
		return resp.StatusCode
	}
	var sync []struct {
		Proxy         string
		ClusterSent   string `json:"cluster_sent"`
		ClusterACKed  string `json:"cluster_acked"`
		EndpointSent  string `json:"endpoint_sent"`
		EndpointACKed string `json:"endpoint_acked"`
	}
	b.Eventually("Kiali sees every proxy in sync", func() error {
		get("/debug/syncz", &sync)
		if len(sync) != len(b.pods) {
			return fmt.Errorf("%d proxies", len(sync))
		}
		for _, s := range sync {
			name, _, _ := strings.Cut(s.Proxy, ".")
			if b.pods[name] == nil || s.ClusterSent == "" || s.ClusterSent != s.ClusterACKed || s.EndpointSent != s.EndpointACKed {
				return fmt.Errorf("%+v", s)
			}
		}
		return nil
	})
	var services []struct {
		Hostname   string
		Attributes struct{ Name, Namespace, ServiceRegistry string }
		Ports      []struct {
			Name, Protocol string
			Port           int
		}
		ClusterVIPs struct{ Addresses map[string][]string } `json:"clusterVIPs"`
	}
	get("/debug/registryz", &services)
	found := false
	for _, s := range services {
		if s.Hostname == "reviews.default.svc.cluster.local" {
			found = s.Attributes.Name == "reviews" && s.Attributes.Namespace == "default" && s.Attributes.ServiceRegistry == "Kubernetes" &&
				s.Ports[0].Port == 9080 && s.Ports[0].Protocol == "HTTP" && len(s.ClusterVIPs.Addresses["Kubernetes"]) == 1
		}
	}
	if !found {
		t.Errorf("registryz: %+v", services)
	}
	var objects []struct {
		Kind     string
		Metadata struct{ Name, Namespace string }
		Spec     map[string]any
	}
	get("/debug/configz", &objects)
	kinds := map[string]bool{}
	for _, o := range objects {
		kinds[o.Kind] = o.Metadata.Name != "" && o.Metadata.Namespace == "default" && o.Spec != nil
	}
	if !kinds["VirtualService"] || !kinds["Gateway"] || kinds["Deployment"] {
		t.Errorf("configz: %+v", objects)
	}
	for path, want := range map[string]int{"/ready": 200, "/version": 200, "/debug/pprof/heap": 401, "/debug/config_dump?proxyID=client-0.default": 401,
		"/api/v1/proxies/default/client-0/config": 401} {
		if got := get(path, nil); got != want {
			t.Errorf("GET %s is answered %d, want %d", path, got, want)
		}
	}
}
