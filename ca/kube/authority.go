package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/weirmesh/weir/ca"
)

// Options of an Authority. Labels may be empty.
type Options struct {
	Client      kubernetes.Interface
	Namespace   string // of the Secrets
	TrustDomain string
	CA          ca.Options
	Labels      map[string]string // of what is made
	Log         *slog.Logger
}

// Authority is the ca.Source of a mesh on Kubernetes: that of Secret cacerts, else that of
// Secret istio-ca-secret, whose root it succeeds in time. It follows both while it runs, and what cannot be used changes
// nothing: the authority in force stays. One takes another's place by ca.Rolling.
type Authority struct {
	o Options

	mu      sync.Mutex
	rolling *ca.Rolling
	from    *corev1.Secret
	own     *ca.Own // from, if that is the mesh's own
	plan    ca.Plan // of own, as it was asked for
	problem string
	refused string // version of the Secret that problem is about
	memory  []byte // of HandoverSecret, as it was read or written last
}

// memoryKey is the key of HandoverSecret's data.
const memoryKey = "roots.pem"

// Open reads the Secrets, and makes a root of its own if there are none. Replicas that start
// at the same time get the same one: the API server creates a Secret once. A Secret cacerts
// that cannot be used is an error, as is an API server that does not answer before ctx ends.
func Open(ctx context.Context, o Options) (*Authority, error) {
	if o.Client == nil || o.Namespace == "" || o.TrustDomain == "" || o.Log == nil {
		return nil, errors.New("certificate authority: a client, a namespace, a trust domain and a logger are required")
	}
	a := &Authority{o: o}
	plugged, err := a.get(ctx, PluggedSecret)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	own, err := a.get(ctx, OwnSecret)
	if err == nil && plugged == nil && own == nil {
		own, err = a.create(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	before, err := a.get(ctx, HandoverSecret)
	if err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	if before != nil {
		a.memory = before.Data[memoryKey]
	}
	a.take(plugged, own)
	if a.rolling == nil {
		return nil, fmt.Errorf("certificate authority: %s; repair the Secret, or delete it for a root of the mesh's own", a.problem)
	}
	return a, nil
}

// Watch makes an Authority a ca.Source.
func (a *Authority) Watch() (held *ca.Authority, replaced <-chan struct{}) {
	return a.rolling.Watch()
}

// Notes say what of the Secrets is not yet in force, and until when.
func (a *Authority) Notes() []string { return a.rolling.Notes() }

// Views are the roots in force.
func (a *Authority) Views(now time.Time) []ca.View {
	a.mu.Lock()
	own := a.own
	a.mu.Unlock()
	views := a.rolling.Views()
	if own == nil {
		return views
	}
	for i, v := range views {
		for _, o := range own.Views(now) {
			if o.Serial == v.Serial {
				views[i] = o
			}
		}
	}
	return views
}

// Problem says what is wrong with the Secrets, "" if nothing is.
func (a *Authority) Problem() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.problem
}

// Run follows the Secrets until ctx ends.
func (a *Authority) Run(ctx context.Context) error {
	ctx = logging(ctx, a.o.Log)
	stores := map[string]cache.Store{}
	var synced []cache.InformerSynced
	var looking sync.Mutex
	look := func(any) {
		looking.Lock() // what was read first is taken first
		defer looking.Unlock()
		for _, s := range synced {
			if !s() {
				return // half of what there is would be acted upon
			}
		}
		a.take(stored(stores[PluggedSecret], a.o.Namespace, PluggedSecret), stored(stores[OwnSecret], a.o.Namespace, OwnSecret))
	}
	// Two watches of one name each, so that no other Secret need be readable.
	var running []cache.SharedIndexInformer
	for _, name := range []string{PluggedSecret, OwnSecret} {
		informer := informers.NewSharedInformerFactoryWithOptions(a.o.Client, 0, informers.WithNamespace(a.o.Namespace),
			informers.WithTweakListOptions(func(l *metav1.ListOptions) {
				l.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
			})).Core().V1().Secrets().Informer()
		stores[name], synced, running = informer.GetStore(), append(synced, informer.HasSynced), append(running, informer)
	}
	var wg sync.WaitGroup
	for _, informer := range running {
		if _, err := informer.AddEventHandler(handler(look)); err != nil {
			return fmt.Errorf("watching Secrets: %w", err)
		}
		wg.Go(func() { informer.RunWithContext(ctx) })
	}
	if cache.WaitForCacheSync(ctx.Done(), synced...) {
		look(nil)
	}
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-tick.C:
			a.look()
		case <-ctx.Done():
		}
	}
	wg.Wait()
	return nil
}

