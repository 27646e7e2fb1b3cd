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
	"net/http"
	"strconv"
	"time"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
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
	mutating, validating, tagged := k.named(k.mutatingName()), k.named(k.validatingName()), k.tagged()
	m, v := mutating.Admissionregistration().V1().MutatingWebhookConfigurations(), validating.Admissionregistration().V1().ValidatingWebhookConfigurations()
	tags := tagged.Admissionregistration().V1().MutatingWebhookConfigurations()
	for _, i := range []cache.SharedIndexInformer{m.Informer(), v.Informer(), tags.Informer()} {
		if _, err := i.AddEventHandler(handler); err != nil {
			return err
		}
	}
	mutating.Start(ctx.Done())
	validating.Start(ctx.Done())
	tagged.Start(ctx.Done())
	defer mutating.Shutdown()
	defer tagged.Shutdown()
	defer validating.Shutdown()
	for {
		root, replaced := k.Root()
		again := false
		for _, step := range []func() (bool, error){
			func() (bool, error) {
				c, err := m.Lister().Get(k.mutatingName())
				if err != nil {
					return false, nil // not there: nothing to keep, and its coming is an event
				}
				return false, k.patch(ctx, "mutatingwebhookconfigurations", c.Name, c.ResourceVersion, bundles(c.Webhooks, root, k.ours, mutatingClient))
			},
			func() (bool, error) {
				c, err := v.Lister().Get(k.validatingName())
				if err != nil {
					return false, nil
				}
				return k.validating(ctx, c, root)
			},
			func() (bool, error) {
				list, err := tags.Lister().List(labels.Everything())
				for _, c := range list {
					err = errors.Join(err, k.patch(ctx, "mutatingwebhookconfigurations", c.Name, c.ResourceVersion, bundles(c.Webhooks, root, k.ours, mutatingClient)))
				}
				return false, err
			},
		} {
			more, err := step()
			if err != nil && ctx.Err() == nil {
				k.Log.Warn("a webhook's configuration is not as it should be", "err", err)
			}
			again = again || more || err != nil
		}
		var retry <-chan time.Time
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

// tagged watches the configurations of tags that lead to this revision.
func (k *Keeper) tagged() informers.SharedInformerFactory {
	return informers.NewSharedInformerFactoryWithOptions(k.Client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.LabelSelector = "istio.io/tag,istio.io/rev=" + cmp.Or(k.Revision, "default")
	}))
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
// API server's way to us works.
func Reaching(url string, root func() []byte) func(context.Context) error {
	return func(ctx context.Context) error {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(root())
		transport := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool}, DisableKeepAlives: true}
		ctx, cancel := context.WithTimeout(ctx, reviewTime)
		defer cancel()
		return healthz.Get(ctx, transport, url)
	}
}
