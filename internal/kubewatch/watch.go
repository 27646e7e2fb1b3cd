package kubewatch

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// Client lists and watches one kind; L is its list.
type Client[L runtime.Object] interface {
	List(ctx context.Context, opts metav1.ListOptions) (L, error)
	Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error)
}

// Mirror takes what becomes of the objects of one kind, whose pointers are O.
type Mirror[O metav1.Object] struct {
	Kind string // for people: "VirtualService"
	// Fields is a field selector, "" for all objects.
	Fields string
	// Trim takes away what Put does not look at, before objects are gathered; nil: nothing.
	Trim func(O)
	// Put is called with every object when it comes and when it changes, and perhaps again.
	Put func(O)
	// Drop is called when one is gone.
	Drop func(types.NamespacedName)
	// Synced is called when everything there is has been Put, after each look at the whole.
	Synced func()
	// Refused is called when the API server does not let the kind be watched; nil: that is
	// waited out.
	Refused func()
}

// pause is what lies between requests that fail: not long, because a restarted API server
// should be found at once, and there are some twenty kinds.
func pause() *wait.Backoff {
	return &wait.Backoff{Duration: 250 * time.Millisecond, Factor: 2, Steps: 6, Cap: 5 * time.Second, Jitter: 1}
}

var errNoAnswer = errors.New("the connection ended before there was an answer")

// Watch keeps a Mirror up to date until ctx ends.
func Watch[L runtime.Object, O metav1.Object](ctx context.Context, s *Server, client Client[L], m Mirror[O]) {
	s.note(m.Kind, m.Refused == nil, 0)
	defer s.forget(m.Kind)
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = m.Fields
			if s.rereads(m.Kind) { // what its cache holds may be what the watch has not told
				o.ResourceVersion, o.ResourceVersionMatch = "", ""
			}
			l, err := client.List(ctx, o)
			if s.told(ctx, m.Kind, m.Refused != nil, err) && m.Refused != nil {
				m.Refused()
			}
			return l, err
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = m.Fields
			streams := o.SendInitialEvents != nil && *o.SendInitialEvents // a list, too
			switch again := s.rereads(m.Kind); {
			case again && streams:
				o.ResourceVersion = ""
			case again:
				return nil, outdated()
			}
			w, err := client.Watch(ctx, o)
			if err == nil && reflect.TypeOf(w) == reflect.TypeOf(watch.NewEmptyWatch()) {
				// What client-go makes of a connection that ends before there is an answer, and of
				// one that cannot be made in time.
				s.told(ctx, m.Kind, m.Refused != nil, errNoAnswer)
				return w, nil
			}
			s.told(ctx, m.Kind, m.Refused != nil, err)
			if err != nil {
				return nil, err
			}
			return s.guard(m.Kind, w), nil
		},
	}
	quiet := logr.Discard() // what matters was said by told
	r := cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, plain(s.Plain)), nil, &mirror[O]{m: m, s: s, known: map[types.NamespacedName]bool{}},
		cache.ReflectorOptions{Name: m.Kind, TypeDescription: m.Kind, Backoff: pause(), Logger: &quiet})
	r.RunWithContext(klog.NewContext(ctx, quiet))
}

// plain is how client-go asks whether lists may be streamed.
type plain bool

// IsWatchListSemanticsUnSupported is spelt by client-go.
func (p plain) IsWatchListSemanticsUnSupported() bool { return bool(p) }

// mirror is a cache.ReflectorStore that keeps names.
type mirror[O metav1.Object] struct {
	m     Mirror[O]
	s     *Server
	known map[types.NamespacedName]bool
}

func (x *mirror[O]) object(obj any) (O, types.NamespacedName, error) {
	o, ok := obj.(O)
	if !ok {
		return o, types.NamespacedName{}, fmt.Errorf("a %T is not a %s", obj, x.m.Kind)
	}
	return o, types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}, nil
}

// Transformer is called on every object of a first look, before all of them are there.
func (x *mirror[O]) Transformer() cache.TransformFunc {
	return func(obj any) (any, error) {
		if o, ok := obj.(O); ok {
			x.trim(o)
		}
		return obj, nil
	}
}

func (x *mirror[O]) trim(o O) {
	o.SetManagedFields(nil)
	if x.m.Trim != nil {
		x.m.Trim(o)
	}
}

func (x *mirror[O]) Add(obj any) error {
	o, name, err := x.object(obj)
	if err != nil {
		return err
	}
	x.trim(o)
	x.known[name] = true
	x.s.hear(x.m.Kind, false)
	x.s.note(x.m.Kind, false, len(x.known))
	x.m.Put(o)
	return nil
}

// Bookmark says how far everything was told.
func (x *mirror[O]) Bookmark(string) error {
	x.s.hear(x.m.Kind, true)
	return nil
}

func (x *mirror[O]) Update(obj any) error { return x.Add(obj) }

func (x *mirror[O]) Delete(obj any) error {
	_, name, err := x.object(obj)
	if err != nil {
		return err
	}
	delete(x.known, name)
	x.s.hear(x.m.Kind, false)
	x.s.note(x.m.Kind, false, len(x.known))
	x.m.Drop(name)
	return nil
}

func (x *mirror[O]) Replace(objs []any, _ string) error {
	gone := x.known
	x.known = make(map[types.NamespacedName]bool, len(objs))
	for _, obj := range objs {
		o, name, err := x.object(obj)
		if err != nil {
			return err
		}
		x.trim(o)
		delete(gone, name)
		x.known[name] = true
		x.m.Put(o)
	}
	for name := range gone {
		x.m.Drop(name)
	}
	x.s.note(x.m.Kind, false, len(x.known))
	x.s.read(x.m.Kind)
	x.m.Synced()
	return nil
}

func (x *mirror[O]) Resync() error { return nil }
