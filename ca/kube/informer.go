package kube

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// handler calls f with every object that came, changed or went.
func handler(f func(any)) cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    f,
		UpdateFunc: func(_, now any) { f(now) },
		DeleteFunc: func(was any) {
			if gone, ok := was.(cache.DeletedFinalStateUnknown); ok {
				was = gone.Obj
			}
			f(was)
		},
	}
}

// logging has informers log where we do.
func logging(ctx context.Context, log *slog.Logger) context.Context {
	return klog.NewContext(ctx, logr.FromSlogHandler(log.Handler()))
}

func stored(s cache.Store, namespace, name string) *corev1.Secret {
	if o, ok, _ := s.GetByKey(namespace + "/" + name); ok {
		return o.(*corev1.Secret)
	}
	return nil
}

func sameFiles(a, b *corev1.Secret) bool {
	return a.Name == b.Name && maps.EqualFunc(a.Data, b.Data, slices.Equal[[]byte])
}