// look lets time pass: it may be another root's turn.
func (a *Authority) look() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.own != nil {
		now := time.Now().Round(0)
		if p := a.own.Plan(now); !p.Same(a.plan) {
			if asked, err := a.own.Authority(a.o.CA, a.o.TrustDomain, now); err == nil {
				a.plan = p
				a.rolling.Ask(asked)
			}
		}
	}
	a.rolling.Look()
}

const (
	// lookEvery is how late another root may have its turn.
	lookEvery = 30 * time.Second
	// keepEvery is how often Keep looks: a Secret that is missing hurts nobody until a replica
	// starts.
	keepEvery = 30 * time.Second
)

// Keep restores the mesh's own Secret when it is gone while its root is in force, so that the
// next replica to start does not begin with another root; and writes a successor of that root into
// it when one is due. It writes down which roots are handed over from. It is for the leader.
func (a *Authority) Keep(ctx context.Context) error {
	tick := time.NewTicker(keepEvery)
	defer tick.Stop()
	for {
		if err := errors.Join(a.restore(ctx), a.succeed(ctx), a.remember(ctx)); err != nil && ctx.Err() == nil {
			a.o.Log.Error("certificate authority cannot be kept", "secret", OwnSecret, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (a *Authority) restore(ctx context.Context) error {
	a.mu.Lock()
	from := a.from
	a.mu.Unlock()
	if from.Name != OwnSecret {
		return nil // the operator's Secret is the operator's
	}
	if plugged, err := a.get(ctx, PluggedSecret); err != nil || plugged != nil {
		return err
	}
	if own, err := a.get(ctx, OwnSecret); err != nil || own != nil {
		return err
	}
	_, err := a.o.Client.CoreV1().Secrets(a.o.Namespace).Create(ctx, a.secret(from.Data), metav1.CreateOptions{})
	if err == nil {
		a.o.Log.Warn("certificate authority restored: its Secret was deleted while its root was in force; for another root put one into Secret "+PluggedSecret, "secret", OwnSecret)
	} else if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}

// remember writes what changed of the handover since this replica last read or wrote it: leaders of several revisions do not
// undo each other's.
func (a *Authority) remember(ctx context.Context) error {
	text := a.rolling.Memory()
	if bytes.Equal(text, a.memory) { // written here alone
		return nil
	}
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: a.o.Namespace, Name: HandoverSecret, Labels: a.o.Labels}, Data: map[string][]byte{memoryKey: text}}
	secrets := a.o.Client.CoreV1().Secrets(a.o.Namespace)
	_, err := secrets.Update(ctx, s, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) {
		_, err = secrets.Create(ctx, s, metav1.CreateOptions{})
	}
	if err != nil {
		return fmt.Errorf("a replica that starts now will not know which roots certificates in use lead to: writing Secret %s/%s: %w", a.o.Namespace, HandoverSecret, err)
	}
	a.memory = text
	return nil
}

// succeed makes the mesh's own Secret what the plan of its roots says. Who wrote it at the same time
// wins, and is followed.
func (a *Authority) succeed(ctx context.Context) error {
	a.mu.Lock()
	from, own := a.from, a.own
	a.mu.Unlock()
	if own == nil {
		return nil
	}
	now := time.Now().Round(0)
	made := own.Plan(now).Make
	if made {
		var err error
		if own, err = own.Succeed(a.o.TrustDomain, now); err != nil {
			return err
		}
	}
	files, err := own.Files(now)
	if err != nil {
		return err
	}
	// Istio's has no roots beside its certificate, and is left as it is.
	if was := filesOf(from); maps.EqualFunc(files, was, func(x, y []byte) bool { return bytes.Equal(bytes.TrimSpace(x), bytes.TrimSpace(y)) }) ||
		!made && bytes.Equal(files[certKey], was[certKey]) && bytes.Equal(files[RootKey], was[RootKey]) {
		return nil
	}
	s := from.DeepCopy()
	if s.Data == nil {
		s.Data = map[string][]byte{}
	}
	delete(s.Data, ca.SuccessorsFile)
	maps.Copy(s.Data, files)
	if _, err := a.o.Client.CoreV1().Secrets(a.o.Namespace).Update(ctx, s, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("succession of the root: writing Secret %s/%s: %w", a.o.Namespace, OwnSecret, err)
	}
	a.o.Log.Info("succession of the root", "secret", OwnSecret, "successor_made", made, "next_change", own.Plan(now).Next)
	return nil
}

func (a *Authority) get(ctx context.Context, name string) (*corev1.Secret, error) {
	s, err := a.o.Client.CoreV1().Secrets(a.o.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading Secret %s/%s: %w", a.o.Namespace, name, err)
	}
	return s, nil
}

// create makes the mesh's own Secret, or returns the one that another replica made.
func (a *Authority) create(ctx context.Context) (*corev1.Secret, error) {
	files, err := ca.NewSelfSigned(a.o.TrustDomain)
	if err != nil {
		return nil, err
	}
	s, err := a.o.Client.CoreV1().Secrets(a.o.Namespace).Create(ctx, a.secret(files), metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		s, err = a.get(ctx, OwnSecret)
		if err == nil && s == nil {
			err = fmt.Errorf("secret %s/%s came and went while this replica started", a.o.Namespace, OwnSecret)
		}
	case err != nil:
		err = fmt.Errorf("making Secret %s/%s: %w", a.o.Namespace, OwnSecret, err)
	default:
		a.o.Log.Info("certificate authority made", "secret", OwnSecret)
	}
	return s, err
}

func (a *Authority) secret(files map[string][]byte) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: a.o.Namespace, Name: OwnSecret, Labels: a.o.Labels}, Type: ownSecretType, Data: files}
}

