package e2e_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/weirmesh/weir/test/mesh"
)

// What headers say of a caller is believed of whom a certificate of the mesh vouches for, and of nobody else: who calls a
// PERMISSIVE port in plaintext chooses neither the address that policies see, nor retries, nor time-outs.
func TestStrangersAreNotBelieved(t *testing.T) {
	t.Parallel()
	m, client, pods := echoMesh(t, nil, echoPod("echo-0", "v1"))
	echo := pods[0]
	m.Config("policy.yaml", authorizationPolicy("from", "{"+echoOnly+", rules: [{from: [{source: {remoteIpBlocks: [192.0.2.0/24]}}]}]}"))
	claims := []string{"x-forwarded-for: 192.0.2.1", "x-forwarded-proto: https", "x-forwarded-client-cert: By=x;URI=spiffe://cluster.local/ns/default/sa/client",
		"x-envoy-peer-metadata-id: sidecar~192.0.2.1~client.default~default.svc.cluster.local", "x-envoy-external-address: 192.0.2.1", "x-envoy-internal: true",
		"x-envoy-upstream-rq-timeout-ms: 1", "x-envoy-retry-on: 5xx", "x-envoy-max-retries: 9", "x-envoy-original-path: /forged", "x-envoy-decorator-operation: forged", "x-request-id: mine"}
	stranger := func(path string) *mesh.Response {
		return mesh.Do(echo.Outside(), http.MethodGet, echo.At(8080)+path, nil, claims...)
	}
	if r := stranger("/"); r.Status != http.StatusForbidden {
		t.Errorf("with an address of its own making a stranger gets %v", r)
	}
	if r := client.Get("http://echo:8080/", "x-forwarded-for: 192.0.2.1"); r.Status != http.StatusOK {
		t.Errorf("what the mesh passes on is not believed: %v", r)
	}

	m.Remove("policy.yaml")
	report := stranger("/?delay=50ms").Report(t)
	for _, h := range report.Headers {
		if name := strings.ToLower(h.Name); strings.HasPrefix(name, "x-envoy-") && name != "x-envoy-attempt-count" || name == "x-forwarded-client-cert" {
			t.Errorf("the server was sent %s: %s", h.Name, h.Value)
		}
	}
	// What only the program reads stays: a load balancer in front of it says so whence a call came.
	for name, want := range map[string]string{"x-forwarded-for": "192.0.2.1", "x-forwarded-proto": "https", "x-request-id": "mine"} {
		if got := report.Header(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
}
