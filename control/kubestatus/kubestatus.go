// Package kubestatus tells what became of objects where people look for it: in the status of
// Istio's custom resources.
//
// In: control.Outcomes. Out: status.conditions Accepted and Reconciled in Istio's shape,
// status.validationMessages with Istio's codes, by patches of the status subresource. Other
// conditions and fields of a status are left as they are, an object that another revision's
// control plane serves is left alone (it is no outcome of this one), and what somebody else writes over is not written
// again until there is something new to say. Run is for the leader, once more every term;
// only cmd/weir-control and tests import the package.
package kubestatus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/control"
)

const (
	// A reading and mostly a writing: 20 objects a second are little for an API server, and
	// a new mesh of 5,000 objects has its status after 4 minutes. What says it already takes none of them.
	perSecond, burst = 20, 40
	// pageSize is how many objects of a kind are read at once.
	pageSize = 50
	// sweepEvery bounds how often one object is written while it changes all the time, and
	// is how late a change is told.
	sweepEvery = time.Second
	// grace is for a change to get to all proxies, which takes milliseconds, before it is
	// told that it has not: so most changes are written once.
	grace = 10 * time.Second
	// pauseMost is between tries that fail.
	pauseMost = time.Minute
)

// Source says what became of objects; a *control.Plane does.
type Source interface {
	Outcomes(want func(config.ID) bool, last *control.Told) (all []control.Outcome, same bool, changed <-chan struct{})
}

// Options of a Writer.
type Options struct {
	Client dynamic.Interface
	From   Source
	Log    *slog.Logger
}

// Writer writes.
type Writer struct{ o Options }

// New makes a writer.
func New(o Options) (*Writer, error) {
	if o.Client == nil || o.From == nil || o.Log == nil {
		return nil, errors.New("status of objects: a client, a source and a logger are required")
	}
	return &Writer{o}, nil
}

// term is one leadership.
type term struct {
	*Writer
	limit   flowcontrol.RateLimiter
	told    control.Told
	written map[config.ID]verdict
	heads   map[config.ID]head
	read    map[config.ID]live // as they were when the term began, until something is told of them; nil: not looked yet
	failing map[string]failure // kinds that cannot be written
}

// failure is why a kind cannot be written, as it was told, and when to try again.
type failure struct {
	reason metav1.StatusReason
	next   time.Time
}

// head is what of an object's metadata matters here.
type head struct {
	raw        *config.Object // that it was read from
	generation int64
}

// Run writes until ctx ends.
func (w *Writer) Run(ctx context.Context) error {
	t := &term{Writer: w, limit: flowcontrol.NewTokenBucketRateLimiter(perSecond, burst), written: map[config.ID]verdict{}, heads: map[config.ID]head{}, failing: map[string]failure{}}
	defer t.limit.Stop()
	for {
		changed, again := t.sweep(ctx)
		if again {
			t.told = control.Told{} // what is to come may come without news
		}
		select { // not more often than that, whatever happens
		case <-ctx.Done():
			return nil
		case <-time.After(sweepEvery):
		}
		if !again {
			select {
			case <-ctx.Done():
				return nil
			case <-changed:
			}
		}
	}
}

// sweep writes what is not written yet; again says that there is more to come.
func (t *term) sweep(ctx context.Context) (changed <-chan struct{}, again bool) {
	all, same, changed := t.o.From.Outcomes(hasStatus, &t.told)
	if same {
		return changed, false
	}
	if t.read == nil && len(all) > 0 {
		t.read = t.list(ctx, all)
	}
	there := make(map[config.ID]bool, len(all))
	for i := range all {
		o := &all[i]
		id := o.Object.ID
		there[id] = true
		h := t.head(o)
		if o.Object.Raw == nil {
			continue
		}
		v, final := judge(o, h.generation, time.Now())
		again = again || !final
		if v.accepted.status == "" || t.written[id] == v {
			continue
		}
		was, known := t.read[id]
		known = known && was.generation == v.generation
		if known && !was.lacks(v) { // the leader before wrote it
			delete(t.read, id)
			t.written[id] = v
			continue
		}
		if time.Now().Before(t.failing[id.Kind].next) {
			again = true
			continue
		}
		if t.limit.Wait(ctx) != nil {
			return changed, false
		}
		delete(t.read, id) // once: a conflict says that it is old
		if !known {
			was = live{}
		}
		wrote, err := t.write(ctx, o.Object.Raw, was, v)
		switch {
		case ctx.Err() != nil:
			return changed, false
		case err == nil:
			t.written[id] = v
			if _, failed := t.failing[id.Kind]; failed && wrote {
				delete(t.failing, id.Kind)
				t.o.Log.Info("status is written again", "kind", id.Kind)
			}
		case apierrors.IsNotFound(err):
			t.written[id] = v // it is gone, which is news that is on its way
		case apierrors.IsConflict(err):
			again = true
		default:
			again = true
			before, failed := t.failing[id.Kind]
			t.failing[id.Kind] = failure{apierrors.ReasonForError(err), time.Now().Add(pauseMost)}
			if !failed || before.reason != t.failing[id.Kind].reason { // a right that is missing may be missing for years
				t.o.Log.Warn("status cannot be written: it is tried again, and this is not said again", "kind", id.Kind, "object", id.Namespace+"/"+id.Name, "every", pauseMost, "err", err)
			}
		}
	}
	for id := range t.written {
		if !there[id] {
			delete(t.written, id)
		}
	}
	for id := range t.heads {
		if !there[id] {
			delete(t.heads, id)
			delete(t.read, id)
		}
	}
	return changed, again
}

