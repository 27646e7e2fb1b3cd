package cluster

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/weirmesh/weir/internal/kubeconfig"
)

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// An API server that goes away is waited for and asked again with the whole request; one that
// was never there is not, and one that does not come back is given up in plain words.
func TestPatient(t *testing.T) {
	const object = "https://k/api/v1/namespaces/a/configmaps/b"
	for _, c := range []struct {
		name, url string
		met       bool
		back      time.Duration // after which it answers
		status    int           // until then; 0: nobody listens
		timeout   time.Duration
		want      string // "" if it is answered
		says      string
	}{
		{"it was never there", object, false, time.Hour, 0, time.Hour, "connection refused", ""},
		{"it restarts", object, true, 20 * time.Second, 0, time.Hour, "", "trying again\nthe cluster answers again, after 2"},
		{"it has too much to do", object, true, 20 * time.Second, 429, time.Hour, "", "trying again\nthe cluster answers again, after 2"},
		{"a group that somebody else should serve", "https://k/apis/metrics.k8s.io/v1beta1", true, time.Hour, 503, time.Hour, "", ""},
		{"it is gone", object, true, time.Hour, 0, time.Hour, "the cluster at https://k has not answered for 1m0s: connection refused", "trying again"},
		{"there is no time to wait", object, true, time.Hour, 0, 5 * time.Second, "the cluster at https://k did not answer in time", "trying again"},
	} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			var said []string
			p := &patient{say: func(line string) { said = append(said, line) }, next: roundTrip(func(r *http.Request) (*http.Response, error) {
				if b, _ := io.ReadAll(r.Body); string(b) != "body" {
					t.Errorf("%s: the request is %q", c.name, b)
				}
				switch {
				case time.Since(began) >= c.back:
					return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
				case c.status == 0:
					return nil, syscall.ECONNREFUSED
				}
				return &http.Response{StatusCode: c.status, Status: http.StatusText(c.status), Body: http.NoBody}, nil
			})}
			p.met.Store(c.met)
			ctx, cancel := context.WithTimeout(t.Context(), c.timeout)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodPatch, c.url, bytes.NewReader([]byte("body")))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := p.RoundTrip(req)
			if err = (&Cluster{Server: "https://k"}).Plain(ctx, err); err == nil {
				resp.Body.Close()
			}
			if (err == nil) != (c.want == "") || err != nil && err.Error() != c.want {
				t.Errorf("%s: %v, want %q", c.name, err, c.want)
			}
			if all := strings.Join(said, "\n"); !strings.Contains(all, c.says) || (c.says == "") != (all == "") {
				t.Errorf("%s: says %q, want %q", c.name, all, c.says)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		said := make(chan string, 2) // a timer says it
		p := &patient{say: func(line string) { said <- line }, next: roundTrip(func(*http.Request) (*http.Response, error) {
			<-time.After(slow + time.Second)
			return &http.Response{StatusCode: http.StatusOK, Body: http.NoBody}, nil
		})}
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, object, nil)
		if resp, err := p.RoundTrip(req); err != nil {
			t.Error(err)
		} else {
			resp.Body.Close()
		}
		if line := <-said; line != "the cluster takes its time to answer" || len(said) > 0 {
			t.Errorf("says %q, and %d more", line, len(said))
		}
	})
}

// A webhook that the API server cannot ask is told apart from objects that it would refuse.
func TestUnanswered(t *testing.T) {
	hook := &unstructured.Unstructured{Object: map[string]any{"kind": "MutatingWebhookConfiguration", "metadata": map[string]any{"name": "istio-sidecar-injector"}}}
	failed := func(service string) error {
		return apierrors.NewInternalError(errors.New(`failed calling webhook "a.istio.io": failed to call webhook: Post "https://` + service + `.svc:443/inject?timeout=10s": connection refused`))
	}
	for _, c := range []struct {
		name string
		err  error
		want string
	}{
		{"it answers", nil, ""},
		{"nobody listens", failed("istiod.istio-system"), "mutatingwebhookconfiguration/istio-sidecar-injector: the API server cannot ask the control plane: \"a.istio.io\": failed to call webhook: Post"},
		{"another one's", failed("gatekeeper.gatekeeper-system"), ""},
		{"no permission", apierrors.NewForbidden(schema.GroupResource{Resource: "pods"}, trial, errors.New("user u may not")), "was not found out"},
		{"the object is bad", apierrors.NewBadRequest("no"), ""},
	} {
		p := unanswered(hook, "istio-system", c.err)
		if (p == nil) != (c.want == "") || p != nil && !strings.Contains(p.Message, c.want) {
			t.Errorf("%s: %+v, want %q", c.name, p, c.want)
		}
	}
	var told *kubeconfig.Error
	if err := (&Cluster{}).Plain(t.Context(), kubeconfig.Hinted("h", "x")); !errors.As(err, &told) || told.Hint != "h" {
		t.Errorf("what is plain already: %v", err)
	}
}
