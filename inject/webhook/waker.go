package webhook

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/mesh"
)

// Waker has controllers try again whose pods the API server could not admit, because it did not reach us. Unasked they wait twice as long
// after each failure, up to a quarter of an hour, so that after an outage of a minute a Deployment would lack a pod for another. Each replica runs it.
type Waker struct {
	Client kubernetes.Interface
	// Served reports whether the API server's way to us works: nil if it does.
	Served func(context.Context) error
	Object mesh.Ref // that findings are about
	Log    *slog.Logger

	trouble atomic.Pointer[trouble]
}

// trouble is what is known of the API server's way to us while it does not work.
type trouble struct {
	since   time.Time
	err     error  // of our own try; nil: that works
	refused string // what an event said, "" if none did
	waiting []owner
}

// lookEvery is how often the way is tried, lookGrace how long it may fail before anybody is told.
const lookEvery, lookGrace = 10 * time.Second, 5 * time.Second

// look notes what has become of the way.
func (w *Waker) look(err error, waiting wakes, now time.Time) {
	t := &trouble{since: now, err: err}
	if was := w.trouble.Load(); was != nil {
		t.since = was.since
	}
	for o, n := range waiting {
		if t.waiting = append(t.waiting, o); t.refused == "" || n.message < t.refused {
			t.refused = n.message
		}
		if !n.first.IsZero() && n.first.Before(t.since) {
			t.since = n.first
		}
	}
	slices.SortFunc(t.waiting, func(a, b owner) int {
		return cmp.Or(cmp.Compare(a.namespace, b.namespace), cmp.Compare(a.kind, b.kind), cmp.Compare(a.name, b.name))
	})
	if err == nil && len(t.waiting) == 0 {
		t = nil
	}
	w.trouble.Store(t)
}

// namedOwners is how many that wait a finding names.
const namedOwners = 3

// Findings are about webhooks that the API server does not reach, or that this replica does not reach by the same way; since when, and who waits.
func (w *Waker) Findings() []config.Finding {
	t := w.trouble.Load()
	if t == nil || time.Since(t.since) < lookGrace {
		return nil
	}
	text := "the webhooks: the API server does not reach them, since " + t.since.UTC().Format(time.RFC3339) + ": " + t.refused
	if t.refused == "" {
		text = "the webhooks: this replica does not reach them by their Service, as the API server would, since " + t.since.UTC().Format(time.RFC3339) + ": " + t.err.Error()
	}
	if len(t.waiting) > 0 {
		var names []string
		for _, o := range t.waiting[:min(len(t.waiting), namedOwners)] {
			names = append(names, o.kind+" "+o.namespace+"/"+o.name)
		}
		text += "; pods could not be made for " + strings.Join(names, ", ")
		if more := len(t.waiting) - namedOwners; more > 0 {
			text += fmt.Sprintf(" and %d more", more)
		}
	}
	f := config.New(config.InjectorAway, w.Object, "", 0, text, "`weir verify` has the API server ask them; look at the Service's endpoints, at NetworkPolicies, and at the caBundle of the webhook configurations")
	if t.refused == "" { // the API server may still have another way
		f.Severity = config.Warning
	}
	return []config.Finding{f}
}

// WokenAnnotation says when a ReplicaSet (or StatefulSet, …) was told last that it may try again: that it changes is what tells it.
const WokenAnnotation = "weir.dev/injection-back"

const (
	// wakeAgain: the API server may learn later than we do that it reaches us.
	wakeAgain = 2 * time.Second
	wakeTimes = 3
	// wakeEvery paces the requests: tokens are reviewed by the same client.
	wakeEvery = 50 * time.Millisecond
	// wakeWithin is beyond the longest time a controller waits (1000 s).
	wakeWithin = 20 * time.Minute
)

// refused reports whether an event says that a pod could not be made because a webhook of ours was not reached.
func refused(e *corev1.Event) bool {
	return e.Reason == "FailedCreate" && strings.Contains(e.Message, "failed calling webhook") && strings.Contains(e.Message, "sidecar-injector.istio.io")
}

// last is when an event happened last.
func last(e *corev1.Event) time.Time {
	at := e.LastTimestamp.Time
	if e.Series != nil && e.Series.LastObservedTime.After(at) {
		at = e.Series.LastObservedTime.Time
	}
	if at.IsZero() {
		at = e.EventTime.Time
	}
	return at
}

