package cli

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/cli/client"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/config/istio"
	sourcekube "github.com/weirmesh/weir/config/source/kube"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/install"
	"github.com/weirmesh/weir/internal/kubewatch"
	"github.com/weirmesh/weir/mesh"
	registrykube "github.com/weirmesh/weir/registry/kube"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/dump"
	"github.com/weirmesh/weir/xds/resource"
)

// here is what a control plane of this program's version would make of a cluster: it reads what there is as weir-control does, until ctx
// ends, and writes nothing. What only a control plane that runs has is missing: keys of token issuers, and last good versions of objects.
func here(ctx context.Context, server *rest.Config, r *install.Release) (latest func() *store.Update, err error) {
	s := planned(r)
	server = rest.CopyConfig(server)
	server.QPS, server.Burst = 50, 100 // as weir-control
	client, err := kubernetes.NewForConfig(server)
	if err != nil {
		return nil, err
	}
	objects, err := dynamic.NewForConfig(server)
	if err != nil {
		return nil, err
	}
	heads, err := metadata.NewForConfig(server)
	if err != nil {
		return nil, err
	}
	quiet := slog.New(slog.DiscardHandler)
	api := kubewatch.New(quiet)
	latest, err = follow(ctx, s.settings,
		&meshed{sourcekube.New(sourcekube.Options{Server: api, Client: client, Objects: objects, Heads: heads, Namespace: r.Namespace, Revision: r.Revision, Log: quiet}), s.config},
		registrykube.New(registrykube.Options{Server: api, Client: client, Heads: heads, DomainSuffix: s.settings.DomainSuffix, Namespace: r.Namespace, Log: quiet}))
	if err != nil && ctx.Err() != nil {
		return nil, hinted("--timeout gives it longer; it takes the right to list what weir-control lists", "reading the cluster took too long%s", api.Awaits())
	}
	return latest, err
}

// follow waits for the first Update with all findings, and gives the latest one until ctx ends: pods come and go meanwhile.
func follow(ctx context.Context, settings mesh.Settings, objects store.Source, facts store.Facts) (latest func() *store.Update, err error) {
	var u atomic.Pointer[store.Update]
	first := make(chan struct{})
	s, err := store.New(store.Options{Settings: settings, Facts: facts, Publish: func(now *store.Update) {
		if now.Analyzed && u.Swap(now) == nil {
			close(first)
		}
	}})
	if err != nil {
		return nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, objects) }() // ends with ctx
	select {
	case <-first:
		return u.Load, nil
	case err := <-ended:
		return nil, cmp.Or(err, errors.New("reading the cluster was interrupted"))
	}
}

// meshed reads the mesh's configuration from what is to be installed, and everything else from where it is.
type meshed struct {
	store.Source
	config *unstructured.Unstructured
}

func (m *meshed) Run(ctx context.Context, publish func([]config.Unit)) error {
	return m.Source.Run(ctx, func(units []config.Unit) {
		for i, u := range units {
			if m.config == nil || len(u.Objects) != 1 || u.Objects[0].ID.Kind != "ConfigMap" {
				continue
			}
			text, err := yaml.Marshal(m.config.Object)
			if err != nil {
				continue
			}
			part := document.Part{Text: string(text), Line: 1}
			root, err := document.Parse(part)
			if err != nil {
				continue
			}
			o, findings := config.NewObject(root, part, "", m.config.GetNamespace())
			if o == nil {
				continue
			}
			o.ID = u.Objects[0].ID // whatever the revision
			units[i] = config.Unit{Name: u.Name, Objects: []*config.Object{o}, Findings: findings}
		}
		publish(units)
	})
}

// settled is how a control plane that is to be installed would be started.
type settled struct {
	settings mesh.Settings
	config   *unstructured.Unstructured // ConfigMap of the mesh
}

// planned reads from an installation with which settings its control plane runs.
func planned(r *install.Release) settled {
	s := settled{settings: mesh.Settings{TrustDomain: "cluster.local", ClusterID: "Kubernetes", DomainSuffix: "cluster.local", RootNamespace: r.Namespace}}
	_ = istio.Compatible(istio.Weir, &s.settings)
	name := istio.MeshConfigName
	if r.Revision != "" {
		name += "-" + r.Revision
	}
	for _, o := range r.Objects {
		switch {
		case o.GetKind() == "ConfigMap" && o.GetName() == name:
			s.config = o
			text, _, _ := unstructured.NestedString(o.Object, "data", istio.MeshConfigKey)
			var m struct{ TrustDomain string }
			if yaml.Unmarshal([]byte(text), &m) == nil && m.TrustDomain != "" {
				s.settings.TrustDomain = m.TrustDomain
			}
		case o.GetKind() == "Deployment" && o.GetLabels()["app"] == "istiod":
			containers, _, _ := unstructured.NestedSlice(o.Object, "spec", "template", "spec", "containers")
			for _, c := range containers {
				m, _ := c.(map[string]any)
				args, _, _ := unstructured.NestedStringSlice(m, "args")
				for _, arg := range args {
					switch flag, v, _ := strings.Cut(arg, "="); flag {
					case "--cluster-id":
						s.settings.ClusterID = v
					case "--compatibility-version":
						_ = istio.Compatible(v, &s.settings) // Render refuses others
					}
				}
			}
		}
	}
	return s
}

// shown is what the proxy of a workload would be sent, in the form in which control planes show it.
func shown(u *store.Update, cache *translate.Cache, namespace, name string) (*dump.Held, error) {
	wl := u.Snapshot.Workloads.At(mesh.NewKey(namespace, name))
	if wl == nil {
		return nil, &client.Error{Status: http.StatusNotFound, Message: fmt.Sprintf("there is no workload %s/%s", namespace, name)}
	}
	d := &dump.Dump{}
	for typ, set := range cache.View(u.Snapshot, translate.ProxyOf(u.Snapshot, wl)).Sets {
		if typ == resource.SecretType {
			continue
		}
		for x := range set.Values() {
			d.Resources = append(d.Resources, dump.Resource{TypeURL: typ, Name: x.Name(), Version: x.Version(), Body: x.Any()})
		}
	}
	var b bytes.Buffer
	if err := dump.Write(&b, d, dump.Query{EDS: true}); err != nil {
		return nil, err
	}
	return dump.Read(&b)
}
