package webhook

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/weirmesh/weir/inject"
	"github.com/weirmesh/weir/internal/healthz"
)

// Keeper keeps the API server's side of the webhooks right: the root certificate by which
// it knows us, and a validation that fails closed once there is somebody to validate.
// Only the leader runs it.
type Keeper struct {
	Client    kubernetes.Interface
	Namespace string // of the control plane
	Revision  string
	// Root is the certificates the API server is to trust, PEM, and a channel that is
	// closed when there are others (nil: never).
	Root func() (pem []byte, replaced <-chan struct{})
	// Served reports whether the API server's way to us works: nil if it does.
	Served func(context.Context) error
	Log    *slog.Logger
}

// retryAfter is how soon what failed, or is not served yet, is tried again.
const retryAfter = 2 * time.Second

// lookAfter is how soon it is looked again though nobody told of a change. With many things to do at once an informer of client-go 0.37.2
// now and then never tells anything (2026-11: TestKeeper with the fake client, one run in twenty at 8-fold load; it has listed, watches, and
// its queue is empty), and pods could then not start until this replica did.
const lookAfter = 10 * time.Second

// Run keeps them right until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	poke := func(any) {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	handler := cache.ResourceEventHandlerFuncs{AddFunc: poke, UpdateFunc: func(_, o any) { poke(o) }}
	mutating, validating := informers.NewSharedInformerFactory(k.Client, 0), k.named(k.validatingName())
	api := k.Client.AdmissionregistrationV1()
	m, v := mutating.Admissionregistration().V1().MutatingWebhookConfigurations(), validating.Admissionregistration().V1().ValidatingWebhookConfigurations()
	for _, i := range []cache.SharedIndexInformer{m.Informer(), v.Informer()} {
		if _, err := i.AddEventHandler(handler); err != nil {
			return err
		}
	}
	mutating.Start(ctx.Done())
	validating.Start(ctx.Done())
	defer mutating.Shutdown()
	defer validating.Shutdown()
	for {
		root, replaced := k.Root()
		again := false
		for _, step := range []func() (bool, error){
			func() (bool, error) {
				list, err := api.MutatingWebhookConfigurations().List(ctx, metav1.ListOptions{})
				if err != nil {
					return false, err
				}
				for i := range list.Items { // what is not there need not be kept, and its coming is an event
					if c := &list.Items[i]; k.injects(c) {
						err = errors.Join(err, k.patch(ctx, "mutatingwebhookconfigurations", c.Name, c.ResourceVersion, bundles(c.Webhooks, root, k.ours, mutatingClient)))
					}
				}
				return false, err
			},
			func() (bool, error) {
				c, err := api.ValidatingWebhookConfigurations().Get(ctx, k.validatingName(), metav1.GetOptions{})
				if apierrors.IsNotFound(err) {
					return false, nil
				}
				if err != nil {
					return false, err
				}
				return k.validating(ctx, c, root)
			},
		} {
			more, err := step()
			if err != nil && ctx.Err() == nil {
				k.Log.Warn("a webhook's configuration is not as it should be", "err", err)
			}
			again = again || more || err != nil
		}
		retry := time.After(lookAfter)
		if again {
			retry = time.After(retryAfter)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-replaced:
		case <-retry:
		}
	}
}

func (k *Keeper) suffix() string {
	if k.Revision == "" || k.Revision == "default" {
		return ""
	}
	return "-" + k.Revision
}

func (k *Keeper) mutatingName() string   { return inject.ConfigMapName + k.suffix() }
func (k *Keeper) validatingName() string { return "istio-validator" + k.suffix() + "-" + k.Namespace }

// named watches objects of one name.
func (k *Keeper) named(name string) informers.SharedInformerFactory {
	return informers.NewSharedInformerFactoryWithOptions(k.Client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("metadata.name", name).String()
	}))
}

// injects reports whether a configuration is this revision's, or that of a tag that leads to it.
func (k *Keeper) injects(c *admissionregistrationv1.MutatingWebhookConfiguration) bool {
	return c.Name == k.mutatingName() || c.Labels["istio.io/tag"] != "" && c.Labels["istio.io/rev"] == cmp.Or(k.Revision, "default")
}

