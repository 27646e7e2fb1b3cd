package e2e_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/weirmesh/weir/test/mesh"
)

func authorizationPolicy(name, spec string) string {
	return fmt.Sprintf("apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: %s}\nspec: %s\n", name, spec)
}

// roles are objects of Istio before 1.5: who may do what with echo, where roles apply as config says.
func roles(config, rule, subjects string) string {
	return documents(
		"apiVersion: rbac.istio.io/v1alpha1\nkind: ClusterRbacConfig\nmetadata: {name: default}\nspec: "+config+"\n",
		"apiVersion: rbac.istio.io/v1alpha1\nkind: ServiceRole\nmetadata: {name: role}\nspec: {rules: ["+rule+"]}\n",
		"apiVersion: rbac.istio.io/v1alpha1\nkind: ServiceRoleBinding\nmetadata: {name: bound}\nspec: {subjects: ["+subjects+"], roleRef: {kind: ServiceRole, name: role}}\n")
}

// oldPolicy is a Policy of Istio before 1.5 for echo.
func oldPolicy(spec string) string {
	return "apiVersion: authentication.istio.io/v1alpha1\nkind: Policy\nmetadata: {name: echo}\nspec: {targets: [{name: echo}], " + spec + "}\n"
}

const (
	echoHost   = "echo.default.svc.cluster.local"
	clientSays = "{user: cluster.local/ns/default/sa/client}"
)

const echoOnly = "selector: {matchLabels: {app: echo}}"

