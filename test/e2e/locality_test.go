package e2e_test

import (
	"errors"
	"fmt"
	"maps"
	"testing"

	"github.com/weirmesh/weir/test/mesh"
)

// placed is a pod somewhere, as its label says.
func placed(s mesh.Spec, where string) mesh.Spec {
	labels := map[string]string{"topology.istio.io/locality": where}
	maps.Copy(labels, s.Labels)
	s.Labels = labels
	return s
}

// shares counts who answers n requests, by version.
func shares(t *testing.T, client *mesh.Workload, n int) map[string]int {
	t.Helper()
	out := map[string]int{}
	for range n {
		r := client.Get("http://echo:8080/")
		if r.Err != nil || r.Status != 200 {
			t.Fatal(r)
		}
		out[r.Report(t).Version]++
	}
	return out
}

// Without any outlier detection: requests stay in the client's zone as long as enough of it is well, go to the next zone, then
// to the region that is named; they come back; another client elsewhere has its own order; shares are shares.
func TestLocality(t *testing.T) {
	t.Parallel()
	m, client, pods := echoMesh(t, nil, placed(echoPod("echo-a-0", "a"), "us.a"), placed(echoPod("echo-b-0", "b"), "us.b"),
		placed(echoPod("echo-eu-0", "eu"), "eu.a"), placed(echoPod("echo-asia-0", "asia"), "asia.a"), placed(caller("near"), "us.a"), placed(caller("far"), "eu.a"))
	near, far := pods[4], pods[5]
	only := func(who *mesh.Workload, version string) {
		t.Helper()
		if got := shares(t, who, 20); got[version] != 20 {
			t.Errorf("%s: %v, want only %s", who.Name, got, version)
		}
	}
	if got := shares(t, near, 100); len(got) != 4 {
		t.Errorf("nobody said that localities make a difference, and %v answered", got)
	}
	m.Config("rule.yaml", destinationRule("echo", "{host: echo, trafficPolicy: {loadBalancer: {localityLbSetting: {failover: [{from: us, to: eu}]}}}}"))
	only(near, "a")
	only(far, "eu")
	if got := shares(t, client, 100); len(got) != 4 {
		t.Errorf("to a client of which nobody knows where it is %v answered", got)
	}
	for _, c := range []struct {
		pod  int
		next string
	}{{0, "b"}, {1, "eu"}, {2, "asia"}} {
		pods[c.pod].SetHealth("unhealthy")
		only(near, c.next)
	}
	pods[0].SetHealth("healthy")
	only(near, "a")
	pods[1].SetHealth("healthy")
	pods[2].SetHealth("healthy")
	m.Config("rule.yaml", destinationRule("echo", "{host: echo, trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: us/*, to: {us/a: 60, us/b: 40}}]}}}}"))
	m.Eventually("shares by zone", func() error {
		if got := shares(t, near, 200); got["a"] < 90 || got["b"] < 50 || got["eu"]+got["asia"] > 0 {
			return errors.New(fmt.Sprint(got))
		}
		return nil
	})
	pods[0].SetHealth("unhealthy")
	only(near, "b")
	if got := shares(t, far, 100); len(got) != 3 {
		t.Errorf("of a client elsewhere nothing was said, and %v answered", got)
	}
}
