// Package lastgood keeps the last good versions of objects where a new replica finds them:
// in a ConfigMap beside the control plane.
//
// In: control.Outcomes. Out: one ConfigMap with the version in force of each object that is
// invalid as it stands in the cluster, under the object's name, as its JSON; what is valid
// needs no copy, so that mostly there is no ConfigMap at all. Keep is for the leader; Restore
// reads it, before a Plane is made, into the state folder that a restarted container would
// have found. What is restored counts for an object that is invalid, by the same checks as if
// it were written now: who may write the ConfigMap can do no more than who may write the
// object. Only cmd/weir-control and tests import the package.
package lastgood

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/control"
)

// Name of the ConfigMap; an installation with a revision puts it behind.
const Name = "istio-last-good"

// An API server takes 1 MiB of a ConfigMap's data (core/validation, TotalSizeLimit). Of objects
// that do not fit the largest are left out: they are few, and one must not crowd out many.
const (
	maxAll    = 768 << 10
	maxObject = 256 << 10
)

// sweepEvery is how late a version is kept at most, and how often the ConfigMap is written;
// what fails is tried again after retryAfter.
const (
	sweepEvery = time.Second
	retryAfter = 10 * time.Second
)

// Source says what became of objects; a *control.Plane does.
type Source interface {
	Outcomes(want func(config.ID) bool, last *control.Told) (all []control.Outcome, same bool, changed <-chan struct{})
}

// Options of both sides. All are required but Labels.
type Options struct {
	ConfigMaps corev1client.ConfigMapInterface // of the control plane's namespace
	Name       string
	Labels     map[string]string
	Log        *slog.Logger
}

// Restore puts what is kept into a state folder that does not know better.
func Restore(ctx context.Context, o Options, state string) error {
	data, err := o.read(ctx)
	if err != nil {
		return err
	}
	var objects []*config.Object
	for _, key := range slices.Sorted(maps.Keys(data)) {
		part := document.Part{Text: data[key], Line: 1}
		root, err := document.Parse(part)
		if err == nil && root == nil {
			err = errors.New("there is nothing in it")
		}
		if err != nil {
			o.Log.Warn("a last good version cannot be read", "key", key, "err", err)
			continue
		}
		if x, _ := config.NewObject(root, part, "", ""); x == nil || x.ID.FileName() != key {
			o.Log.Warn("a last good version is not of the object that its key names", "key", key)
		} else {
			objects = append(objects, x)
		}
	}
	return store.RestoreLastGood(state, objects, o.Log)
}

// read returns what the ConfigMap has; nothing where that may not be known.
func (o *Options) read(ctx context.Context) (map[string]string, error) {
	c, err := o.ConfigMaps.Get(ctx, o.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case apierrors.IsForbidden(err):
		o.Log.Warn("what is kept for new replicas (last good versions of objects, keys of token issuers) cannot be read", "err", err, "remedy", "grant get of ConfigMap "+o.Name)
		return nil, nil
	case err != nil:
		return nil, err
	}
	return c.Data, nil
}

// Keeper writes.
type Keeper struct {
	o    Options
	from Source
}

// New makes a Keeper.
func New(o Options, from Source) *Keeper { return &Keeper{o, from} }

// Run writes until ctx ends.
func (k *Keeper) Run(ctx context.Context) error {
	var kept kept
	var told control.Told
	for {
		all, same, changed := k.from.Outcomes(func(id config.ID) bool { return id.Group != "" || id.Kind != "Pod" }, &told)
		pause := sweepEvery
		if same || len(all) == 0 { // nothing is read yet: there are always namespaces
		} else if now := collect(all); !now.equal(kept) {
			switch left, err := k.write(ctx, now); {
			case err != nil && ctx.Err() == nil:
				k.o.Log.Warn("last good versions are not kept for new replicas", "next_attempt", retryAfter, "err", err)
				pause, changed, told = retryAfter, nil, control.Told{}
			case err == nil:
				kept = now
				if len(left) > 0 {
					k.o.Log.Warn("last good versions are too large to be kept: a new replica will not have them", "objects", left, "remedy", "correct the objects")
				}
			}
		}
		if !rest(ctx, pause, changed) {
			return nil
		}
	}
}

// rest waits for what is to be written next: pause at least, so that nothing is written more often than that, whatever happens, and then until
// changed is closed; nil: no longer. It reports whether ctx goes on.
func rest(ctx context.Context, pause time.Duration, changed <-chan struct{}) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(pause):
	}
	if changed == nil {
		return true
	}
	select {
	case <-ctx.Done():
		return false
	case <-changed:
		return true
	}
}

// kept is what is to be kept: texts by key. A text that this replica does not have ("") stays
// as whoever had it wrote it.
type kept struct {
	texts map[string]string
	known bool
}

func (k kept) equal(other kept) bool {
	return k.known == other.known && maps.Equal(k.texts, other.texts)
}

// collect finds what is invalid.
func collect(all []control.Outcome) kept {
	texts := map[string]string{}
	for i := range all {
		o := all[i].Object
		if o.State != store.Quarantined {
			continue
		}
		text := ""
		if o.Serving != nil {
			text = o.Serving.Text()
		}
		texts[o.ID.FileName()] = text
	}
	return kept{texts, true}
}

// write makes the ConfigMap say it; left are the keys for which there is no room.
func (k *Keeper) write(ctx context.Context, now kept) (left []string, err error) {
	return k.o.write(ctx, func(old map[string]string) map[string]string {
		texts := maps.Clone(now.texts)
		for key, text := range texts {
			if text == "" {
				texts[key] = old[key]
			}
		}
		return texts
	})
}

// write makes the ConfigMap have the texts that now makes of those it has, by key; left are those for which there is no room.
func (o *Options) write(ctx context.Context, now func(old map[string]string) map[string]string) (left []string, err error) {
	c, err := o.ConfigMaps.Get(ctx, o.Name, metav1.GetOptions{})
	there := err == nil
	if apierrors.IsNotFound(err) {
		err = nil
	}
	if err != nil {
		return nil, err
	}
	if !there {
		c = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: o.Name, Labels: o.Labels}}
	}
	data, left := fit(now(c.Data))
	switch {
	case there && len(data) == 0:
		err = o.ConfigMaps.Delete(ctx, o.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &c.ResourceVersion}})
		if apierrors.IsNotFound(err) {
			err = nil
		}
	case there && maps.Equal(c.Data, data):
	case there:
		c.Data = data
		_, err = o.ConfigMaps.Update(ctx, c, metav1.UpdateOptions{FieldManager: "weir-control"})
	case len(data) > 0:
		c.Data = data
		_, err = o.ConfigMaps.Create(ctx, c, metav1.CreateOptions{FieldManager: "weir-control"})
	}
	return left, err
}

// fit leaves out the largest for which there is no room.
func fit(texts map[string]string) (data map[string]string, left []string) {
	data = map[string]string{}
	size := 0
	keys := slices.SortedFunc(maps.Keys(texts), func(a, b string) int { return cmp.Or(cmp.Compare(len(texts[a]), len(texts[b])), cmp.Compare(a, b)) })
	for _, key := range keys {
		switch n := len(key) + len(texts[key]); {
		case texts[key] == "":
		case len(texts[key]) > maxObject || size+n > maxAll:
			left = append(left, key)
		default:
			data[key] = texts[key]
			size += n
		}
	}
	return data, left
}
