package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	cakube "github.com/weirmesh/weir/ca/kube"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/istio"
	sourcekube "github.com/weirmesh/weir/config/source/kube"
	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/control/lastgood"
	"github.com/weirmesh/weir/inject/webhook"
	"github.com/weirmesh/weir/internal/kubeconfig"
	"github.com/weirmesh/weir/internal/kubewatch"
	"github.com/weirmesh/weir/internal/leader"
	"github.com/weirmesh/weir/internal/runner"
	"github.com/weirmesh/weir/mesh"
	registrykube "github.com/weirmesh/weir/registry/kube"
)

// cluster is a control plane that takes everything from Kubernetes.
type cluster struct {
	kube                      bool
	kubeconfig, context       string
	revision, clusterID       string
	mounted                   bool
	signer                    string
	approve                   bool
	webhook, plaintext, ready string
	keysAllowed               []netip.Prefix
	server                    *rest.Config
	client                    kubernetes.Interface
	objects                   dynamic.Interface
	heads                     metadata.Interface
	authority                 *cakube.Authority
	api                       *kubewatch.Server
	asked                     *sourcekube.Source
	runs                      *registrykube.Source
	injector                  *webhook.Watcher // nil where nothing is injected
	waker                     *webhook.Waker   // nil as well
	elections                 []*leader.Election
	options                   *control.Options
	made                      map[string]string // labels of what is made
}

func (k *cluster) flags(f *flag.FlagSet) {
	f.BoolVar(&k.kube, "kube", false, "take everything from the Kubernetes cluster this pod runs in")
	f.StringVar(&k.kubeconfig, "kubeconfig", "", "take everything from the Kubernetes cluster of this file")
	f.StringVar(&k.context, "context", "", "context of --kubeconfig; its current one if not given")
	f.StringVar(&k.revision, "revision", "", "revision of the installation: its ConfigMap is istio-REVISION")
	f.StringVar(&k.clusterID, "cluster-id", "Kubernetes", "name of the cluster, as metrics and proxies say it")
	f.BoolVar(&k.mounted, "service-account-tokens", true, "accept also the tokens that Kubernetes mounts into every pod, as sidecars of Istio 1.0 have them; otherwise only projected ones for audience istio-ca (Kubernetes)")
	f.StringVar(&k.signer, "ca-signer", "", "signer of CertificateSigningRequests that makes the certificates of workloads, for example clusterissuers.cert-manager.io/mesh; its root belongs into root-cert.pem of --ca or of the Secret cacerts (Kubernetes)")
	f.BoolVar(&k.approve, "ca-approve", true, "approve the requests to --ca-signer, which needs the right to; otherwise somebody else has to (Kubernetes)")
	f.StringVar(&k.webhook, "webhook", "", "where injection and validation are served to the API server (Kubernetes)")
	f.StringVar(&k.plaintext, "plaintext", "", "where xDS is served without TLS, secrets and certificates to proxies as of Istio 1.0, for example :15010 (Kubernetes, compatibility version 1.0)")
	f.Func("keys-allow", "`CIDR,CIDR…` where keys of token issuers (jwksUri) may be fetched although they are addresses of this machine or of its link; they are not otherwise (Kubernetes)", func(list string) error {
		for s := range strings.SplitSeq(list, ",") {
			p, err := netip.ParsePrefix(strings.TrimSpace(s))
			if err != nil {
				return errors.New("want addresses like 169.254.20.10/32, separated by commas")
			}
			k.keysAllowed = append(k.keysAllowed, p)
		}
		return nil
	})
	f.StringVar(&k.ready, "ready", "", "where GET /ready is served, for example :8080 (Kubernetes)")
}

// alone are the flags that mean something only where everything comes from Kubernetes.
var alone = []string{"context", "revision", "cluster-id", "service-account-tokens", "ca-signer", "ca-approve", "keys-allow", "webhook", "plaintext"}

