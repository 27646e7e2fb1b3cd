package control

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	replicasv1 "github.com/weirmesh/weir/api/replicas/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/mesh"
)

// fetch reads an answer of the API.
func fetch(t *testing.T, url string, v any) http.Header {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(v); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s %v", url, resp.Status, err)
	}
	return resp.Header
}

// Proxies are shown wherever they are connected: whichever control plane is asked, with who did not answer; nobody but control planes
// may ask so, and about nothing else.
func TestProxiesOfSeveralReplicas(t *testing.T) {
	folder, first, second := t.TempDir(), t.TempDir(), t.TempDir()
	a := startReplica(t, first, folder, 0)
	copyAuthority(t, first, second)
	b := startReplica(t, second, folder, 0, func(o *Options) {
		o.Replicas = []string{a.grpc, o.GRPC[0].Addr().String(), "127.0.0.1:1"}
	})
	subscribe(t, a, "page-0", nil, nil)
	subscribe(t, b, "reviews-0", nil, nil)
	for _, r := range []*replica{a, b} {
		eventually(t, "the proxy is connected", func() error {
			if n := len(r.xds.Clients()); n != 1 {
				return fmt.Errorf("%d", n)
			}
			return nil
		})
	}

	var all []apiv1.ProxyStatus
	silent := fetch(t, "http://"+b.http+"/api/v1/proxies", &all).Values(apiv1.SilentHeader)
	var at []string
	for _, p := range all {
		at = append(at, p.Name+" at "+p.ControlPlane)
	}
	if want := []string{"default/page-0 at " + a.o.Name, "default/reviews-0 at " + b.o.Name}; !slices.Equal(at, want) {
		t.Errorf("proxies %q, want %q", at, want)
	}
	if want := []string{"the control plane at 127.0.0.1:1"}; !slices.Equal(silent, want) {
		t.Errorf("silent %q, want %q", silent, want)
	}
	var s apiv1.Status
	eventually(t, "the configuration is read", func() error {
		if b.latest.Load() == nil {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	fetch(t, "http://"+b.http+"/api/v1/status", &s)
	if len(s.Proxies) != 2 || len(s.Silent) != 1 {
		t.Errorf("status: %d proxies, silent %q", len(s.Proxies), s.Silent)
	}

	_, stranger := a.connect(t, "page", "sidecar~10.0.0.7~page-7.default~default.svc.cluster.local")
	stream, err := stranger.Call(t.Context(), &replicasv1.CallRequest{Method: http.MethodGet, Path: "/api/v1/proxies"})
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.PermissionDenied {
		t.Errorf("a workload asks as a replica: %v", err)
	}
	for path, want := range map[string]int{"/api/v1/proxies": 200, "/api/v1/objects": 404, "/api/v1/proxies/default/page-0/config": 404} {
		if _, code, _, err := b.replicas.call(t.Context(), a.grpc, http.MethodGet, path); err != nil || code != want {
			t.Errorf("%s: %d %v, want %d", path, code, err, want)
		}
	}
	if _, _, _, err := b.replicas.call(t.Context(), a.grpc, http.MethodGet, "http://elsewhere/"); status.Code(err) != codes.InvalidArgument {
		t.Errorf("another host: %v", err)
	}
}

// Replicas of every revision are asked, by the Services of control planes in the namespace of the installation.
func TestReplicaAddresses(t *testing.T) {
	snap := &mesh.Snapshot{}
	for i, name := range []string{"istio-system/istiod", "istio-system/istiod-1-1", "istio-system/istiodine", "istio-system/istio-pilot", "shop/istiod"} {
		ns, n, _ := strings.Cut(name, "/")
		svc := &mesh.Service{Namespace: ns, Name: n, Hostname: n + "." + ns + ".svc.cluster.local"} // its endpoints are found by that
		key := svc.Key()
		snap.Services = snap.Services.Set(key, svc)
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), xdsPort)
		snap.Endpoints = snap.Endpoints.Set(key, &mesh.EndpointSet{Ports: map[uint16][]mesh.Endpoint{xdsPort: {{Addr: at}, {Addr: at}}}})
	}
	for service, want := range map[string][]string{"": {"10.0.0.0:15012", "10.0.0.1:15012"}, "istiod": {"10.0.0.0:15012"}, "istiod-1-1": {"10.0.0.1:15012"}, "istiod-2": nil} {
		if got := replicaAddresses(snap, "istio-system", service); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", service, got, want)
		}
	}
}
