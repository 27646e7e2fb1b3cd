package faults

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/test/mesh"
)

// Calls that come before there is configuration, or for which there is none yet: each in a mesh of its own.
func earlyRows() []fault {
	return []fault{
		{name: "no configuration yet", how: "a pod begins while the control plane is away, and its program calls somebody", apart: unconfigured,
			cause: "no_configuration", at: "default/client", client: "no_configuration"},
		{name: "no configuration of the destination yet", how: "configuration on demand, and the control plane is away when a destination is called for the first time", apart: undemanded,
			cause: "destination_config_unavailable", at: "default/client", client: "destination_config_unavailable"},
	}
}

// somebody is the address of a service, and its port.
const somebody = "10.96.7.8"

// early is a mesh with one service and a client whose connections are captured; before runs before that is there.
func early(t *testing.T, f *fault, before func(*world)) *world {
	w := &world{Mesh: mesh.New(t, nil), t: t, rows: []fault{*f}, texts: map[string]string{}, marks: map[string][]place{}, homes: map[string]*mesh.Workload{}}
	w.Config(f.file(), "apiVersion: v1\nkind: Service\nmetadata: {name: x}\nspec: {clusterIP: "+somebody+", selector: {app: x}, ports: [{name: http, port: 8080}]}\n")
	before(w)
	w.client = w.Launch(mesh.Spec{Name: "client-0", Owner: "client", ServiceAccount: "client", Labels: map[string]string{"app": "client"}, Captured: true,
		Proxy: func(o *proxy.Options) { o.Early.Patience = 50 * time.Millisecond }})
	return w
}

func unconfigured(t *testing.T, f *fault) (*world, string) {
	w := early(t, f, func(w *world) { w.StopControl() })
	w.Eventually("a connection is refused", func() error {
		c, err := w.client.DialAt(context.Background(), netip.MustParseAddrPort(somebody+":8080"))
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err = c.Read(make([]byte, 1)); err == nil {
			return errors.New("somebody answers")
		}
		return nil
	})
	w.StartControl()
	w.client.AwaitReady()
	return w, lastOf + "client"
}

func undemanded(t *testing.T, f *fault) (*world, string) {
	w := early(t, f, func(*world) {})
	w.client.AwaitReady()
	w.StopControl()
	w.Eventually("the proxy knows that nobody is there", func() error {
		if text := string(w.client.Admin(http.MethodGet, "/state").Body); !strings.Contains(text, `"away"`) {
			return errors.New("it does not")
		}
		return nil
	})
	w.client.Get("http://"+somebody+":8080/", "host: x:8080")
	w.StartControl()
	return w, lastOf + "client"
}