// take puts into force what the Secrets say now; either may be nil.
func (a *Authority) take(plugged, own *corev1.Secret) {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := plugged
	if next == nil {
		next = own
	}
	if next == nil {
		a.complain("", "Secrets "+PluggedSecret+" and "+OwnSecret+" are gone; the authority in force stays until this replica ends")
		return
	}
	version := next.Name + "/" + string(next.UID) + "/" + next.ResourceVersion
	if a.from != nil && sameFiles(a.from, next) {
		a.from, a.problem, a.refused = next, "", ""
		return
	}
	parsed, roots, err := a.parse(next)
	if err != nil {
		text := fmt.Sprintf("Secret %s/%s cannot be used: %v", a.o.Namespace, next.Name, err)
		if a.rolling != nil {
			text += "; the authority in force stays"
		}
		a.complain(version, text)
		return
	}
	a.o.Log.Info("certificate authority", "secret", next.Name, "version", next.ResourceVersion, "root_valid_until", parsed.RootNotAfter())
	a.own, a.from, a.problem, a.refused = roots, next, "", ""
	if roots != nil {
		a.plan = roots.Plan(time.Now().Round(0))
	}
	if a.rolling == nil {
		a.rolling = ca.NewRolling(parsed, a.memory, a.o.Log)
	} else {
		a.rolling.Ask(parsed)
	}
}

func (a *Authority) parse(s *corev1.Secret) (*ca.Authority, *ca.Own, error) {
	if s.Name == OwnSecret {
		if own, err := ca.OwnOf(s.Data); err == nil && own.Rooted() {
			held, err := own.Authority(a.o.CA, a.o.TrustDomain, time.Now().Round(0))
			return held, own, err
		}
	}
	held, err := ca.ParsePlugged(filesOf(s), a.o.TrustDomain, a.o.CA)
	return held, nil, err
}

// complain says once of every version what is wrong.
func (a *Authority) complain(version, text string) {
	if a.problem == text && a.refused == version {
		return
	}
	a.problem, a.refused = text, version
	a.o.Log.Error("certificate authority", "err", text)
}

// filesOf are the data of a Secret in the form of ca.ParsePlugged. In the one Istio makes the
// certificate itself is the root.
func filesOf(s *corev1.Secret) map[string][]byte {
	if s.Name != OwnSecret || len(s.Data[RootKey]) > 0 {
		return s.Data
	}
	return map[string][]byte{"ca-key.pem": s.Data["ca-key.pem"], certKey: s.Data[certKey], RootKey: s.Data[certKey]}
}
