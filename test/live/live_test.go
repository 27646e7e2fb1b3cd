package live

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/test/mesh"
)

const service = `
apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {selector: {app: echo}, ports: [{name: http, port: 8080}]}
`

// echo is a mesh with a client and a workload behind the service echo, to which a traffic policy applies.
func echo(t *testing.T, policy string) (*mesh.Mesh, *mesh.Workload) {
	t.Helper()
	m := mesh.New(t, nil)
	m.Config("echo.yaml", service)
	m.Config("rule.yaml", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: echo}\nspec: {host: echo, trafficPolicy: "+policy+"}\n")
	all := m.Workloads(mesh.Spec{Name: "client-0", Owner: "client", ServiceAccount: "client", Labels: map[string]string{"app": "client"}},
		mesh.Spec{Name: "echo-v1-0", Owner: "echo-v1", ServiceAccount: "echo", Labels: map[string]string{"app": "echo"}, Ports: []mesh.Port{{Name: "http", Number: 8080}}, Program: []string{"echo", "--port", "8080"}})
	return m, all[0]
}

// A limit that was reached is told with the field that sets it, where that is written, and by whose calls; what nobody sets is a
// default.
func TestLimitsAreTold(t *testing.T) {
	t.Parallel()
	m, client := echo(t, "{connectionPool: {http: {http2MaxRequests: 1}}}")
	m.Eventually("the limit is reached", func() error {
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() { client.Get("http://echo:8080/?delay=20ms") })
		}
		both.Wait()
		all, err := m.API().Limits(t.Context(), "echo", "default")
		if err != nil {
			return err
		}
		find := func(at, name string) *apiv1.Limit {
			for i := range all.Limits {
				if x := &all.Limits[i]; x.At == at && x.Name == name && x.Subset == "" && x.Port == 8080 {
					return x
				}
			}
			return &apiv1.Limit{}
		}
		x := find("caller", "requests")
		if x.Trips == 0 || len(x.Callers) == 0 || find("server", "requests").Peak == 0 {
			return errors.New("not yet")
		}
		if *x.Value != 1 || x.Peak != 1 || x.Default || x.SetBy == nil || x.SetBy.Field != "trafficPolicy.connectionPool.http.http2MaxRequests" || !strings.HasSuffix(x.SetBy.File, "rule.yaml") || x.SetBy.Line == 0 || x.Callers[0].Workload != "default/client" {
			t.Errorf("%+v, set by %+v", x, x.SetBy)
		}
		if y := find("caller", "connections"); y.Value != nil || !y.Default || y.Peak == 0 {
			t.Errorf("%+v", y)
		}
		return nil
	})
	if _, err := m.API().Limits(t.Context(), "nosuch", "default"); err == nil {
		t.Error("a service that is not there has limits")
	}
}

// The level of a workload's log is changed through the control plane, and goes back when it is asked to; others keep theirs.
func TestLogLevel(t *testing.T) {
	t.Parallel()
	m, client := echo(t, "{}")
	api := m.API()
	change := func(level string, lasts time.Duration, reset bool) *apiv1.LogLevels {
		var out *apiv1.LogLevels
		m.Eventually("both proxies can be asked", func() error { // each opens its stream when it has heard of it
			for _, w := range []string{"client", "echo-v1"} {
				l, err := api.LogLevel(t.Context(), "default", w, "", 0, false)
				if err != nil || len(l.Proxies) != 1 || len(l.Silent) > 0 {
					return errors.Join(err, errors.New("not yet"))
				}
			}
			var err error
			out, err = api.LogLevel(t.Context(), "default", "echo-v1", level, lasts, reset)
			return err
		})
		return out
	}
	usual := change("error", time.Hour, false).Proxies[0].Usual
	if got := change("", 0, false).Proxies[0]; got.Proxy != "default/echo-v1-0" || got.Level != "error" || got.Until == nil {
		t.Errorf("%+v", got)
	}
	if r := client.Admin(http.MethodGet, "/logging"); !strings.EqualFold(strings.TrimSpace(string(r.Body)), usual) {
		t.Errorf("another proxy's level: %s", r.Body)
	}
	if got := change("", 0, true).Proxies[0]; got.Level != usual || got.Until != nil {
		t.Errorf("%+v, usual %s", got, usual)
	}
}

