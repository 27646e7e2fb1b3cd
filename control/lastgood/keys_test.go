package lastgood_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/weirmesh/weir/control/keys"
	"github.com/weirmesh/weir/control/lastgood"
	"github.com/weirmesh/weir/internal/jwt"
)

// issuers is what a leader has of the keys of token issuers.
type issuers struct {
	mu      sync.Mutex
	all     []*keys.Kept
	changed chan struct{}
}

func (p *issuers) KeptKeys() (all []*keys.Kept, changed <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all, p.changed
}

func (p *issuers) say(all ...*keys.Kept) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = all
	close(p.changed)
	p.changed = make(chan struct{})
}

// A replica that starts while an issuer is away has the keys that those before it had, and of those nobody wants any more none. A leader who never had a set
// does not take it from others; what people write into the ConfigMap is taken for what it is.
func TestKeysForNewReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, p := fake.NewClientset(), &issuers{changed: make(chan struct{})}
		o := options(c)
		o.Name = lastgood.KeysName
		ctx, end := context.WithCancel(t.Context())
		go func() { _ = lastgood.NewKeysKeeper(o, p).Run(ctx) }()
		kept := func(uri, kid string) *keys.Kept {
			text, err := jwt.Marked(`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"`+kid+`","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`, uri)
			if err != nil {
				t.Fatal(err)
			}
			return &keys.Kept{URI: uri, Fetched: time.Now(), Keys: text}
		}
		want := func(doing string, kids map[string]string) {
			t.Helper()
			time.Sleep(2 * time.Second)
			dir := t.TempDir()
			if err := lastgood.RestoreKeys(t.Context(), o, dir); err != nil {
				t.Fatal(err)
			}
			known := keys.New(nil, dir, slog.New(slog.DiscardHandler)).Known()
			if known.Len() != len(kids) {
				t.Errorf("%s: %d sets, want %v", doing, known.Len(), kids)
			}
			for uri, kid := range kids {
				if s := known.At(uri); s == nil || !strings.Contains(s.Text, `"`+kid+`"`) {
					t.Errorf("%s: %s is %v", doing, uri, s)
				}
			}
		}
		const a, b = "https://a/jwks", "https://b/jwks"
		want("nothing is known yet", nil)
		p.say(kept(a, "1"), kept(b, "1"))
		want("two were fetched", map[string]string{a: "1", b: "1"})
		p.say(kept(a, "2"), kept(b, "1"))
		want("one is newer", map[string]string{a: "2", b: "1"})
		end()
		next := &issuers{changed: make(chan struct{})}
		go func() { _ = lastgood.NewKeysKeeper(o, next).Run(t.Context()) }()
		want("a leader that knows of none yet", map[string]string{a: "2", b: "1"})
		next.say(&keys.Kept{URI: a}, kept(b, "3"))
		want("a leader that never fetched one", map[string]string{a: "2", b: "3"})
		next.say(&keys.Kept{URI: a})
		want("one is not wanted any more", map[string]string{a: "2"})

		m, err := c.CoreV1().ConfigMaps(namespace).Get(t.Context(), o.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		m.Data = map[string]string{"x": "", "y": "{", "wrong": m.Data[kept(a, "2").FileName()]}
		if _, err := c.CoreV1().ConfigMaps(namespace).Update(t.Context(), m, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		want("nonsense", nil)
	})
}