// Who may do what is what the policies say, for requests and for connections, from the next request on.
func TestAuthorization(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	m.Config("echo.yaml", echoService)
	all := m.Workloads(caller("client"), caller("other"), echoPod("echo-0", "v1"))
	who := map[string]*mesh.Workload{"client": all[0], "other": all[1]} // and "stranger", who is not in the mesh
	echo := all[2]

	const denied = "RBAC: access denied"
	for _, c := range []struct {
		name, policies string
		calls          string // "WHO METHOD PATH [header: value] STATUS" or "WHO tcp yes|no", separated by ";"
		log            string // of the last denial
	}{
		{name: "no policy allows everything", calls: "client GET / 200; other GET / 200; stranger GET / 200; client tcp yes; stranger tcp yes"},
		{name: "a policy without rules allows nothing", policies: authorizationPolicy("none", "{"+echoOnly+"}"),
			calls: "client GET / 403; stranger GET / 403; client tcp no", log: "rbac_access_denied_matched_policy[none]"},
		{name: "an empty rule allows everything", policies: authorizationPolicy("all", "{"+echoOnly+", rules: [{}]}"), calls: "client GET / 200; stranger GET / 200; client tcp yes"},
		{name: "one principal", policies: authorizationPolicy("one", "{"+echoOnly+", rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/client]}}]}]}"),
			calls: "client GET / 200; client tcp yes; other GET / 403; stranger GET / 403; other tcp no; stranger tcp no"},
		{name: "a service account by name", policies: authorizationPolicy("sa", "{"+echoOnly+", rules: [{from: [{source: {serviceAccounts: [other]}}]}]}"), calls: "client GET / 403; other GET / 200"},
		{name: "a namespace, by a pattern", policies: authorizationPolicy("ns", "{"+echoOnly+", rules: [{from: [{source: {namespaces: [def*]}}]}]}"), calls: "client GET / 200; stranger GET / 403"},
		{name: "another namespace", policies: authorizationPolicy("ns2", "{"+echoOnly+", rules: [{from: [{source: {namespaces: [prod]}}]}]}"), calls: "client GET / 403"},
		{name: "anybody with an identity", policies: authorizationPolicy("any", "{"+echoOnly+", rules: [{from: [{source: {principals: ['*']}}]}]}"), calls: "other GET / 200; stranger GET / 403"},
		{name: "nobody without one", policies: authorizationPolicy("strangers", "{"+echoOnly+", action: DENY, rules: [{from: [{source: {notPrincipals: ['*']}}]}]}"),
			calls: "other GET / 200; other tcp yes; stranger tcp no; stranger GET / 403", log: "rbac_access_denied_matched_policy[ns[default]-policy[strangers]-rule[0]]"},
		{name: "methods and paths", policies: authorizationPolicy("ops", "{"+echoOnly+", rules: [{to: [{operation: {methods: [GET, HEAD], paths: [/public/*, '*.css', /exact]}}]}]}"),
			calls: "client GET /public/x?y 200; client HEAD /public/ 200; client POST /public/x 403; client GET /a/b.css 200; client GET /exact 200; client GET /exact/no 403; client GET /exact?q 200; client tcp no"},
		{name: "templates", policies: authorizationPolicy("tpl", "{"+echoOnly+", rules: [{to: [{operation: {paths: ['/a/{*}/c', '/all/{**}']}}]}]}"),
			calls: "client GET /a/b/c 200; client GET /a/b/x/c 403; client GET /all/1/2 200; client GET /all 403"},
		{name: "what is denied is denied though it is allowed", policies: documents(authorizationPolicy("allow", "{"+echoOnly+", rules: [{}]}"),
			authorizationPolicy("deny", "{"+echoOnly+", action: DENY, rules: [{from: [{source: {notServiceAccounts: [client]}}], to: [{operation: {paths: [/admin, /admin/*]}}]}]}")),
			calls: "client GET /admin 200; other GET /x 200; other GET /admin 403; other GET /x/../admin/y 403; other GET /%61dmin 403"},
		{name: "conditions", policies: authorizationPolicy("when", "{"+echoOnly+", rules: [{when: [{key: 'request.headers[x-token]', values: [good*], notValues: [good-not]}, {key: destination.port, values: ['8080']}]}]}"),
			calls: "client GET / 403; client GET / x-token:good-1 200; client GET / x-token:good-not 403; client tcp no"},
		{name: "another port", policies: authorizationPolicy("port", "{"+echoOnly+", action: DENY, rules: [{to: [{operation: {ports: ['9000']}}]}]}"), calls: "client GET / 200; client tcp no"},
		{name: "hosts", policies: authorizationPolicy("hosts", "{"+echoOnly+", action: DENY, rules: [{to: [{operation: {hosts: ['ECHO:8080']}}]}]}"), calls: "client GET / 403; client GET / host:other.example 200"},
		{name: "of the root namespace, for all", policies: strings.Replace(authorizationPolicy("root", "{rules: [{to: [{operation: {methods: [GET]}}]}]}"), "name: root", "name: root, namespace: istio-system", 1),
			calls: "client GET / 200; client POST / 403"},
		{name: "for somebody else", policies: authorizationPolicy("else", "{selector: {matchLabels: {app: nobody}}}"), calls: "client GET / 200"},
		{name: "only watched", policies: strings.Replace(authorizationPolicy("dry", "{"+echoOnly+"}"), "name: dry", "name: dry, annotations: {istio.io/dry-run: 'true'}", 1), calls: "client GET / 200; client tcp yes"},
		{name: "AUDIT denies nothing", policies: authorizationPolicy("audit", "{"+echoOnly+", action: AUDIT, rules: [{}]}"), calls: "client GET / 200"},
		{name: "CUSTOM, of which nobody is asked, denies what it is about", policies: authorizationPolicy("custom", "{"+echoOnly+", action: CUSTOM, provider: {name: x}, rules: [{to: [{operation: {paths: [/ask]}}]}]}"),
			calls: "client GET / 200; client GET /ask 403"},
		{name: "a claim of a token", policies: authorizationPolicy("jwt", "{"+echoOnly+", rules: [{from: [{source: {requestPrincipals: ['*']}}]}]}"), calls: "client GET / 403"},
		{name: "no token", policies: authorizationPolicy("nojwt", "{"+echoOnly+", action: DENY, rules: [{from: [{source: {notRequestPrincipals: ['*']}}]}]}"), calls: "client GET / 403"},
		{name: "a DENY with an error denies everything", policies: authorizationPolicy("bad", "{"+echoOnly+", action: DENY, rules: [{to: [{operation: {path: [/x]}}]}]}"), calls: "client GET / 403; client tcp no"},
		{name: "a DENY for workloads and for a gateway of the Gateway API denies", policies: authorizationPolicy("both", "{"+echoOnly+", action: DENY, targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: g}], rules: [{to: [{operation: {paths: [/admin]}}]}]}"),
			calls: "client GET / 200; client GET /admin 403"},
		{name: "an ALLOW with an error allows what can be read", policies: authorizationPolicy("bad2", "{"+echoOnly+", rules: [{to: [{operation: {methods: [GET]}}]}, {from: [{source: {ipBlocks: [x]}}]}]}"), calls: "client GET / 200; client POST / 403"},
		{name: "old roles, off", policies: roles("{mode: 'OFF'}", "{services: ['*'], methods: [GET]}", clientSays), calls: "client POST / 200; stranger GET / 200; client tcp yes"},
		{name: "old roles", policies: roles("{mode: 'ON'}", "{services: ["+echoHost+"], methods: [GET], paths: [/a/*]}", clientSays+", {user: '*', properties: {'request.headers[x-key]': open}}"),
			calls: "client GET /a/b 200; client GET /b 403; client POST /a/b 403; client GET /a/..%2Fb 403; other GET /a/b 403; stranger GET /a/b x-key:open 200; client tcp no; other GET /a/ 403",
			log:   "rbac_access_denied_matched_policy[none]"},
		{name: "old roles on a port", policies: roles("{mode: ON_WITH_INCLUSION, inclusion: {namespaces: [default]}}", "{services: [echo.*], ports: [9000]}", "{names: ['*']}"), calls: "other tcp yes; stranger tcp no; other GET / 403"},
		{name: "old roles that leave the service out", policies: roles("{mode: ON_WITH_EXCLUSION, exclusion: {services: ["+echoHost+"]}}", "{services: ['*']}", clientSays), calls: "other GET / 200; stranger tcp yes"},
		{name: "old roles that are only watched", policies: roles("{mode: 'ON', enforcement_mode: PERMISSIVE}", "{services: ['*']}", clientSays), calls: "other GET / 200; other tcp yes"},
		{name: "old roles beside a policy of today: both have to allow", policies: documents(roles("{mode: 'ON'}", "{services: ['*'], methods: [GET]}", "{user: '*'}"),
			authorizationPolicy("new", "{"+echoOnly+", rules: [{from: [{source: {serviceAccounts: [client]}}]}]}")), calls: "client GET / 200; client POST / 403; other GET / 403"},
		{name: "an old role with errors gives nothing", policies: strings.ReplaceAll(roles("{mode: 'ON'}", "{services: ['*'], constraints: [{key: destination.name, values: [x]}]}", "{user: '*'}"), "name: role", "name: bad-role"), calls: "client GET / 403; client tcp no"},
		{name: "an old policy for mutual TLS", policies: oldPolicy("peers: [{mtls: {}}]"), calls: "client GET / 200; client tcp yes; stranger tcp no"},
		{name: "an old policy that asks for tokens", policies: oldPolicy("peers: [{mtls: {mode: PERMISSIVE}}], origins: [{jwt: {issuer: me, jwksUri: 'http://127.0.0.1:1/keys', triggerRules: [{excludedPaths: [{prefix: /public/}]}]}}]"),
			calls: "client GET /public/x 200; client GET /public/..%2Fx 403; client tcp yes; stranger GET / 403", log: "rbac_access_denied_matched_policy[ns[default]-policy[Policy/echo/echo]-rule[0]]"},
		{name: "an old policy with errors lets nobody in", policies: strings.Replace(oldPolicy("peers: [{mtls: {}}], origins: [{jwt: {issuer: ''}}]"), "{name: echo}", "{name: bad-echo}", 1), calls: "client GET / 403; client tcp no"},
	} {
		m.Run(c.name, func(t *testing.T) {
			m.Config("authorization.yaml", c.policies)
			last := ""
			for i, call := range strings.Split(c.calls, ";") {
				f := strings.Fields(call)
				from, want := who[f[0]], f[len(f)-1]
				if f[1] == "tcp" {
					dial := func(ctx context.Context) (net.Conn, error) {
						return new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(echo.At(9000), "http://"))
					}
					if from != nil {
						dial = dialer(from, "echo:9000")
					}
					if got := passes(dial); got != (want == "yes") {
						t.Errorf("%s: TCP passes: %v", call, got)
					}
					continue
				}
				last = fmt.Sprintf("%s-%d", strings.ReplaceAll(c.name, " ", "-"), i)
				headers := []string{"x-request-id: " + last}
				for _, h := range f[3 : len(f)-1] {
					headers = append(headers, strings.Replace(h, ":", ": ", 1))
				}
				var r *mesh.Response
				if from != nil {
					r = from.Do(f[1], "http://echo:8080"+f[2], nil, headers...)
				} else {
					r = mesh.Do(echo.Outside(), f[1], echo.At(8080)+f[2], nil, headers...)
				}
				if fmt.Sprint(r.Status) != want {
					t.Errorf("%s: %v", call, r)
				}
				if r.Status == http.StatusForbidden && f[1] != "HEAD" && string(r.Body) != denied {
					t.Errorf("%s: the body says %q", call, r.Body)
				}
			}
			if c.log != "" {
				if line := echo.AccessLog(last); len(line) != 1 || !strings.Contains(line[0], "403 - "+c.log) {
					t.Errorf("the log says %q", line)
				}
			}
		})
	}
}

