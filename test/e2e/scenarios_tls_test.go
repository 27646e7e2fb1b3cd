package e2e_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/weirmesh/weir/test/mesh"
)

// second is another Service over the workloads of echo.
var second = strings.NewReplacer("name: echo}", "name: second}").Replace(echoService)

// takenFor is whom the server takes a workload for that calls a URL; "": anybody.
func takenFor(t *testing.T, w *mesh.Workload, url string) string {
	t.Helper()
	return w.Get(url).Report(t).Identity
}

// S10: a DestinationRule that says nothing of TLS leaves it as it is, also where only mesh TLS is let in.
func TestARuleWithoutTLSChangesNoTransport(t *testing.T) {
	t.Parallel()
	m, client, _ := echoMesh(t, nil, echoPod("echo-0", "v1"))
	m.Config("rule.yaml", documents(peerAuthentication("default", "{mtls: {mode: STRICT}}"),
		destinationRule("echo", "{host: echo, trafficPolicy: {connectionPool: {http: {maxRequestsPerConnection: 10}}, portLevelSettings: [{port: {number: 8080}, outlierDetection: {consecutive5xxErrors: 7}}]}}")))
	if got := takenFor(t, client, "http://echo:8080/"); got != client.ID() {
		t.Errorf("the server took the client for %q", got)
	}
}

// S11: of rules for a wildcard, for the host and for its port the most specific says how the transport is secured.
func TestTheMostSpecificRuleSecures(t *testing.T) {
	t.Parallel()
	m, client, pods := echoMesh(t, nil, echoPod("echo-0", "v1"))
	m.Config("rules.yaml", documents(second,
		destinationRule("wild", `{host: "*.default.svc.cluster.local", trafficPolicy: {tls: {mode: DISABLE}}}`),
		destinationRule("echo", "{host: echo, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}, portLevelSettings: [{port: {number: 9000}, tls: {mode: DISABLE}}]}}")))
	if got := takenFor(t, client, "http://echo:8080/"); got != client.ID() {
		t.Errorf("the rule for the host does not hold: the server took the client for %q", got)
	}
	if got := takenFor(t, client, "http://second:8080/"); got != "" {
		t.Errorf("the rule for the wildcard does not hold: the server took the client for %q", got)
	}
	c, err := client.Dial(context.Background(), "echo:9000")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, "x\n"); err != nil {
		t.Fatal(err)
	}
	_, _ = io.ReadFull(c, make([]byte, 2))
	c.Close()
	m.Eventually("the rule for the port holds", func() error {
		if mesh.Count(pods[0].Metrics()["istio_tcp_connections_opened_total"], "reporter=destination", "connection_security_policy=none") != 1 {
			return fmt.Errorf("%v", pods[0].Metrics()["istio_tcp_connections_opened_total"])
		}
		return nil
	})
}

// S21: a rule names a file of certificates that is not there. Its destination is called as before, all others by their
// rules of now, and the proxy and the status of the rule say which file it is.
func TestAMissingFileOfCertificatesIsOneDestinationsTrouble(t *testing.T) {
	t.Parallel()
	m, client, _ := echoMesh(t, nil, echoPod("echo-0", "v1"))
	m.Config("second.yaml", second)
	l := startLoad(t, client, 2, "http://echo:8080/")
	m.Write("rule.yaml", destinationRule("second", "{host: second, trafficPolicy: {tls: {mode: SIMPLE, caCertificates: /no/such/ca.pem}}}"))
	m.Eventually("the proxy says which file is missing", func() error {
		if s := string(client.Admin(http.MethodGet, "/server_info").Body); !strings.Contains(s, "/no/such/ca.pem") {
			return fmt.Errorf("%s", s)
		}
		return nil
	})
	m.Eventually("the status of the rule says which proxy has not got it, and why", func() error {
		r, err := m.API().Receipt(t.Context(), "DestinationRule", "default", "second")
		if err != nil {
			return err
		}
		for _, missing := range r.Missing {
			if said := fmt.Sprintf("%+v", missing); strings.Contains(said, "client") && strings.Contains(said, "/no/such/ca.pem") {
				return nil
			}
		}
		return fmt.Errorf("%+v", r.Missing)
	})
	m.Write("other.yaml", virtualService("echo", "{hosts: [echo], http: [{route: [{destination: {host: echo}}], headers: {response: {set: {x-new: now}}}}]}"))
	m.Eventually("changes of other destinations are in force", func() error {
		if r := client.Get("http://echo:8080/"); r.Header.Get("x-new") != "now" {
			return fmt.Errorf("%v", r.Header)
		}
		return nil
	})
	client.Get("http://second:8080/").Report(t)
	l.stop(t)
}
