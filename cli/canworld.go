package cli

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/dump"
	"github.com/weirmesh/weir/xds/resource"
	"github.com/weirmesh/weir/xds/simulate"
)

// world is what `weir can` asks: a mesh that runs, or files.
type world struct {
	services  []apiv1.Service
	workloads []apiv1.Workload
	// config is what the proxy of a workload would be sent; names is a regular expression of
	// those wanted, "" for all.
	config func(ctx context.Context, namespace, name, names string) (*simulate.Proxy, error)
	// strict names whose PeerAuthentication demands mutual TLS.
	strict func(ctx context.Context, workload string, port uint16) string
}

func (a *app) world(ctx context.Context, files []string, namespace string) (*world, error) {
	if len(files) > 0 {
		return a.filed(files, namespace)
	}
	c, err := a.mesh()
	if err != nil {
		return nil, err
	}
	w := &world{}
	if w.services, err = c.Services(ctx); err != nil {
		return nil, err
	}
	if w.workloads, err = c.Workloads(ctx); err != nil {
		return nil, err
	}
	seen := map[string]*simulate.Proxy{}
	w.config = func(ctx context.Context, namespace, name, names string) (*simulate.Proxy, error) {
		key := namespace + "/" + name + "?" + names
		if seen[key] == nil {
			text, err := c.WorkloadConfig(ctx, namespace, name, names)
			if err != nil {
				return nil, err
			}
			if seen[key], err = proxyOf(text); err != nil {
				return nil, err
			}
		}
		return seen[key], nil
	}
	w.strict = func(ctx context.Context, workload string, port uint16) string {
		ns, name, _ := strings.Cut(workload, "/")
		v, err := c.MTLS(ctx, ns, name, 0, false)
		if err != nil {
			return ""
		}
		for _, p := range v.Ports {
			if p.Port == port && len(p.Policies) > 0 {
				return fmt.Sprintf(" (PeerAuthentication %s/%s)", p.Policies[0].Namespace, p.Policies[0].Name)
			}
		}
		return ""
	}
	return w, nil
}

// backend is who is called at an address.
func (w *world) backend(address string) *apiv1.Backend {
	for i := range w.services {
		for _, p := range w.services[i].Ports {
			for j := range p.Backends {
				if p.Backends[j].Address == address {
					return &p.Backends[j]
				}
			}
		}
	}
	return nil
}

