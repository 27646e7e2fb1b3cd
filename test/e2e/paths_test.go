package e2e_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/weirmesh/weir/sample/echo"
)

// pathNormalization of MeshConfig, through the proxies of both sides: routes, policies and the program see one and the same
// path. A rule about /a/b denies each spelling of it in every mode, whether or not that is what goes on.
func TestPathNormalization(t *testing.T) {
	t.Parallel()
	m, client, _ := echoMesh(t, nil, echoPod("echo-0", "v1"))
	// What each of the spellings goes on as.
	spellings := []string{`/a/b`, `/x/../a/b`, `/x/%2e%2E/./a/b`, `/%61/b`, `/a\b`, `/a//b`, `/a%2Fb`, `/a%2fb?c%2fd//e`, `/a%5Cb`, `/a%5cb`, `/a/%2F\b`}
	modes := []struct {
		mode string
		want []string
	}{
		{"NONE", spellings},
		{"BASE", []string{`/a/b`, `/a/b`, `/a/b`, `/a/b`, `/a/b`, `/a//b`, `/a%2Fb`, `/a%2fb?c%2fd//e`, `/a%5Cb`, `/a%5cb`, `/a/%2F/b`}},
		{"MERGE_SLASHES", []string{`/a/b`, `/a/b`, `/a/b`, `/a/b`, `/a/b`, `/a/b`, `/a%2Fb`, `/a%2fb?c%2fd//e`, `/a%5Cb`, `/a%5cb`, `/a/%2F/b`}},
		{"DECODE_AND_MERGE_SLASHES", []string{`/a/b`, `/a/b`, `/a/b`, `/a/b`, `/a/b`, `/a/b`, `/a/b`, `/a/b?c%2fd//e`, `/a/b`, `/a/b`, `/a/b`}},
	}
	plain := func(target string) string { p, _, _ := strings.Cut(target, "?"); return p }
	var quoted []string
	for _, s := range spellings[1:] {
		quoted = append(quoted, "'"+plain(s)+"'")
	}
	m.Config("rules.yaml", documents(
		authorizationPolicy("those", "{"+echoOnly+`, action: DENY, rules: [
  {to: [{operation: {paths: [/a/b]}}], when: [{key: 'request.headers[x-deny]', values: [plain]}]},
  {to: [{operation: {paths: [`+strings.Join(quoted, ", ")+`]}}], when: [{key: 'request.headers[x-deny]', values: [spelled]}]}]}`),
		virtualService("echo", `{hosts: [echo], http: [
  {match: [{uri: {exact: /a/b}}], headers: {request: {set: {x-routed: plain}}}, route: [{destination: {host: echo, port: {number: 8080}}}]},
  {route: [{destination: {host: echo, port: {number: 8080}}}]}]}`)))
	call := func(target, deny string) (int, *echo.Report) {
		conn, err := client.Dial(t.Context(), "echo:8080")
		must(t, err)
		return raw(t, conn, fmt.Sprintf("GET %s HTTP/1.1\r\nHost: echo:8080\r\nX-Deny: %s\r\nConnection: close\r\n\r\n", target, deny))
	}
	for _, c := range modes {
		m.Config("mesh.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\ndata:\n  mesh: |\n    pathNormalization: {normalization: "+c.mode+"}\n")
		// What finding WEIR0018 is about: to a program that merges slashes first this is /a/b.
		const around = `/y//../a/b`
		if _, got := call(around, "plain"); got == nil || (got.Target == around) != (c.mode == "NONE") {
			t.Errorf("%s, %s: arrives as %+v", c.mode, around, got)
		}
		for i, s := range spellings {
			status, got := call(s, "nothing")
			if got == nil || got.Target != c.want[i] {
				t.Errorf("%s, %s: %d, arrives as %+v, want %s", c.mode, s, status, got, c.want[i])
				continue
			}
			routed := slices.ContainsFunc(got.Headers, func(f echo.Field) bool { return strings.EqualFold(f.Name, "x-routed") })
			if want := plain(c.want[i]) == "/a/b"; routed != want {
				t.Errorf("%s, %s: routed as /a/b %v, want %v", c.mode, s, routed, want)
			}
			if status, _ := call(s, "plain"); status != 403 {
				t.Errorf("%s, %s: %d in spite of a rule about /a/b", c.mode, s, status)
			}
			status, _ = call(s, "spelled")
			if want := slices.ContainsFunc(spellings[1:], func(s string) bool { return plain(s) == plain(c.want[i]) }); (status == 403) != want {
				t.Errorf("%s, %s: %d by a rule about other spellings, want denied %v", c.mode, s, status, want)
			}
		}
	}
}