// An endpoint that was ejected is told with who ejected it, why and until when, and that it happened is an event of its service.
func TestEjectionsAreTold(t *testing.T) {
	t.Parallel()
	m, client := echo(t, "{outlierDetection: {consecutive5xxErrors: 1, baseEjectionTime: 10m, maxEjectionPercent: 100}}")
	if r := client.Get("http://echo:8080/?status=500"); r.Status != 500 {
		t.Fatal(r)
	}
	m.Eventually("it is told, and is an event", func() error {
		all, err := m.API().Ejections(t.Context(), "echo", "default")
		if err != nil {
			return err
		}
		if len(all.Ejections) != 1 {
			return errors.New("not yet")
		}
		if e := all.Ejections[0]; e.State != "ejected" || e.Status != 500 || e.InARow != 1 || e.Workload != "default/echo-v1" || !strings.HasPrefix(e.Proxy, "default/client") || e.Until == nil || e.Until.Sub(e.Since) != 10*time.Minute {
			t.Errorf("%+v", e)
		}
		events, err := m.API().Events(t.Context(), 0, 0, "Service", "default", "echo")
		if err != nil {
			return err
		}
		for _, e := range events.Events {
			if e.Type == "ejected" && strings.Contains(e.Message, "the last answer was 500; for 10m0s") {
				return nil
			}
		}
		return errors.New("there is no event yet")
	})
}

// An endpoint that does not answer to connections is told as set aside by who found out, and its proxy's own page says so.
func TestSilentEndpointsAreTold(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	m.Config("echo.yaml", service)
	m.Config("rule.yaml", "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: echo}\nspec: {host: echo, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 0.05s}}}}\n")
	all := m.Workloads(mesh.Spec{Name: "client-0", Owner: "client", ServiceAccount: "client", Labels: map[string]string{"app": "client"}},
		mesh.Spec{Name: "echo-v1-0", Owner: "echo-v1", ServiceAccount: "echo", Labels: map[string]string{"app": "echo"}, Ports: []mesh.Port{{Name: "http", Number: 8080}}, NoProxy: true})
	client, at := all[0], all[1].App(8080)
	mesh.Deaf(t, at)
	m.Eventually("it is told", func() error {
		if r := client.Get("http://echo:8080/"); r.Status != 503 {
			return fmt.Errorf("the answer is %v", r)
		}
		all, err := m.API().Ejections(t.Context(), "echo", "default")
		if err != nil {
			return err
		}
		if len(all.Ejections) != 1 {
			return fmt.Errorf("%d are set aside", len(all.Ejections))
		}
		if e := all.Ejections[0]; e.State != "silent" || e.Endpoint != at.String() || e.Workload != "default/echo-v1" || !strings.HasPrefix(e.Proxy, "default/client") || e.Until == nil || !e.Until.After(e.Since) || e.Reason != "" || e.Times != 0 || !strings.Contains(e.Text, "does not answer to connections") {
			t.Errorf("%+v", e)
		}
		if page := string(client.Admin(http.MethodGet, "/clusters").Body); !strings.Contains(page, "::"+at.String()+"::silent::1\n") {
			return fmt.Errorf("the proxy's page has nothing of it: %s", page)
		}
		return nil
	})
}

// A tap shows each request that its filters let pass once, as the caller's proxy saw it, while somebody looks.
func TestTap(t *testing.T) {
	t.Parallel()
	m, client := echo(t, "{connectionPool: {http: {http2MaxRequests: 100}}}")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var mu sync.Mutex
	var got []apiv1.Tapped
	ended := make(chan error, 1)
	go func() {
		ended <- m.API().Tap(ctx, url.Values{"service": {"echo"}, "namespace": {"default"}, "from": {"client"}, "path": {"/wanted"}, "status": {"4xx"}, "method": {"get"}, "header": {"X-Who=me"}}, func(x *apiv1.Tapped) error {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, *x)
			return nil
		})
	}()
	m.Eventually("a request is shown", func() error {
		for _, path := range []string{"/wanted?status=418", "/wanted?status=200", "/other?status=418"} {
			client.Get("http://echo:8080"+path, "x-who: me")
		}
		client.Get("http://echo:8080/wanted?status=418", "x-who: somebody")
		mu.Lock()
		defer mu.Unlock()
		if len(got) == 0 {
			return errors.New("not yet")
		}
		return nil
	})
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	ids := map[string]bool{}
	for _, x := range got {
		if x.Path != "/wanted" || x.Status != 418 || x.Source != "default/client" || x.Destination != "default/echo-v1" || x.Proxy != "default/client-0" || x.Transport != "mtls" || x.Method != http.MethodGet || ids[x.ID] {
			t.Errorf("%+v", x)
		}
		ids[x.ID] = true
	}
}
