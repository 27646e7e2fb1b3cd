package cli

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/install"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/dump"
	"github.com/weirmesh/weir/xds/resource"
)

// published is a source that says something once.
type published []config.Unit

func (p published) Run(ctx context.Context, publish func([]config.Unit)) error {
	publish(p)
	<-ctx.Done()
	return nil
}

// What this program would make of a cluster goes by the settings it is to be installed with, and by what there is otherwise; it is shown
// as a control plane that runs shows it.
func TestForeseen(t *testing.T) {
	r, err := install.Render(install.Settings{Set: []string{"meshConfig.outboundTrafficPolicy.mode=REGISTRY_ONLY", "meshConfig.trustDomain=example.org", "global.multiCluster.clusterName=north", "compatibilityVersion=1.31"}})
	if err != nil {
		t.Fatal(err)
	}
	s := planned(r)
	if s.settings.ClusterID != "north" || s.settings.TrustDomain != "example.org" || s.settings.DefaultRetries.Attempts != 2 || s.config == nil {
		t.Fatalf("%+v", s.settings)
	}
	there := file.Parse("cluster", []byte(`apiVersion: v1
kind: ConfigMap
metadata: {name: istio, namespace: istio-system}
data: {mesh: "outboundTrafficPolicy: {mode: ALLOW_ANY}"}
`), "default")
	pods := file.Parse("pods", []byte(`apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, name: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, labels: {app: web}, annotations: {sidecar.istio.io/status: "{}"}}
spec: {containers: [{name: c, image: c}]}
status: {podIP: 10.1.0.1}
`), "default")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	latest, err := follow(ctx, s.settings, &meshed{published{there, pods}, s.config}, nil)
	if err != nil {
		t.Fatal(err)
	}
	u := latest()
	if !u.Analyzed || !u.Snapshot.Settings.RegistryOnly {
		t.Errorf("analyzed %v, %+v", u.Analyzed, u.Snapshot.Settings)
	}
	h, err := shown(u, translate.New(), "default", "web-0")
	if err != nil {
		t.Fatal(err)
	}
	types := map[string]bool{}
	for _, x := range h.Resources {
		types[resource.Short(x.TypeURL)] = true
	}
	if d := cmp.Diff(map[string]bool{"CDS": true, "LDS": true, "RDS": true, "EDS": true}, types); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if _, err := shown(u, translate.New(), "default", "nobody"); err == nil {
		t.Error("there is no such workload")
	}
}

// What is the same for many resources and workloads is one change; a type that only one side has is a difference; keys that only one
// side can have are none.
func TestComparison(t *testing.T) {
	held := func(resources ...dump.HeldResource) *dump.Held { return &dump.Held{Resources: resources} }
	of := func(typ, name, version string, body any) dump.HeldResource {
		b, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		return dump.HeldResource{TypeURL: typ, Name: name, Version: version, Body: b}
	}
	type m = map[string]any
	table := func(version, timeout string, hosts ...string) dump.HeldResource {
		var list []any
		for _, h := range hosts {
			list = append(list, m{"name": h, "timeout": timeout})
		}
		return of(resource.RouteType, "80", version, m{"name": "80", "virtual_hosts": list})
	}
	jwt := func(version, keys string) dump.HeldResource {
		return of(resource.ListenerType, "in", version, m{"name": "in", "a": version, "jwt_authn": m{"local_jwks": keys}})
	}
	c := comparison{keysLeft: true}
	for _, workload := range []string{"shop/web", "shop/api"} {
		all, err := c.differences(held(table("1", "1s", "a", "b", "gone"), jwt("1", "KEYS")), held(table("2", "2s", "a", "b"), jwt("2", ""), of(resource.ExtensionConfigType, "late", "2", m{"name": "late"})))
		if err != nil {
			t.Fatal(err)
		}
		c.add(workload, all)
	}
	both := []string{"shop/api", "shop/web"}
	want := []upgradeChange{
		{Part: "listener", Path: "a", Before: `"1"`, After: `"2"`, Resources: []string{"in"}, Workloads: both},
		{Part: "route", Path: `virtual_hosts["gone"]`, Before: `{"name":"gone","timeout":"1s"}`, Resources: []string{"80"}, Workloads: both},
		{Part: "route", Path: "virtual_hosts[].timeout", Before: `"1s"`, After: `"2s"`, Resources: []string{"a", "b"}, Workloads: both},
		{Part: "extension", After: `"there"`, Resources: []string{"late"}, Workloads: both},
	}
	if d := cmp.Diff(want, c.list()); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}