// check refuses flags that would mean nothing, or two things.
func (k *cluster) check(f *flag.FlagSet) (err error) {
	if k.kube && k.kubeconfig != "" {
		return errors.New("--kube is the cluster this pod runs in, --kubeconfig another: choose one")
	}
	f.Visit(func(given *flag.Flag) {
		if !k.on() && slices.Contains(alone, given.Name) {
			err = fmt.Errorf("--%s is about Kubernetes: it needs --kube (in a pod) or --kubeconfig FILE", given.Name)
		}
	})
	return err
}

// on reports whether everything comes from Kubernetes.
func (k *cluster) on() bool { return k.kube || k.kubeconfig != "" }

// defaults gives flags that were not given what is usual in a cluster.
func (k *cluster) defaults(f *flag.FlagSet, values map[string]string) {
	f.Visit(func(given *flag.Flag) { delete(values, given.Name) })
	for name, v := range values {
		if err := f.Set(name, v); err != nil {
			panic(err) // a string takes every value
		}
	}
}

// connect finds the API server. Nothing is sent yet.
func (k *cluster) connect(log *slog.Logger) error {
	var err error
	if k.kube {
		if k.server, err = rest.InClusterConfig(); errors.Is(err, rest.ErrNotInCluster) {
			return errors.New("--kube: this is no pod of a Kubernetes cluster; elsewhere use --kubeconfig FILE")
		}
	} else {
		var c *kubeconfig.Config
		if c, err = kubeconfig.Load(k.kubeconfig, k.context); err == nil {
			k.server = c.REST
		}
	}
	if err != nil {
		return fmt.Errorf("finding the API server: %w", err)
	}
	k.server.UserAgent = "weir-control/" + version
	k.server.WarningHandler = rest.NoWarnings{}
	// Watches cost a request each, once; writes (status, leases, root certificates) are paced by
	// those who make them. This holds back what has gone wrong.
	k.server.QPS, k.server.Burst = 50, 100
	k.api = kubewatch.New(log)
	k.server.Wrap(k.api.Through)
	if k.objects, err = dynamic.NewForConfig(k.server); err != nil {
		return err
	}
	if k.heads, err = metadata.NewForConfig(k.server); err != nil {
		return err
	}
	typed := rest.CopyConfig(k.server)
	typed.ContentType, typed.AcceptContentTypes = "application/vnd.kubernetes.protobuf", "application/vnd.kubernetes.protobuf,application/json"
	k.client, err = kubernetes.NewForConfig(typed)
	return err
}

// state is where restarts of one pod find what was (last good versions, addresses given).
func (k *cluster) state() string {
	if k.kube {
		return "/var/lib/weir" // the volume of the chart
	}
	return filepath.Join(os.TempDir(), "weir-control")
}

// identities reads from the MeshConfig what cannot change while the mesh runs: in which
// trust domain identities are.
func (k *cluster) identities(ctx context.Context, o *control.Options) error {
	name := istio.MeshConfigName + k.suffix()
	for told := false; ; told = true {
		c, err := k.client.CoreV1().ConfigMaps(o.Namespace).Get(ctx, name, metav1.GetOptions{})
		switch {
		case err == nil:
			var m struct{ TrustDomain string }
			// What is wrong with it is a finding, later.
			if yaml.Unmarshal([]byte(c.Data[istio.MeshConfigKey]), &m) == nil {
				o.TrustDomain = cmp.Or(m.TrustDomain, o.TrustDomain)
			}
			return nil
		case apierrors.IsNotFound(err):
			return nil
		case apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) || ctx.Err() != nil:
			return fmt.Errorf("reading the mesh's configuration: %w", err)
		case !told:
			o.Log.Warn("the API server does not answer; waiting for it", "server", k.server.Host, "err", err)
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
	}
}