// proxyOf reads a dump.
func proxyOf(text []byte) (*simulate.Proxy, error) {
	h, err := dump.Read(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	p := simulate.New()
	for _, r := range h.Resources {
		m := followed(r.TypeURL)
		if m == nil || r.Body == nil {
			continue
		}
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(r.Body, m); err != nil {
			return nil, fmt.Errorf("reading %s: %w", r.Name, err)
		}
		p.Add(r.Name, m)
	}
	return p, nil
}

// followed is a message of the types that calls are followed through.
func followed(typeURL string) proto.Message {
	switch typeURL {
	case resource.ListenerType:
		return &listenerv3.Listener{}
	case resource.RouteType:
		return &routev3.RouteConfiguration{}
	case resource.ClusterType:
		return &clusterv3.Cluster{}
	case resource.EndpointType:
		return &endpointv3.ClusterLoadAssignment{}
	}
	return nil
}

// filed is the world that files describe: each Deployment has one pod, with a proxy.
func (a *app) filed(files []string, namespace string) (*world, error) {
	units, err := a.read(files, namespace)
	if err != nil {
		return nil, err
	}
	u, err := analyzed(units)
	if err != nil {
		return nil, err
	}
	var pods bytes.Buffer
	i := 0
	for _, d := range store.Lowered[*appsv1.Deployment](u) {
		i++
		t := d.Spec.Template
		t.Spec.NodeName = ""
		annotations := map[string]string{"sidecar.istio.io/status": "{}"}
		maps.Copy(annotations, t.Annotations)
		pod := map[string]any{
			"apiVersion": "v1", "kind": "Pod", "spec": t.Spec,
			"metadata": map[string]any{"name": d.Name + "-0", "namespace": d.Namespace, "labels": t.Labels, "annotations": annotations,
				"ownerReferences": []map[string]any{{"apiVersion": "apps/v1", "kind": "Deployment", "name": d.Name, "uid": "0", "controller": true}}},
			"status": map[string]any{"podIP": fmt.Sprintf("10.255.%d.%d", i/250, i%250+1), "phase": "Running", "conditions": []map[string]string{{"type": "Ready", "status": "True"}}},
		}
		text, err := yaml.Marshal(pod)
		if err != nil {
			return nil, fmt.Errorf("a pod of %s: %w", d.Name, err)
		}
		fmt.Fprintf(&pods, "---\n%s", text)
	}
	if u, err = analyzed(append(units, file.Parse("pods of Deployments", pods.Bytes(), namespace))); err != nil {
		return nil, err
	}
	snap := u.Snapshot
	w := &world{}
	for wl := range snap.Workloads.Values() {
		x := apiv1.Workload{Namespace: wl.Namespace, Name: wl.Name, Owner: wl.Owner, Identity: wl.SPIFFE(snap.Settings.TrustDomain), Proxied: wl.Proxied, Labels: wl.Labels}
		for _, ip := range wl.Addresses {
			x.Addresses = append(x.Addresses, ip.String())
		}
		w.workloads = append(w.workloads, x)
	}
	for key, svc := range snap.Services.All() {
		s := apiv1.Service{Namespace: svc.Namespace, Name: svc.Name, Hostname: svc.Hostname, Kind: svc.Ref.Kind}
		for _, ip := range svc.Addresses {
			s.Addresses = append(s.Addresses, ip.String())
		}
		for _, port := range svc.Ports {
			p := apiv1.ServicePort{Number: port.Number}
			if eps := snap.Endpoints.At(key); eps != nil {
				for _, e := range eps.Ports[port.Number] {
					b := apiv1.Backend{Address: e.Addr.String(), Proxied: e.TLS}
					if e.Workload != nil {
						b.Workload = string(e.Workload.Key())
						b.Port, _ = e.Workload.Serves(&port)
					}
					p.Backends = append(p.Backends, b)
				}
			}
			s.Ports = append(s.Ports, p)
		}
		w.services = append(w.services, s)
	}
	cache := translate.New()
	w.config = func(_ context.Context, namespace, name, _ string) (*simulate.Proxy, error) {
		wl := snap.Workloads.At(mesh.NewKey(namespace, name))
		if wl == nil {
			return nil, fmt.Errorf("there is no workload %s/%s", namespace, name)
		}
		p := simulate.New()
		for typ, set := range cache.View(snap, translate.ProxyOf(snap, wl)).Sets {
			for r := range set.Values() {
				if m := followed(typ); m != nil {
					if err := r.Unmarshal(m); err != nil {
						return nil, fmt.Errorf("reading %s: %w", r.Name(), err)
					}
					p.Add(r.Name(), m)
				}
			}
		}
		return p, nil
	}
	accepts := translate.NewAccepts(snap)
	w.strict = func(_ context.Context, workload string, port uint16) string {
		ns, name, _ := strings.Cut(workload, "/")
		for wl := range snap.Workloads.Values() {
			if wl.Namespace == ns && cmp.Or(wl.Owner, wl.Name) == name {
				if _, by := accepts.On(ns, wl.Labels, port); len(by) > 0 {
					return fmt.Sprintf(" (PeerAuthentication %s/%s)", by[0].Ref.Namespace, by[0].Ref.Name)
				}
			}
		}
		return ""
	}
	slices.SortFunc(w.services, func(a, b apiv1.Service) int { return strings.Compare(a.Hostname, b.Hostname) })
	return w, nil
}
