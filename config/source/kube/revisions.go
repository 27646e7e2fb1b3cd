package kube

import (
	"cmp"
	"context"
	"slices"
	"sync"

	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/internal/kubewatch"
)

// Labels of what asks for a revision, and of what makes one, or a tag.
const (
	revisionLabel = config.RevisionLabel // of an object; those without are for all
	tagLabel      = "istio.io/tag"
)

// revisions are the names by which control planes are asked for: revisions, and tags that lead to them. They are read from
// the configurations of injectors, because those decide which pods get a proxy; one that is installed without injector has a configuration without webhooks.
type revisions struct {
	own    string
	mu     sync.Mutex
	read   bool // until then nobody is astray
	leads  map[types.NamespacedName]lead
	asking map[config.ID]asking // objects that ask for a name; Namespaces whatever they ask for, as those in them do
	told   map[config.ID]string // texts of the objects published that ask for none: who writes a status, we first of all, changes nothing here
}

// lead is a configuration of an injector: who asks for name gets rev.
type lead struct{ name, rev string }

// asking is an object, and whom it asks for.
type asking struct {
	name    string
	content map[string]any
}

// whose says what asking for name means: it is ours, or nobody's. It needs the lock.
func (r *revisions) whose(name string) (ours, nobodys bool) {
	if name == "" || name == r.own {
		return true, false
	}
	nobodys = r.read
	for _, l := range r.leads {
		if l.name == name {
			ours, nobodys = ours || l.rev == r.own, false
		}
	}
	return ours, nobodys
}

// names are those by which somebody is there; nil as long as nobody knows. It needs the lock.
func (r *revisions) names() []string {
	if !r.read {
		return nil
	}
	out := []string{r.own}
	for _, l := range r.leads {
		out = append(out, l.name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Place finds out whose an object is that no source has read. If it is another control plane's, which judges it, elsewhere is true.
func (s *Source) Place(o *config.Object) (elsewhere bool) {
	name := o.Root().Get("metadata").Get("labels").Get(revisionLabel).String()
	s.rev.mu.Lock()
	defer s.rev.mu.Unlock()
	ours, nobodys := s.rev.whose(name)
	if nobodys {
		o.Strand(name)
	}
	return !ours && !nobodys
}

// tell publishes an object as it is now, which asks for name.
func (s *Source) tell(id config.ID, name string, content map[string]any) {
	s.rev.mu.Lock()
	defer s.rev.mu.Unlock()
	delete(s.rev.asking, id)
	was := s.rev.told[id]
	delete(s.rev.told, id)
	if a := (asking{name, content}); name != "" || id.Kind == "Namespace" {
		s.rev.asking[id] = a
		s.retell(id, a)
		return
	}
	u := unit(id, content)
	if len(u.Objects) == 1 {
		text := u.Objects[0].Text()
		if text == was {
			s.rev.told[id] = was // the very string that the published object holds
			return
		}
		s.rev.told[id] = text
	}
	s.put(u)
}

// drop publishes that an object is gone.
func (s *Source) drop(id config.ID) {
	s.rev.mu.Lock()
	defer s.rev.mu.Unlock()
	delete(s.rev.asking, id)
	delete(s.rev.told, id)
	s.put(gone(id))
}

// retell publishes an object by whose it is. It needs the lock.
func (s *Source) retell(id config.ID, a asking) {
	r := s.rev
	ours, nobodys := s.rev.whose(a.name)
	if !ours && !nobodys && id.Kind != "Namespace" {
		// Another control plane's business; it may have been ours a moment ago.
		s.put(gone(id))
		return
	}
	u := unit(id, a.content)
	names := r.names()
	for _, o := range u.Objects {
		if nobodys {
			o.Strand(a.name)
		}
		if id.Kind == "Namespace" && names != nil {
			o.Know(names)
		}
	}
	s.put(u)
}

// injectors watches which revisions and tags there are.
func (s *Source) injectors(ctx context.Context) {
	changed := func(change func(r *revisions)) {
		s.rev.mu.Lock()
		defer s.rev.mu.Unlock()
		change(s.rev)
		for id, a := range s.rev.asking {
			s.retell(id, a)
		}
	}
	kubewatch.Watch(ctx, s.o.Server, s.o.Heads.Resource(admissionregistrationv1.SchemeGroupVersion.WithResource("mutatingwebhookconfigurations")), kubewatch.Mirror[*metav1.PartialObjectMetadata]{
		Kind: "MutatingWebhookConfiguration",
		Put: func(m *metav1.PartialObjectMetadata) {
			n, rev := types.NamespacedName{Name: m.Name}, m.Labels[revisionLabel]
			now := lead{cmp.Or(m.Labels[tagLabel], rev), rev}
			if rev == "" {
				now = lead{}
			}
			if s.rev.leads[n] == now { // certificates are changed more often; only this goroutine writes
				return
			}
			changed(func(r *revisions) {
				if r.leads[n] = now; now == (lead{}) {
					delete(r.leads, n)
				}
			})
		},
		Drop: func(n types.NamespacedName) { changed(func(r *revisions) { delete(r.leads, n) }) },
		Synced: func() {
			if !s.rev.read {
				changed(func(r *revisions) { r.read = true })
			}
			s.units.Here("MutatingWebhookConfiguration")
		},
	})
}