// assemble says in o where everything comes from.
func (k *cluster) assemble(ctx context.Context, o *control.Options) error {
	if err := k.connect(o.Log); err != nil {
		return err
	}
	if err := k.identities(ctx, o); err != nil {
		return err
	}
	o.Settings.ClusterID, o.Settings.RootNamespace = k.clusterID, o.Namespace
	k.runs = registrykube.New(registrykube.Options{Server: k.api, Client: k.client, Heads: k.heads, DomainSuffix: o.Settings.DomainSuffix, Namespace: o.Namespace, Log: o.Log})
	if err := k.certificates(ctx, o); err != nil {
		return err
	}
	if err := lastgood.Restore(ctx, k.lastGood(), o.State); err != nil {
		return fmt.Errorf("reading last good versions: %w", err)
	}
	if err := lastgood.RestoreKeys(ctx, k.tokenKeys(), control.KeysDir(o.State)); err != nil {
		return fmt.Errorf("reading keys of tokens: %w", err)
	}
	k.asked = sourcekube.New(sourcekube.Options{Server: k.api, Client: k.client, Objects: k.objects, Heads: k.heads, Namespace: o.Namespace, Revision: k.revision, Log: o.Log})
	o.Cluster = &control.Cluster{
		Objects: k.asked, KeysAllowed: k.keysAllowed,
		Facts: k.runs, Why: k.runs.Why, Plaintext: k.plaintext != "", Awaits: k.api.Awaits, Trouble: k.api.Trouble, Findings: k.findings, Metrics: k.api.Metrics,
	}
	if k.plaintext != "" {
		plain, err := listen("tcp", k.plaintext)
		if err != nil {
			return err
		}
		o.PlainGRPC = append(o.PlainGRPC, plain...)
	}
	return nil
}

// findings are about what the API server does not tell, about parts of the installation that are away, about the injector, and about pods of which it would make others today.
func (k *cluster) findings() (out []config.Finding) {
	for kind, since := range k.api.Silent() {
		out = append(out, config.New(config.WatchSilent, mesh.Ref{Kind: kind}, "", 0, "the API server has told of no object of this kind since "+since.UTC().Format(time.RFC3339)+", and all are read every few minutes instead",
			"look at its log and its etcd, and at what stands between it and the control plane"))
	}
	out = append(out, k.runs.Away()...)
	for _, e := range k.elections {
		if since, last := e.Vacant(); !since.IsZero() {
			out = append(out, nobodyLeads(k.options.Namespace, e.Name(), last, since))
		}
	}
	if k.injector == nil {
		return out
	}
	out = append(out, k.waker.Findings()...)
	out = append(out, k.injector.Findings()...)
	if s, _ := k.injector.Settings(); s != nil {
		out = append(out, k.runs.OtherImages(s.Gives())...)
	}
	return out
}

// nobodyLeads is what there is to say of a Lease that nobody has renewed since it ended; last: who had it.
func nobodyLeads(namespace, lease, last string, since time.Time) config.Finding {
	return config.New(config.LeaderAway, mesh.Ref{Kind: "Lease", Namespace: namespace, Name: lease}, "", 0,
		"the leader: nobody holds the Lease since "+since.UTC().Format(time.RFC3339)+" (last: "+cmp.Or(last, "nobody")+")",
		"look at the log of the control planes: may they update leases in "+namespace+", and do their clocks agree?")
}

// serve adds what runs beside the Plane once it is made.
func (k *cluster) serve(g *runner.Group, p *control.Plane) error {
	if k.on() {
		if err := k.lead(g, p); err != nil {
			return err
		}
	}
	ready, err := listen("tcp", k.ready)
	if err != nil {
		return err
	}
	for _, l := range ready {
		g.Go("readiness", func(ctx context.Context) error {
			srv := &http.Server{Handler: p.Health(), ReadHeaderTimeout: 5 * time.Second}
			defer context.AfterFunc(ctx, func() { _ = srv.Close() })()
			if err := srv.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	return nil
}