// passes reports whether a connection gets an answer.
func passes(dial func(context.Context) (net.Conn, error)) bool {
	line, err := exchangeWith(dial, "hello\n")
	return err == nil && line == "hello\n"
}

// Every change of policies, in whatever order proxies hear of it, leaves what both sides of it say as it is: what both allow
// is never refused or lost, what both deny never gets through. Policies are replaced by others that say the same of two
// paths in other words, while mTLS is demanded and not; some changes are waited for, some come right behind another.
func TestFlippingAuthorizationUnderLoadDecidesNothingWrongly(t *testing.T) {
	t.Parallel()
	m, client, _ := echoMesh(t, nil, echoPod("echo-0", "v1"), echoPod("echo-1", "v1"))
	const (
		allowPath = "{" + echoOnly + ", rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/client]}}], to: [{operation: {paths: [/open*]}}]}]}"
		allowMost = "{" + echoOnly + ", rules: [{from: [{source: {serviceAccounts: [client]}}], to: [{operation: {notPaths: [/shut*]}}]}]}"
		allowAll  = "{" + echoOnly + ", rules: [{}]}"
		denyPath  = "{" + echoOnly + ", action: DENY, rules: [{to: [{operation: {paths: [/shut*]}}]}]}"
		denyMost  = "{" + echoOnly + ", action: DENY, rules: [{to: [{operation: {notPaths: [/open*]}}]}]}"
	)
	// Any of the one beside any of the other allows /open and denies /shut: files are read one after the other.
	allow, deny := []string{allowPath, allowMost, allowAll}, []string{denyPath, denyMost}
	m.Config("allow.yaml", authorizationPolicy("allow", allow[0]))
	m.Config("deny.yaml", authorizationPolicy("deny", deny[0]))
	open := startLoad(t, client, 3, "http://echo:8080/open")
	shut := startLoadOf(t, 3, 0, func() *mesh.Response { return client.Get("http://echo:8080/shut") }, func(r *mesh.Response) error {
		if r.Err != nil || r.Status != http.StatusForbidden {
			return fmt.Errorf("%v", r)
		}
		return nil
	})
	const flips = 100
	for i := range flips {
		switch i % 5 {
		case 0, 3:
			m.Write("allow.yaml", authorizationPolicy("allow", allow[i%3]))
		case 1, 4:
			m.Write("deny.yaml", authorizationPolicy("deny", deny[i%2]))
		case 2:
			m.Write("mode.yaml", peerAuthentication("default", "{mtls: {mode: "+[]string{"STRICT", "PERMISSIVE"}[i%2]+"}}"))
		}
		open.await(int64(1 + i%7*3))
		if i%10 == 9 {
			m.Settle()
		}
	}
	m.Settle()
	open.stop(t)
	shut.stop(t)
}
