package cli

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/weirmesh/weir/install"
)

// The webhooks of two revisions and a tag, as they are installed, are right together; when one of the control planes is taken away, or
// somebody changes a selector, it is said.
func TestWebhooksOfCluster(t *testing.T) {
	var objects []runtime.Object
	for _, set := range [][]string{nil, {"revision=1-1", "revisionTags[0]=prod"}} {
		r, err := install.Render(install.Settings{Set: set})
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range r.Objects {
			var typed runtime.Object
			switch o.GetKind() {
			case "Service":
				typed = &corev1.Service{}
			case mutatingKind:
				typed = &admissionv1.MutatingWebhookConfiguration{}
			case validatingKind:
				typed = &admissionv1.ValidatingWebhookConfiguration{}
			default:
				continue
			}
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, typed); err != nil {
				t.Fatal(err)
			}
			if c, ok := typed.(*admissionv1.MutatingWebhookConfiguration); ok {
				for i := range c.Webhooks {
					c.Webhooks[i].ClientConfig.CABundle = []byte("ca")
				}
			}
			if c, ok := typed.(*admissionv1.ValidatingWebhookConfiguration); ok {
				for i := range c.Webhooks {
					c.Webhooks[i].ClientConfig.CABundle = []byte("ca")
				}
			}
			if s, ok := typed.(*corev1.Service); ok && strings.HasPrefix(s.Name, "istio-ingressgateway") {
				continue // both would make it
			}
			objects = append(objects, typed)
		}
	}
	k := fake.NewClientset(objects...)
	said := func() string {
		fs, looked, err := webhooksIn(t.Context(), k)
		var got []string
		for _, f := range fs {
			got = append(got, fmt.Sprintf("%s %s %s", f.Object.Name, f.FieldPath, f.Message))
		}
		return fmt.Sprintf("%d %v: %s", looked, err, strings.Join(got, "; "))
	}
	if got := said(); !strings.HasSuffix(got, " <nil>: ") || strings.HasPrefix(got, "0") || strings.HasPrefix(got, "1 ") {
		t.Errorf("as installed: %s", got)
	}

	hooks := k.AdmissionregistrationV1().MutatingWebhookConfigurations()
	c, err := hooks.Get(t.Context(), "istio-sidecar-injector-1-1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	was := c.DeepCopy()
	for i := range c.Webhooks {
		c.Webhooks[i].NamespaceSelector = nil
	}
	if _, err = hooks.Update(t.Context(), c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := said(); !strings.Contains(got, "istio-sidecar-injector-1-1 webhooks[0] a pod ") || !strings.Contains(got, "is given a proxy by istio-sidecar-injector, too") {
		t.Errorf("for all namespaces: %s", got)
	}
	if _, err = hooks.Update(t.Context(), was, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}

	if err := k.CoreV1().Services("istio-system").Delete(t.Context(), "istiod-1-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := said(); strings.Count(got, "there is no Service istio-system/istiod-1-1 of revision 1-1: nobody answers") < 2 {
		t.Errorf("without a control plane: %s", got)
	}

	// What may not be read is said, and nothing is concluded from it.
	k.PrependReactor("list", "services", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, errors.New("forbidden") })
	if got := said(); !strings.HasSuffix(got, " forbidden: ") {
		t.Errorf("without the right to list Services: %s", got)
	}
}
