package verdict

import (
	"fmt"
	"testing"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/config/verdict"
	"github.com/weirmesh/weir/mesh"
)

// What a receipt of one object costs in a mesh of 5,000 services, each with route and rule: a View is made for each request for receipts.
func BenchmarkJudged5000(b *testing.B) {
	s, err := store.New(store.Options{Settings: mesh.Settings{TrustDomain: "cluster.local", ClusterID: "Kubernetes", DomainSuffix: "cluster.local", RootNamespace: "istio-system"}})
	if err != nil {
		b.Fatal(err)
	}
	var units []config.Unit
	for i := range 5000 {
		units = append(units, file.Parse(fmt.Sprintf("%d.yaml", i), []byte(fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: svc-%[1]d, namespace: ns-%[2]d}
spec: {selector: {app: svc-%[1]d}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: svc-%[1]d, namespace: ns-%[2]d}
spec: {host: svc-%[1]d, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: svc-%[1]d, namespace: ns-%[2]d}
spec:
  hosts: [svc-%[1]d]
  http:
  - match: [{uri: {prefix: /v2}}]
    route: [{destination: {host: svc-%[1]d, subset: v2}}]
  - route: [{destination: {host: svc-%[1]d, subset: v1}}]
---
apiVersion: v1
kind: Pod
metadata: {name: svc-%[1]d-0, namespace: ns-%[2]d, labels: {app: svc-%[1]d, version: v1}, annotations: {sidecar.istio.io/status: '{}'}}
spec: {containers: [{name: c, image: i}]}
status: {podIP: 10.%[3]d.%[4]d.1, conditions: [{type: Ready, status: 'True'}]}
`, i, i/20, i/250, i%250)), "default"))
	}
	u := s.Step(units...)
	for _, kind := range []string{"VirtualService", "DestinationRule"} {
		o := u.Objects.At(config.ID{Group: "networking.istio.io", Kind: kind, Namespace: "ns-9", Name: "svc-180"}.String())
		b.Run(kind, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				all := verdict.On(u.Snapshot).Of(o.Raw, o.State == store.Compiled, o.Findings)
				if len(all) == 0 || all[0].State != verdict.Active {
					b.Fatal(all)
				}
			}
		})
	}
}
