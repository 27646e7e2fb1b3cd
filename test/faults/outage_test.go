package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/test/mesh"
)

// Faults of what proxies are told, each in a mesh of its own.
func outageRows() []fault {
	return []fault{
		{name: "control plane restarted", how: "a fault of a VirtualService, which is asked about when the control plane has been restarted", apart: restarted,
			cause: "fault_abort", at: "default/client", object: "VirtualService http[0].fault.abort", client: "fault_abort"},
		{name: "object changed since", how: "a fault of a VirtualService, which is asked about when that has another", apart: changed,
			cause: "fault_abort", at: "default/client", object: "VirtualService http[].fault.abort", version: "changed", client: "fault_abort"},
		{name: "last good version", how: "a fault of a VirtualService, which has been given a mistake since", apart: quarantined,
			cause: "fault_abort", at: "default/client", object: "VirtualService http[0].fault.abort", version: "quarantined", client: "fault_abort"},
		{name: "older version of an object", how: "the client's proxy is cut off from the control plane when the fault of a VirtualService becomes another", apart: behind,
			cause: "fault_abort", at: "default/client", object: "VirtualService http[].fault.abort", version: "behind", client: "fault_abort"},
		{name: "older version of a policy", how: "the server's proxy is cut off from the control plane when the rules of an AuthorizationPolicy become others", apart: policyBehind,
			cause: "access_denied", at: "default/server", object: "AuthorizationPolicy rules[0]", version: "behind", client: "-", server: "access_denied"},
		{name: "stale configuration", how: "the client's proxy is cut off from the control plane when the endpoints are replaced", apart: stale,
			cause: "endpoint_gone", at: "default/client", client: "upstream_connect_refused", detail: "had left the service"},
		{name: "endpoint replaced since", how: "nobody listens at the endpoint, and it is replaced before anybody asks", apart: replaced,
			cause: "upstream_connect_refused", at: "default/client", client: "upstream_connect_refused", detail: "was an endpoint of the service still"},
		{name: "configuration rejected", how: "the client's proxy does not take the destination's first configuration: caCertificates is a file that is not there", apart: rejected,
			cause: "configuration_rejected", at: "default/client", object: "DestinationRule x trafficPolicy.tls.caCertificates", client: "cluster_not_found", detail: "/nowhere/ca.pem"},
		{name: "rejected then and mended since", how: "the same, and the DestinationRule is repaired before anybody asks", apart: mended,
			cause: "configuration_rejected", at: "default/client", object: "DestinationRule x trafficPolicy.tls.caCertificates", version: "gone", client: "cluster_not_found", detail: "/nowhere/ca.pem"},
	}
}

// apartFrom is a world of a row's own, with a client.
func apartFrom(t *testing.T, f *fault, text string) *world {
	w := &world{Mesh: mesh.New(t, nil), t: t, rows: []fault{*f}, texts: map[string]string{}, marks: map[string][]place{}, homes: map[string]*mesh.Workload{}}
	w.write(f, text)
	w.client = w.Launch(mesh.Spec{Name: "client-0", Owner: "client", ServiceAccount: "client", Labels: map[string]string{"app": "client"}})
	w.client.AwaitReady()
	return w
}

// moved is a service whose endpoint is at a port.
func moved(port int) string {
	return documents(fmt.Sprintf(`apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: moved}
spec: {hosts: [moved.example], ports: [{number: 8080, name: http, protocol: HTTP}], resolution: STATIC, endpoints: [{address: 127.0.0.1, ports: {http: %d}}]}
`, port), object("networking.istio.io/v1", "VirtualService", "moved", "{hosts: [moved.example], http: [{retries: {attempts: 0}, route: [{destination: {host: moved.example}}]}]}"))
}

func stale(t *testing.T, f *fault) (*world, string) {
	w := apartFrom(t, f, moved(1))
	w.Settle()
	w.replaceUnseen(w.client, f.file(), moved(2))
	w.client.Get("http://moved.example:8080/", "x-request-id: stale")
	w.client.Link().Heal()
	return w, "stale"
}

func replaced(t *testing.T, f *fault) (*world, string) {
	w := apartFrom(t, f, moved(1))
	w.Settle()
	w.client.Get("http://moved.example:8080/", "x-request-id: replaced")
	w.Write(f.file(), moved(2))
	w.Settle()
	return w, "replaced"
}

