package e2e_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"testing"

	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/test/mesh"
)

// A program that calls at once, when its proxy has never heard of a control plane, waits and is served when there is one: on
// demand, and when all configuration comes at once. (That nobody waits for ever is shown by proxy/listener, where time is not real.)
func TestCallsBeforeTheFirstConfigurationWait(t *testing.T) {
	t.Parallel()
	m := mesh.New(t, nil)
	m.Config("echo.yaml", echoService)
	m.Workload(echoPod("echo-0", "v1"))
	address := netip.MustParseAddr(m.Services()["echo.default.svc.cluster.local"].Addresses[0])
	m.KillControl()
	whole := captured("whole-0")
	whole.Proxy = func(o *proxy.Options) {
		o.OnDemand = false
		o.Metadata["WEIR"] = map[string]any{"VHDS": true}
	}
	const each = 3
	var answers []chan *mesh.Response
	for _, s := range []mesh.Spec{captured("client-0"), whole} {
		w := m.Launch(s)
		m.Eventually("connections are taken", func() error {
			c, err := w.DialAt(context.Background(), netip.AddrPortFrom(address, 8080))
			if err == nil {
				err = c.Close()
			}
			return err
		})
		for range each {
			answer := make(chan *mesh.Response, 1)
			answers = append(answers, answer)
			go func() { answer <- w.Get("http://"+address.String()+":8080/", "host: echo:8080") }()
		}
		m.Eventually("they wait", func() error {
			var info struct{ Active int }
			if err := json.Unmarshal(w.Admin(http.MethodGet, "/server_info").Body, &info); err != nil || info.Active < each {
				return fmt.Errorf("%d do, %w", info.Active, err)
			}
			return nil
		})
		if r := w.Admin(http.MethodGet, "/healthz/ready"); r.Status != http.StatusServiceUnavailable {
			t.Errorf("%s is ready: %v", w.Name, r)
		}
	}
	m.StartControl()
	for _, answer := range answers {
		(<-answer).Report(t)
	}
}
