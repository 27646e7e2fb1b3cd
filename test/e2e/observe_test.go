package e2e_test

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weirmesh/weir/test/mesh"
	"github.com/weirmesh/weir/xds/dump"
)

// Both sides of a request count it under Istio's names with all of Istio's labels, and the
// control plane shows all of it at one place.
func TestMetricsHaveIstiosNamesAndLabelsOnBothSides(t *testing.T) {
	t.Parallel()
	m, client, pods := echoMesh(t, nil, echoPod("echo-0", "v1"))
	echo := pods[0]
	const requests = 5
	for range requests {
		client.Do(http.MethodPost, "http://echo:8080/?size=1000", []byte("0123456789"))
	}
	client.Get("http://echo:8080/?status=404")

	// Labels in the order of Istio's documentation.
	seen := map[string]string{
		"reporter": "source", "source_workload": "client", "source_canonical_service": "client", "source_canonical_revision": "v1", "source_workload_namespace": "default",
		"source_principal": client.ID(), "source_app": "client", "source_version": "v1", "source_cluster": "Kubernetes",
		"destination_workload": "echo-v1", "destination_workload_namespace": "default", "destination_principal": echo.ID(), "destination_app": "echo", "destination_version": "v1",
		"destination_service": "echo.default.svc.cluster.local", "destination_canonical_service": "echo", "destination_canonical_revision": "v1",
		"destination_service_name": "echo", "destination_service_namespace": "default", "destination_cluster": "Kubernetes",
		"request_protocol": "http", "response_code": "200", "grpc_response_status": "", "response_flags": "-", "connection_security_policy": "unknown",
	}
	for _, side := range []struct {
		w        *mesh.Workload
		reporter string
		security string
	}{{client, "source", "unknown"}, {echo, "destination", "mutual_tls"}} {
		want := maps.Clone(seen)
		want["reporter"], want["connection_security_policy"] = side.reporter, side.security
		m.Eventually("the requests are counted", func() error {
			metrics := side.w.Metrics()
			for _, name := range []string{"istio_requests_total", "istio_request_duration_milliseconds", "istio_request_bytes", "istio_response_bytes"} {
				at := slices.IndexFunc(metrics[name], func(s mesh.Series) bool { return s.Labels["response_code"] == "200" })
				if at < 0 {
					return fmt.Errorf("%s has no %s for 200: %v", side.w.Name, name, metrics[name])
				}
				if got := metrics[name][at]; !maps.Equal(got.Labels, want) || got.Value != requests {
					return fmt.Errorf("%s of %s is %v with labels (-want +got)\n%s", name, side.w.Name, got.Value, cmp.Diff(want, got.Labels))
				}
				if n := mesh.Count(metrics[name], "response_code=404"); n != 1 {
					return fmt.Errorf("%s of %s counts %v for 404", name, side.w.Name, n)
				}
			}
			return nil
		})
	}
	for sum, want := range map[string]string{"istio_request_bytes_sum": "50", "istio_response_bytes_sum": "5000"} {
		if text := string(echo.Admin(http.MethodGet, "/stats/prometheus").Body); !regexp.MustCompile(sum + `\{[^}]*response_code="200"[^}]*\} ` + want + `\n`).MatchString(text) {
			t.Errorf("%s is not %s", sum, want)
		}
	}

	// Plaintext from outside: the destination knows what it knows.
	mesh.Do(client.Outside(), http.MethodGet, echo.At(8080)+"/?status=201", nil)
	m.Eventually("the stranger is counted", func() error {
		series := echo.Metrics()["istio_requests_total"]
		if mesh.Count(series, "response_code=201", "reporter=destination", "source_workload=unknown", "source_principal=unknown", "connection_security_policy=none",
			"destination_workload=echo-v1", "destination_service_name=echo") != 1 {
			return fmt.Errorf("series are %v", series)
		}
		return nil
	})

	// The same, merged.
	all := m.Metrics()
	for instance, want := range map[string]float64{"default/client": requests + 1, "default/echo-0": requests + 2} {
		if n := mesh.Count(all["istio_requests_total"], "instance="+instance); n != want {
			t.Errorf("merged metrics count %v requests of %s, want %v", n, instance, want)
		}
	}
	if mesh.Count(all["pilot_xds"]) != 2 || mesh.Count(all["weir_control_scrape_failures"]) != 0 || len(all["pilot_info"]) != 1 {
		t.Errorf("the control plane's own metrics: %v %v %v", all["pilot_xds"], all["weir_control_scrape_failures"], all["pilot_info"])
	}
}