func mended(t *testing.T, f *fault) (*world, string) {
	w, id := rejected(t, f)
	w.Write(f.file(), "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {selector: {app: x}, ports: [{name: http, port: 8080}]}\n")
	w.Settle()
	return w, id
}

// aborted is a service whose VirtualService aborts all requests.
func (f *fault) aborted() string {
	return strings.ReplaceAll(documents("apiVersion: v1\nkind: Service\nmetadata: {name: NAME}\nspec: {selector: {app: x}, ports: [{name: http, port: 8080}]}\n",
		virtualService("fault: {!wrong abort: {httpStatus: 503, percentage: {value: 100}}}, ROUTE")), "NAME", f.slug())
}

// aborts is a world of such a service.
func aborts(t *testing.T, f *fault) *world {
	w := apartFrom(t, f, f.aborted())
	w.Settle()
	return w
}

func restarted(t *testing.T, f *fault) (*world, string) {
	w := aborts(t, f)
	id := get(w, f)
	w.StopControl()
	w.StartControl()
	return w, id
}

func changed(t *testing.T, f *fault) (*world, string) {
	w := aborts(t, f)
	id := get(w, f)
	w.Write(f.file(), strings.Replace(w.texts[f.file()], "503", "504", 1))
	w.Settle()
	return w, id
}

func quarantined(t *testing.T, f *fault) (*world, string) {
	w := aborts(t, f)
	w.Write(f.file(), strings.Replace(w.texts[f.file()], "fault:", "fualt:", 1))
	w.Eventually("the mistake is found", func() error {
		if !slices.ContainsFunc(w.Findings(), func(x apiv1.Finding) bool { return x.Severity == "error" }) {
			return errors.New("not yet")
		}
		return nil
	})
	return w, get(w, f)
}

func behind(t *testing.T, f *fault) (*world, string) {
	w := aborts(t, f)
	w.replaceUnseen(w.client, f.file(), strings.Replace(w.texts[f.file()], "503", "504", 1))
	id := get(w, f)
	w.client.Link().Heal()
	return w, id
}

func policyBehind(t *testing.T, f *fault) (*world, string) {
	denied := func(path string) string {
		return strings.ReplaceAll(documents("apiVersion: v1\nkind: Service\nmetadata: {name: NAME}\nspec: {selector: {app: server}, ports: [{name: http, port: 8080, targetPort: 20000}]}\n",
			object("security.istio.io/v1", "AuthorizationPolicy", "NAME", "{"+serverOnly+", action: DENY, rules: [{to: [{operation: {paths: [/]}}]}]}")), "NAME", f.slug())
	}
	w := apartFrom(t, f, denied("/"))
	server := w.Workload(mesh.Spec{Name: "server-0", Owner: "server", ServiceAccount: "server", Labels: map[string]string{"app": "server"}, Ports: []mesh.Port{{Name: "http", Number: 20000}}})
	w.Settle()
	w.replaceUnseen(server, f.file(), strings.Replace(w.texts[f.file()], "- /\n", "- /else\n", 1))
	id := get(w, f)
	server.Link().Heal()
	return w, id
}

// replaceUnseen changes a file while a proxy is cut off from the control plane.
func (w *world) replaceUnseen(of *mesh.Workload, file, text string) {
	of.Link().Partition()
	of.Link().Break()
	before := w.Status().Mesh
	w.Write(file, text)
	w.Eventually("the control plane knows of it", func() error {
		s, err := w.API().Status(context.Background())
		if err == nil && s.Mesh == before {
			err = fmt.Errorf("it is on version %d", before)
		}
		return err
	})
}

func rejected(t *testing.T, f *fault) (*world, string) {
	text := documents("apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {selector: {app: x}, ports: [{name: http, port: 8080}]}\n",
		object("networking.istio.io/v1", "DestinationRule", "x", "{host: x, trafficPolicy: {tls: {mode: SIMPLE, !wrong caCertificates: /nowhere/ca.pem}}}"))
	w := apartFrom(t, f, text)
	w.Eventually("it has rejected it", func() error {
		all, _, err := w.API().Proxies(context.Background())
		if err != nil || len(all) == 0 || len(all[0].Rejected) == 0 {
			return fmt.Errorf("%+v, %w", all, err)
		}
		return nil
	})
	w.Eventually("it serves what it took", func() error {
		return w.client.Get("http://x:8080/", "x-request-id: rejected").Err
	})
	return w, "rejected"
}
