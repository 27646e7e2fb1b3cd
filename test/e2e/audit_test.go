package e2e_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/weirmesh/weir/test/mesh"
)

// What an AUDIT policy matches has a line of its own in the log, with who and which rule, whether it was allowed or
// denied; nothing else has, and nothing is decided by it.
func TestAudit(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	m.Config("echo.yaml", echoService)
	all := m.Workloads(caller("client"), echoPod("echo-0", "v1"))
	client, echo := all[0], all[1]
	m.Config("authorization.yaml", documents(
		authorizationPolicy("watch", "{"+echoOnly+", action: AUDIT, rules: [{to: [{operation: {paths: [/pay*]}}]}, {to: [{operation: {ports: ['9000']}}]}]}"),
		authorizationPolicy("deny", "{"+echoOnly+", action: DENY, rules: [{to: [{operation: {ports: ['8080'], paths: ['*/denied']}}]}]}")))

	for _, c := range []struct {
		path   string
		status int
		rule   string
	}{
		{"/pay/1?secret", 200, "ns[default]-policy[watch]-rule[0]"},
		{"/pay/denied", 403, "ns[default]-policy[watch]-rule[0]"},
		{"/x/..%2Fpay", 200, "ns[default]-policy[watch]-rule[0]"}, // as an application may read it
		{"/other", 200, ""},
		{"/other/denied", 403, ""},
	} {
		id := "audit" + c.path
		if r := client.Do("GET", "http://echo:8080"+c.path, nil, "x-request-id: "+id); r.Status != c.status {
			t.Errorf("%s: %v", c.path, r)
		}
		var line struct {
			Audit     string `json:"audit"`
			Principal string `json:"source_principal"`
			Method    string `json:"method"`
			Path      string `json:"path"`
			Code      int    `json:"response_code"`
		}
		client.AccessLog(id) // of the call before, too
		if c.rule == "" {
			continue
		}
		lines := echo.AccessLog(id, `"audit":`)
		if len(lines) != 1 {
			t.Fatalf("%s: %q", c.path, lines)
		}
		if err := json.Unmarshal([]byte(lines[0]), &line); err != nil {
			t.Fatalf("%s: %v", lines[0], err)
		}
		if line.Audit != c.rule || line.Principal != "spiffe://cluster.local/ns/default/sa/client" || line.Method != http.MethodGet || line.Code != c.status || line.Path == "" {
			t.Errorf("%s: %s", c.path, lines[0])
		}
	}
	if !passes(dialer(client, "echo:9000")) {
		t.Error("AUDIT denies a connection")
	}
	echo.AccessLog(`"audit":"ns[default]-policy[watch]-rule[1]"`)
	for _, l := range echo.LoggedWith(`"audit":`) {
		var line struct {
			Path string `json:"path"`
		}
		if err := json.Unmarshal([]byte(l), &line); err != nil || line.Path == "/other" || line.Path == "/other/denied" {
			t.Errorf("%v: %s", err, l)
		}
	}
}
