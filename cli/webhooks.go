package cli

import (
	"context"
	"encoding/json"
	"errors"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/inject"
	"github.com/weirmesh/weir/mesh"
)

const (
	mutatingKind   = "MutatingWebhookConfiguration"
	validatingKind = "ValidatingWebhookConfiguration"
)

// webhooksOf finds what is wrong with the mesh's webhooks of files. Whether there is a Service is known of namespaces of which there are any.
func webhooksOf(units []config.Unit) []config.Finding {
	var all []inject.Webhooks
	services, namespaces := map[string]bool{}, map[string]bool{}
	for _, u := range units {
		for _, o := range u.Objects {
			switch o.ID.Kind {
			case "Service":
				services[o.ID.Namespace+"/"+o.ID.Name], namespaces[o.ID.Namespace] = true, true
			case mutatingKind, validatingKind:
				if o.ID.Group != admissionv1.GroupName {
					continue
				}
				var read struct {
					metav1.ObjectMeta `json:"metadata"`
					Webhooks          json.RawMessage `json:"webhooks"`
				}
				w := inject.Webhooks{Object: o.Ref, Line: o.LineOf}
				err := json.Unmarshal(o.Root().AppendJSON(nil), &read)
				switch w.Meta = read.ObjectMeta; {
				case err != nil || len(read.Webhooks) == 0:
				case o.ID.Kind == mutatingKind:
					err = json.Unmarshal(read.Webhooks, &w.Mutating)
				default:
					err = json.Unmarshal(read.Webhooks, &w.Validating)
				}
				if err == nil { // else the API server says so: the kind is its own
					all = append(all, w)
				}
			}
		}
	}
	return inject.ExamineWebhooks(all, func(namespace, name string) (bool, bool) {
		return services[namespace+"/"+name], namespaces[namespace]
	}, false)
}

// webhooksIn finds what is wrong with the mesh's webhooks of a cluster. A control plane reads only the names and labels of most.
func webhooksIn(ctx context.Context, k kubernetes.Interface) ([]config.Finding, int, error) {
	var all []inject.Webhooks
	services := map[string]bool{}
	api := k.AdmissionregistrationV1()
	listed := pages(ctx, k.CoreV1().Services("").List, func(l *corev1.ServiceList) {
		for i := range l.Items {
			services[l.Items[i].Namespace+"/"+l.Items[i].Name] = true
		}
	})
	err := errors.Join(listed,
		pages(ctx, api.MutatingWebhookConfigurations().List, func(l *admissionv1.MutatingWebhookConfigurationList) {
			for _, o := range l.Items {
				all = append(all, inject.Webhooks{Object: mesh.Ref{Kind: mutatingKind, Name: o.Name}, Meta: o.ObjectMeta, Mutating: o.Webhooks})
			}
		}),
		pages(ctx, api.ValidatingWebhookConfigurations().List, func(l *admissionv1.ValidatingWebhookConfigurationList) {
			for _, o := range l.Items {
				all = append(all, inject.Webhooks{Object: mesh.Ref{Kind: validatingKind, Name: o.Name}, Meta: o.ObjectMeta, Validating: o.Webhooks})
			}
		}))
	return inject.ExamineWebhooks(all, func(namespace, name string) (bool, bool) { return services[namespace+"/"+name], listed == nil }, true), len(all), err
}
