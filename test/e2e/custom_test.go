package e2e_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/test/mesh"
)

// action CUSTOM: a service of the mesh is asked about what the rules match, as extensionProviders of MeshConfig say, over the
// mesh's mTLS. Without it, or without the provider, nobody says yes.
func TestCustomAuthorization(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	provider := func(more string) string {
		return "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    accessLogFile: /dev/stdout\n    extensionProviders:\n" +
			"    - name: guard\n      envoyExtAuthzHttp: {service: guard.default.svc.cluster.local, port: 8080, timeout: 5s, includeRequestHeadersInCheck: [x-echo-status], statusOnError: '507'" + more + "}\n"
	}
	const policy = "{" + echoOnly + ", action: CUSTOM, provider: {name: %s}, rules: [{to: [{operation: {paths: [/ask, /ask/*]}}]}]}"
	m.Config("echo.yaml", echoService+"---"+strings.ReplaceAll(strings.ReplaceAll(echoService, "name: echo", "name: guard"), "app: echo", "app: guard"))
	guard := echoPod("guard-0", "v1")
	guard.Owner, guard.ServiceAccount, guard.Labels = "guard", "guard", map[string]string{"app": "guard"}
	all := m.Workloads(caller("client"), echoPod("echo-0", "v1"), guard)
	client, echo := all[0], all[1]
	ask := func(what, path, header string, want int, log string) {
		t.Helper()
		id := strings.ReplaceAll(what, " ", "-")
		r := client.Do("GET", "http://echo:8080"+path, nil, "x-request-id: "+id, header)
		if r.Status != want {
			t.Errorf("%s: %v, want %d", what, r, want)
		}
		if log == "" {
			return
		}
		if line := echo.AccessLog(id); len(line) != 1 || !strings.Contains(line[0], log) {
			t.Errorf("%s: the log says %q, want %q", what, line, log)
		}
	}
	const none, no, broken = "x-nothing: 1", "x-echo-status: 401", "x-echo-status: 503"
	m.Config("custom.yaml", authorizationPolicy("custom", fmt.Sprintf(policy, "guard"))+provider(""))
	ask("it says yes", "/ask/x", none, 200, "200 - via_upstream")
	ask("it says no", "/ask/x", no, 401, "401 UAEX ext_authz_denied")
	ask("it is broken", "/ask/x", broken, 507, "507 UAEX ext_authz_error")
	ask("it is not asked", "/free", broken, 503, "503 - via_upstream")
	ask("it is asked about other readings", "//ask", no, 401, "401 UAEX ext_authz_denied")

	m.Config("custom.yaml", authorizationPolicy("custom", fmt.Sprintf(policy, "guard"))+provider(", failOpen: true"))
	ask("it is broken and open", "/ask/x", broken, 503, "503 - via_upstream")

	m.Config("custom.yaml", authorizationPolicy("custom", fmt.Sprintf(policy, "nobody"))+provider(", failOpen: true"))
	ask("there is no provider", "/ask/x", none, 403, "rbac_access_denied_matched_policy[ns[default]-policy[custom]-rule[0]-deny-due-to-bad-CUSTOM-action]")
	ask("there is no provider, and no matter", "/free", none, 200, "")

	m.Config("custom.yaml", authorizationPolicy("custom", fmt.Sprintf(policy, "guard"))+strings.Replace(provider(", failOpen: true"), "guard.default", "missing.default", 1))
	ask("there is no such service", "/ask/x", none, 507, "507 UAEX ext_authz_error")

	// Whoever says yes does not overrule a DENY, nor stand for an ALLOW.
	m.Config("custom.yaml", authorizationPolicy("custom", fmt.Sprintf(policy, "guard"))+"---\n"+authorizationPolicy("deny", "{"+echoOnly+", action: DENY, rules: [{to: [{operation: {paths: [/ask/denied]}}]}]}")+provider(""))
	ask("yes and DENY", "/ask/denied", none, 403, "rbac_access_denied_matched_policy[ns[default]-policy[deny]-rule[0]]")
	ask("no before DENY", "/ask/denied", no, 401, "401 UAEX ext_authz_denied")
}

// WebSockets that are open when a CUSTOM policy comes: those that it would ask about end, and may come again, when the provider is asked; those
// that it does not concern go on. Whom the provider let in stays, whatever it says afterwards, and though the policy changes.
func TestCustomPoliciesComeUnderOpenStreams(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	m.Config("mesh.yaml", documents(serviceOf("ws"), serviceOf("guard"), "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    accessLogFile: /dev/stdout\n    extensionProviders:\n"+
		"    - name: guard\n      envoyExtAuthzHttp: {service: guard.default.svc.cluster.local, port: 8080, timeout: 5s, includeRequestHeadersInCheck: [x-echo-status]}\n"))
	server := bare("ws")
	server.NoProxy, server.ServiceAccount = false, "ws"
	server.Proxy = func(o *proxy.Options) { o.ListenerDrain = 300 * time.Millisecond }
	guard := echoPod("guard-0", "v1")
	guard.Owner, guard.ServiceAccount, guard.Labels = "guard", "guard", map[string]string{"app": "guard"}
	all := m.Workloads(caller("client"), server, guard)
	client, ws := all[0], all[1]
	serveAt(t, ws, talker())
	socket := func(path, id string) *stream {
		c, err := client.Dial(t.Context(), "ws:8080")
		must(t, err)
		return webSocket(t, c, "ws:8080", path, "x-request-id: "+id)
	}
	works := func(what string, s *stream) {
		t.Helper()
		if err := s.echo(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	ends := func(id string, s *stream, log string) {
		t.Helper()
		if _, err := s.in.ReadByte(); err == nil || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s goes on: %v", id, err)
		}
		if lines := ws.AccessLog(id); len(lines) != 1 || !strings.Contains(lines[0], log) {
			t.Errorf("%s: the log says %q, want %q", id, lines, log)
		}
	}
	custom := func(paths string) string {
		return authorizationPolicy("custom", "{selector: {matchLabels: {app: ws}}, action: CUSTOM, provider: {name: guard}, rules: [{to: [{operation: {paths: ["+paths+"]}}]}]}")
	}
	free, before, late := socket("/free", "free"), socket("/asked", "before"), socket("/later", "late")
	m.Config("custom.yaml", custom("/asked"))
	ends("before", before, "ext_authz_error{not_asked}")
	m.Eventually("weir why names the policy", func() error {
		if text := weir(t, m, "why", "before"); !strings.Contains(text, "AuthorizationPolicy default/custom") {
			return errors.New(text)
		}
		return nil
	})
	works("what no rule is about", free)
	works("what no rule is about yet", late)

	again := socket("/asked", "again")
	works("who is let in", again)
	m.Config("custom.yaml", custom("/asked, /later"))
	ends("late", late, "ext_authz_error{not_asked}")
	works("who was let in, when the policy asks about more", again)
	works("what no rule is about still", free)

	m.Config("deny.yaml", authorizationPolicy("no", "{selector: {matchLabels: {app: ws}}, action: DENY, rules: [{to: [{operation: {paths: [/asked]}}]}]}"))
	ends("again", again, "rbac_access_denied_matched_policy[ns[default]-policy[no]-rule[0]]")
	works("what no rule is about in the end", free)
}