// owner makes pods.
type owner struct{ kind, namespace, name string }

// wakes are those to be told: when next, and how often still.
type wakes map[owner]*wake

type wake struct {
	due     time.Time
	left    int
	first   time.Time // when it could not, the first time
	message string
}

// refused notes that a controller could not make a pod. One that was just told is not told again at once.
func (w wakes) refused(o owner, message string, now time.Time) {
	if n := w[o]; n != nil {
		n.left = wakeTimes
		return
	}
	w[o] = &wake{due: now, left: wakeTimes, first: now, message: message}
}

// next is when somebody is due; false if nobody will be.
func (w wakes) next() (at time.Time, any bool) {
	for _, n := range w {
		if !any || n.due.Before(at) {
			at, any = n.due, true
		}
	}
	return at, any
}

// due are those to be told now. They will be again, until they have been often enough.
func (w wakes) due(now time.Time) (list []owner) {
	for o, n := range w {
		switch {
		case n.due.After(now):
		case n.left == 0:
			delete(w, o)
		default:
			n.left--
			n.due = now.Add(wakeAgain)
			list = append(list, o)
		}
	}
	return list
}

// Run tells them until ctx ends.
func (w *Waker) Run(ctx context.Context) error {
	events := make(chan *corev1.Event)
	tell := func(o any) {
		if e, ok := o.(*corev1.Event); ok && refused(e) && time.Since(last(e)) < wakeWithin {
			select {
			case events <- e:
			case <-ctx.Done():
			}
		}
	}
	factory := informers.NewSharedInformerFactoryWithOptions(w.Client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("reason", "FailedCreate").String()
	}), informers.WithTransform(func(o any) (any, error) { // there is no use for the rest
		if e, ok := o.(*corev1.Event); ok && !refused(e) {
			return &corev1.Event{ObjectMeta: metav1.ObjectMeta{Namespace: e.Namespace, Name: e.Name, ResourceVersion: e.ResourceVersion}}, nil
		}
		return o, nil
	}))
	if _, err := factory.Core().V1().Events().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: tell, UpdateFunc: func(_, o any) { tell(o) }}); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	defer factory.Shutdown()
	lookAgain := time.NewTicker(lookEvery)
	defer lookAgain.Stop()
	for waiting := (wakes{}); ; {
		var due <-chan time.Time
		if at, any := waiting.next(); any {
			due = time.After(time.Until(at))
		}
		select {
		case <-ctx.Done():
			return nil
		case e := <-events:
			waiting.refused(owner{e.InvolvedObject.Kind, e.InvolvedObject.Namespace, e.InvolvedObject.Name}, e.Message, time.Now())
			continue
		case <-lookAgain.C:
		case <-due:
		}
		err := w.Served(ctx)
		if w.look(err, waiting, time.Now()); err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
			continue
		}
		now := waiting.due(time.Now())
		w.look(nil, waiting, time.Now())
		for _, o := range now {
			if err := w.wake(ctx, o); err != nil && !apierrors.IsNotFound(err) && ctx.Err() == nil {
				w.Log.Warn("telling a controller that pods can be made again", "kind", o.kind, "namespace", o.namespace, "name", o.name, "err", err)
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(wakeEvery):
			}
		}
	}
}

// wake changes an object in a way that means nothing. Through its status, because then no right is needed to change what it runs.
func (w *Waker) wake(ctx context.Context, o owner) (err error) {
	data, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{WokenAnnotation: time.Now().UTC().Format(time.RFC3339Nano)}}})
	if err != nil {
		return err
	}
	options := metav1.PatchOptions{FieldManager: "weir-control"}
	switch apps := w.Client.AppsV1(); o.kind {
	case "ReplicaSet":
		_, err = apps.ReplicaSets(o.namespace).Patch(ctx, o.name, types.MergePatchType, data, options, "status")
	case "StatefulSet":
		_, err = apps.StatefulSets(o.namespace).Patch(ctx, o.name, types.MergePatchType, data, options, "status")
	case "DaemonSet":
		_, err = apps.DaemonSets(o.namespace).Patch(ctx, o.name, types.MergePatchType, data, options, "status")
	case "Job":
		_, err = w.Client.BatchV1().Jobs(o.namespace).Patch(ctx, o.name, types.MergePatchType, data, options, "status")
	default:
		err = fmt.Errorf("nobody knows how to wake a %s", o.kind)
	}
	return err
}