// hasStatus reports whether Istio's status belongs into objects of a kind.
func hasStatus(id config.ID) bool {
	switch id.Group {
	case "networking.istio.io", "security.istio.io", "telemetry.istio.io", "extensions.istio.io":
		return id.Namespace != ""
	}
	return false
}

func (t *term) head(o *control.Outcome) head {
	id, raw := o.Object.ID, o.Object.Raw
	h := t.heads[id]
	if raw == nil || h.raw == raw {
		return h
	}
	meta := raw.Root().Get("metadata")
	h = head{raw: raw}
	if g := meta.Get("generation"); g != nil {
		h.generation, _ = strconv.ParseInt(g.Text, 10, 64)
	}
	t.heads[id] = h
	return h
}

// live is an object as the API server has it; without version it is not known.
type live struct {
	version    string // to be written over
	generation int64
	status     map[string]any
}

func liveOf(u *unstructured.Unstructured) live {
	status, _ := u.Object["status"].(map[string]any)
	return live{u.GetResourceVersion(), u.GetGeneration(), status}
}

// lacks reports whether v is not said yet.
func (l live) lacks(v verdict) bool {
	_, changed := v.into(l.status, time.Time{})
	return changed
}

// list reads the objects that outcomes are about, page by page: a request for each of them cost as much as writing it, and what the leader
// before wrote is found without any. A kind that cannot be listed is read object by object.
func (t *term) list(ctx context.Context, all []control.Outcome) map[config.ID]live {
	wanted := map[config.ID]bool{}
	kinds := map[schema.GroupVersionResource]config.ID{}
	for i := range all {
		if raw := all[i].Object.Raw; raw != nil {
			if gvr, err := resource(raw); err == nil {
				wanted[raw.ID], kinds[gvr] = true, raw.ID
			}
		}
	}
	out := map[config.ID]live{}
	for gvr, id := range kinds {
		for o := (metav1.ListOptions{Limit: pageSize}); ; {
			if t.limit.Wait(ctx) != nil {
				return out
			}
			page, err := t.o.Client.Resource(gvr).List(ctx, o)
			if err != nil {
				break
			}
			for i := range page.Items {
				u := &page.Items[i]
				if id.Namespace, id.Name = u.GetNamespace(), u.GetName(); wanted[id] {
					out[id] = liveOf(u)
				}
			}
			if o.Continue = page.GetContinue(); o.Continue == "" {
				break
			}
		}
	}
	return out
}

// resource is where an object is, as its own version.
func resource(o *config.Object) (schema.GroupVersionResource, error) {
	gv, err := schema.ParseGroupVersion(o.APIVersion)
	return gv.WithResource(plural(o.ID.Kind)), err
}

// write makes the status of an object say v; wrote is false if it says so already. was is how the object is, if that is known.
func (t *term) write(ctx context.Context, o *config.Object, was live, v verdict) (wrote bool, err error) {
	gvr, err := resource(o)
	if err != nil {
		return false, err
	}
	client := t.o.Client.Resource(gvr).Namespace(o.ID.Namespace)
	if was.version == "" {
		u, err := client.Get(ctx, o.ID.Name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		was = liveOf(u)
	}
	if was.generation != v.generation {
		return false, nil // this is about a version that is no more; the new one is on its way
	}
	next, changed := v.into(was.status, time.Now())
	if !changed {
		return false, nil
	}
	// Of the version read: what others wrote since then is not lost.
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"resourceVersion": was.version}, "status": next})
	if err != nil {
		return false, fmt.Errorf("status of %s: %w", o.ID, err)
	}
	_, err = client.Patch(ctx, o.ID.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "weir-control"}, "status")
	return err == nil, err
}

// plural is the resource of one of Istio's kinds.
func plural(kind string) string {
	name := strings.ToLower(kind)
	if stem, ok := strings.CutSuffix(name, "y"); ok && !strings.HasSuffix(stem, "a") { // gateways, and entries
		return stem + "ies"
	}
	return name + "s"
}