// What Istio's dashboards show of a control plane.
func TestControlPlaneMetrics(t *testing.T) {
	t.Parallel()
	m, client, _ := echoMesh(t, nil, echoPod("echo-0", "v1"))
	before := m.Metrics()
	m.Config("route.yaml", virtualService("echo", "{hosts: [echo], http: [{route: [{destination: {host: echo, port: {number: 8080}}}]}]}"))
	m.Config("bad.yaml", virtualService("bad", "{hosts: 7}"))
	if r := client.Get("http://echo:8080/"); r.Status != http.StatusOK {
		t.Fatal(r)
	}
	// One cluster that the proxies refuse, and one that came with it.
	m.Write("secure.yaml", documents(destinationRule("echo", "{host: echo, trafficPolicy: {tls: {mode: SIMPLE, caCertificates: /no/such/file}}}"),
		"apiVersion: v1\nkind: Service\nmetadata: {name: nobody}\nspec: {selector: {app: nobody}, ports: [{name: http, port: 80}, {name: tcp, port: 81}]}\n"))
	m.Eventually("the proxies refuse a cluster", func() error {
		if n := mesh.Count(m.Metrics()["pilot_total_xds_rejects"], "type=cds"); n < 2 {
			return fmt.Errorf("%v rejections", n)
		}
		return nil
	})
	m.Eventually("the other one is there", func() error {
		if r := client.Admin(http.MethodGet, "/clusters"); !strings.Contains(string(r.Body), "outbound|80||nobody.default.svc.cluster.local") {
			return errors.New(r.String())
		}
		return nil
	})
	if r := client.Get("http://echo:8080/"); r.Status != http.StatusOK {
		t.Errorf("the last good version of the refused cluster: %v", r)
	}

	now := m.Metrics()
	for name, least := range map[string]float64{
		"pilot_xds_pushes{type=rds}": 2, "pilot_xds_config_size_bytes{type=type.googleapis.com/envoy.config.route.v3.RouteConfiguration}": 2,
		"pilot_xds_send_time": 2, "pilot_proxy_convergence_time": 2, "pilot_inbound_updates{type=config}": 1,
		"pilot_xds_push_time{type=rds}": 2, "pilot_proxy_queue_time": 2, "pilot_push_triggers{type=config}": 1,
	} {
		name, label, _ := strings.Cut(strings.TrimSuffix(name, "}"), "{")
		count := func(metrics map[string][]mesh.Series) float64 {
			if label == "" {
				return mesh.Count(metrics[name])
			}
			return mesh.Count(metrics[name], label)
		}
		if grown := count(now) - count(before); grown < least {
			t.Errorf("%s{%s} has grown by %v, want at least %v", name, label, grown, least)
		}
	}
	for name, want := range map[string]float64{
		"pilot_xds": 2, "pilot_services": 2, "pilot_virt_services": 1, "pilot_total_rejected_configs": 1, "pilot_eds_no_instances": 2, "pilot_vservice_dup_domain": 0,
	} {
		if got := mesh.Count(now[name]); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	if got := now["pilot_xds"]; len(got) != 1 || got[0].Labels["version"] == "" {
		t.Errorf("pilot_xds: %v", got)
	}
	for _, name := range []string{"go_goroutines", "process_resident_memory_bytes", "citadel_server_csr_count"} {
		if mesh.Count(now[name]) == 0 {
			t.Errorf("%s is not there", name)
		}
	}
}

// The access log is in the format that Istio's users parse.
func TestAccessLogLinesAreIstios(t *testing.T) {
	t.Parallel()
	_, client, pods := echoMesh(t, nil, echoPod("echo-0", "v1"))
	echo := pods[0]
	client.Do(http.MethodPost, "http://echo:8080/path?size=100", []byte("hello"), "x-request-id: line-1", "user-agent: curl/8.0")
	exchange(t, client, "echo:9000", "hello\n")

	const (
		when = `\[\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z\]`
		addr = `127\.\d+\.\d+\.\d+:\d+`
	)
	for _, c := range []struct {
		w    *mesh.Workload
		word string
		want string
	}{
		{client, "line-1", when + ` "POST /path\?size=100 HTTP/1\.1" 200 - via_upstream - "-" 5 100 \d+ \d+ "-" "curl/8\.0" "line-1" "echo:8080" "` + addr +
			`" outbound\|8080\|\|echo\.default\.svc\.cluster\.local ` + addr + ` ` + addr + ` ` + addr + ` - default`},
		{echo, "line-1", when + ` "POST /path\?size=100 HTTP/1\.1" 200 - via_upstream - "-" 5 100 \d+ \d+ "-" "curl/8\.0" "line-1" "echo:8080" "` + echo.App(8080).String() +
			`" inbound\|8080\|\| ` + addr + ` ` + echo.IP().String() + `:8080 ` + addr + ` outbound_\.8080_\._\.echo\.default\.svc\.cluster\.local default`},
		{client, "- - -", when + ` "- - -" 0 - - - "-" 6 6 \d+ - "-" "-" "-" "-" "` + addr + `" outbound\|9000\|\|echo\.default\.svc\.cluster\.local ` + addr + ` ` + addr + ` ` + addr + ` - -`},
		{echo, "- - -", when + ` "- - -" 0 - - - "-" 6 6 \d+ - "-" "-" "-" "-" "` + echo.App(9000).String() + `" inbound\|9000\|\| ` + addr + ` ` + echo.IP().String() +
			`:9000 ` + addr + ` outbound_\.9000_\._\.echo\.default\.svc\.cluster\.local -`},
	} {
		line := c.w.AccessLog(c.word)[0]
		if !regexp.MustCompile("^" + c.want + "$").MatchString(line) {
			t.Errorf("%s logs\n%s\nwant\n%s", c.w.Name, line, c.want)
		}
	}
}

// The gateway is an edge: it makes the request's identity, and believes nobody outside.
func TestTheGatewayDoesNotBelieveStrangers(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	m.Write("echo.yaml", echoService)
	m.Config("gateway.yaml", documents(mesh.IngressGateway, `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: [echo.example]}]}
`, virtualService("edge", "{hosts: [echo.example], gateways: [edge], http: [{route: [{destination: {host: echo, port: {number: 8080}}}]}]}")))
	all := m.Workloads(mesh.Gateway(), echoPod("echo-0", "v1"))
	gateway, outside := all[0], all[0].Outside()

	r := mesh.Do(outside, http.MethodGet, "http://gateway:8080/", nil, "host: echo.example", "x-forwarded-client-cert: By=me;URI=spiffe://cluster.local/ns/default/sa/root",
		"x-envoy-peer-metadata-id: liar", "x-envoy-retry-on: 5xx", "x-envoy-upstream-rq-timeout-ms: 1", "x-envoy-decorator-operation: x", "x-forwarded-for: 10.9.8.7")
	report := r.Report(t)
	if len(report.Clients) != 1 || report.Identity != gateway.ID() {
		t.Errorf("the server was told of %+v", report.Clients)
	}
	for _, h := range report.Headers {
		if name := strings.ToLower(h.Name); strings.HasPrefix(name, "x-envoy-") && name != "x-envoy-attempt-count" && name != "x-envoy-external-address" && name != "x-envoy-expected-rq-timeout-ms" {
			t.Errorf("the server was sent %s: %s", h.Name, h.Value)
		}
	}
	if id := report.Header("x-request-id"); len(id) != 36 {
		t.Errorf("the request id is %q", id)
	}
	if r.Header.Get("Server") != "istio-envoy" || r.Header.Get("X-Envoy-Peer-Metadata") != "" {
		t.Errorf("the response has %v", r.Header)
	}
	if r := mesh.Do(outside, http.MethodGet, "http://gateway:8080/", nil, "host: other.example", "x-request-id: stranger"); r.Status != http.StatusNotFound {
		t.Error(r)
	}
	gateway.AccessLog("404 NR route_not_found", "other.example")
	// Operators are told what the caller may have meant, and the caller is not.
	if r := mesh.Do(outside, http.MethodGet, "http://gateway:8080/", nil, "host: ehco.example"); r.Status != http.StatusNotFound || len(r.Body) > 0 || strings.Contains(fmt.Sprint(r.Header), "echo.example") {
		t.Errorf("the caller gets %v", r)
	}
	var unknown []dump.UnknownHost
	if err := json.Unmarshal(gateway.Admin(http.MethodGet, "/unknown_hosts").Body, &unknown); err != nil {
		t.Fatal(err)
	}
	for i, host := range []string{"ehco.example", "other.example"} {
		if len(unknown) != 2 || unknown[i].Host != host || unknown[i].Requests != 1 || !slices.Equal(unknown[i].Nearest, []string{"echo.example"}) {
			t.Errorf("unknown hosts are %+v", unknown)
		}
	}
	m.Eventually("the log says so", func() error {
		if len(m.Logged(0, "no virtual host for requests", "host=other.example", "nearest=[echo.example]")) != 1 {
			return errors.New("it does not")
		}
		return nil
	})
	m.Eventually("the gateway counts", func() error {
		series := gateway.Metrics()["istio_requests_total"]
		if mesh.Count(series, "reporter=source", "source_workload=istio-ingressgateway", "source_workload_namespace=istio-system", "destination_workload=echo-v1",
			"destination_service=echo.default.svc.cluster.local", "response_code=200") != 1 {
			return fmt.Errorf("series are %v", series)
		}
		return nil
	})
}

// A proxy says that it is ready when it holds a certificate and its configuration, and
// until then what is missing.
func TestReadyMeansCertificateAndConfiguration(t *testing.T) {
	t.Parallel()
	m, client, _ := echoMesh(t, nil)
	if r := client.Admin(http.MethodGet, "/healthz/ready"); r.Status != http.StatusOK {
		t.Error(r)
	}
	m.StopControl()
	late := m.Launch(echoPod("echo-0", "v1"))
	m.Eventually("the proxy says what is missing", func() error {
		r := late.Admin(http.MethodGet, "/healthz/ready")
		if r.Status != http.StatusServiceUnavailable || !strings.Contains(string(r.Body), "no certificate yet: ") {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	m.StartControl()
	late.AwaitReady()
	if r := late.Admin(http.MethodGet, "/healthz/ready"); r.Status != http.StatusOK {
		t.Error(r)
	}
}

// S09, for connections: a server name (SNI) that nobody serves gets the alert for that, and operators the nearest names.
func TestTheGatewayNamesTheNearestServer(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	m.Write("echo.yaml", echoService)
	m.Config("gateway.yaml", documents(mesh.IngressGateway, `
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge}
spec: {selector: {istio: ingressgateway}, servers: [{port: {number: 443, name: tls, protocol: TLS}, hosts: [echo.example, shop.example], tls: {mode: PASSTHROUGH}}]}
`, virtualService("edge", "{hosts: [echo.example, shop.example], gateways: [edge], tls: [{match: [{sniHosts: [echo.example, shop.example]}], route: [{destination: {host: echo, port: {number: 9000}}}]}]}")))
	gateway := m.Workloads(mesh.Gateway())[0]
	c, err := gateway.Outside().Transport.(*http.Transport).DialContext(t.Context(), "tcp", "gateway:8443")
	must(t, err)
	defer c.Close()
	if err := tls.Client(c, &tls.Config{ServerName: "ehco.example", MinVersion: tls.VersionTLS12}).HandshakeContext(t.Context()); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("the client is told %v", err)
	}
	m.Eventually("the admin interface has the nearest names", func() error {
		var unknown []dump.UnknownHost
		if err := json.Unmarshal(gateway.Admin(http.MethodGet, "/unknown_hosts").Body, &unknown); err != nil {
			return err
		}
		if len(unknown) != 1 || unknown[0].Host != "ehco.example" || unknown[0].Listener == "" || unknown[0].Requests != 1 || !slices.Equal(unknown[0].Nearest, []string{"echo.example", "shop.example"}) {
			return fmt.Errorf("%+v", unknown)
		}
		return nil
	})
	m.Eventually("the log says so", func() error {
		if len(m.Logged(0, "connection refused", "sni=ehco.example", `nearest="[echo.example shop.example]"`)) != 1 {
			return errors.New("it does not")
		}
		return nil
	})
}