// ours reports whether a webhook leads to this control plane. The configurations are ours
// by name; somebody may have put a webhook of his own into them.
func (k *Keeper) ours(c *admissionregistrationv1.WebhookClientConfig) bool {
	return c.URL != nil || c.Service != nil && c.Service.Namespace == k.Namespace
}

type op struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

func mutatingClient(w *admissionregistrationv1.MutatingWebhook) *admissionregistrationv1.WebhookClientConfig {
	return &w.ClientConfig
}

func validatingClient(w *admissionregistrationv1.ValidatingWebhook) *admissionregistrationv1.WebhookClientConfig {
	return &w.ClientConfig
}

// bundles are the operations that give webhooks the root.
func bundles[W any](webhooks []W, root []byte, ours func(*admissionregistrationv1.WebhookClientConfig) bool, client func(*W) *admissionregistrationv1.WebhookClientConfig) []op {
	var ops []op
	for i := range webhooks {
		if c := client(&webhooks[i]); ours(c) && !bytes.Equal(c.CABundle, root) {
			ops = append(ops, op{"add", "/webhooks/" + strconv.Itoa(i) + "/clientConfig/caBundle", root})
		}
	}
	return ops
}

// validating also closes validation, once it is served; again asks to be called later.
func (k *Keeper) validating(ctx context.Context, c *admissionregistrationv1.ValidatingWebhookConfiguration, root []byte) (again bool, err error) {
	ops := bundles(c.Webhooks, root, k.ours, validatingClient)
	if len(ops) > 0 { // its event brings us back
		return false, k.patch(ctx, "validatingwebhookconfigurations", c.Name, c.ResourceVersion, ops)
	}
	for i := range c.Webhooks {
		if w := &c.Webhooks[i]; k.ours(&w.ClientConfig) && (w.FailurePolicy == nil || *w.FailurePolicy != admissionregistrationv1.Fail) {
			ops = append(ops, op{"add", "/webhooks/" + strconv.Itoa(i) + "/failurePolicy", admissionregistrationv1.Fail})
		}
	}
	if len(ops) == 0 {
		return false, nil
	}
	if err := k.Served(ctx); err != nil {
		k.Log.Debug("validation stays open: it is not served yet", "err", err)
		return true, nil
	}
	return false, k.patch(ctx, "validatingwebhookconfigurations", c.Name, c.ResourceVersion, ops)
}

// patch applies operations to the version that was read.
func (k *Keeper) patch(ctx context.Context, resource, name, version string, ops []op) error {
	if len(ops) == 0 {
		return nil
	}
	data, err := json.Marshal(append([]op{{"test", "/metadata/resourceVersion", version}}, ops...))
	if err != nil {
		return err
	}
	api := k.Client.AdmissionregistrationV1()
	if resource == "mutatingwebhookconfigurations" {
		_, err = api.MutatingWebhookConfigurations().Patch(ctx, name, types.JSONPatchType, data, metav1.PatchOptions{FieldManager: "weir-control"})
	} else {
		_, err = api.ValidatingWebhookConfigurations().Patch(ctx, name, types.JSONPatchType, data, metav1.PatchOptions{FieldManager: "weir-control"})
	}
	if err != nil {
		return fmt.Errorf("patching %s %s: %w", resource, name, err)
	}
	k.Log.Info("webhook configuration patched", "kind", resource, "name", name, "changes", len(ops))
	return nil
}

// Reaching asks for url with the root certificates as the only ones trusted: whether the
// API server's way to us works. Outside the cluster, where its names and addresses lead nowhere, at says
// where we are; "" is what url says.
func Reaching(url, at string, root func() []byte) func(context.Context) error {
	return func(ctx context.Context) error {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(root())
		transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}, DisableKeepAlives: true}
		if at != "" {
			transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, at)
			}
		}
		ctx, cancel := context.WithTimeout(ctx, reviewTime)
		defer cancel()
		return healthz.Get(ctx, transport, url)
	}
}
