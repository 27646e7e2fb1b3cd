package kubewatch

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/weirmesh/weir/internal/locked"
	"github.com/weirmesh/weir/internal/memnet"
)

// weather is how an API server does.
type weather struct {
	name   string
	slow   time.Duration // before each answer
	status int           // in place of an answer; of watches, where only says so
	only   bool          // watches fail, lists do not
	ends   bool          // watches end as soon as they began
	away   bool          // nobody is there
	// what is said of it
	down bool
	log  string
}

// server is an API server that has ConfigMaps of one namespace, over HTTP.
type server struct {
	mu      sync.Mutex
	weather weather
	version int
	data    map[string]string
	stop    context.CancelFunc // of watches
	until   context.Context
}

func (s *server) set(w weather) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.weather = w
	s.stop()
	s.until, s.stop = context.WithCancel(context.Background())
}

func (s *server) edit(name, value string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	s.data[name] = value
	s.stop() // who watches looks again
	s.until, s.stop = context.WithCancel(context.Background())
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	now, until, version, data := s.weather, s.until, s.version, maps.Clone(s.data)
	s.mu.Unlock()
	if now.away {
		panic(http.ErrAbortHandler) // connections that there were end
	}
	watch := r.URL.Query().Get("watch") != ""
	if now.slow > 0 {
		time.Sleep(now.slow)
	}
	w.Header().Set("Content-Type", "application/json")
	status := now.status
	if now.only && !watch {
		status = 0
	}
	if watch && r.URL.Query().Get("resourceVersion") != fmt.Sprint(version) {
		status = http.StatusGone // what happened since is forgotten
	}
	if status != 0 {
		if status == http.StatusTooManyRequests {
			w.Header().Set("Retry-After", "1")
		}
		reason := map[int]metav1.StatusReason{410: metav1.StatusReasonExpired, 429: metav1.StatusReasonTooManyRequests, 500: metav1.StatusReasonInternalError}[status]
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Code: int32(status), Reason: reason, Message: "as the weather is"})
		return
	}
	if watch {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		if !now.ends {
			select {
			case <-until.Done():
			case <-r.Context().Done():
			}
		}
		return
	}
	l := corev1.ConfigMapList{TypeMeta: metav1.TypeMeta{Kind: "ConfigMapList", APIVersion: "v1"}, ListMeta: metav1.ListMeta{ResourceVersion: fmt.Sprint(version)}}
	for name, value := range data {
		l.Items = append(l.Items, corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "mesh", ResourceVersion: fmt.Sprint(version)}, Data: map[string]string{"is": value}})
	}
	_ = json.NewEncoder(w).Encode(l)
}

// Whatever an API server does, nothing that is known is given up, it is said in one line and by metrics, and what was changed meanwhile
// is known soon after it is well again. One that is slow is one that answers.
func TestWeather(t *testing.T) {
	// One of them holds up all errors of a process by its own memory of the last one, which is not of the bubble's time.
	defer func(before []utilruntime.ErrorHandler) { utilruntime.ErrorHandlers = before }(utilruntime.ErrorHandlers)
	utilruntime.ErrorHandlers = nil
	for _, w := range []weather{
		{name: "five seconds a request", slow: 5 * time.Second, log: "the API server is slow"},
		{name: "internal errors", status: http.StatusInternalServerError, down: true, log: "does not answer"},
		{name: "too many requests", status: http.StatusTooManyRequests, down: true, log: "does not answer"},
		{name: "watches that are gone", status: http.StatusGone, only: true},
		{name: "watches that end at once", ends: true},
		{name: "watches that fail", status: http.StatusInternalServerError, only: true, log: "does not answer"},
		{name: "nobody is there", away: true, down: true, log: "does not answer"},
	} {
		t.Run(w.name, func(t *testing.T) { synctest.Test(t, func(t *testing.T) { endure(t, w) }) })
	}
}

func endure(t *testing.T, w weather) {
	api := &server{data: map[string]string{"a": "1", "b": "1"}, version: 1}
	api.until, api.stop = context.WithCancel(t.Context())
	network := &memnet.Network{}
	l, err := network.Listen("10.0.0.1:443")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: api, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(l) }()
	var log locked.Buffer
	s := New(slog.New(slog.NewTextHandler(&log, nil)))
	s.Plain = true
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		api.mu.Lock()
		away := api.weather.away
		api.mu.Unlock()
		if away {
			return nil, fmt.Errorf("connection refused")
		}
		return network.DialContext(ctx, "tcp", "10.0.0.1:443")
	}}
	client, err := kubernetes.NewForConfig(&rest.Config{Host: "http://api", Transport: s.Through(transport), WarningHandler: rest.NoWarnings{}})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	held, dropped := map[string]string{}, 0
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		Watch(ctx, s, client.CoreV1().ConfigMaps("mesh"), Mirror[*corev1.ConfigMap]{Kind: "ConfigMap", Synced: func() {},
			Put: func(c *corev1.ConfigMap) {
				mu.Lock()
				defer mu.Unlock()
				held[c.Name] = c.Data["is"]
			},
			Drop: func(types.NamespacedName) {
				mu.Lock()
				defer mu.Unlock()
				dropped++
			}})
	})
	want := func(when string, a string, down bool) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		if d := cmp.Diff(map[string]string{"a": a, "b": "1"}, held); d != "" || dropped > 0 {
			t.Errorf("%s: %d were given up (-want +got):\n%s", when, dropped, d)
		}
		var m strings.Builder
		s.Metrics(&m)
		if up := map[bool]string{true: "0", false: "1"}[down]; s.Away().IsZero() == down || !strings.Contains(m.String(), "weir_kubernetes_up "+up+"\n") {
			t.Errorf("%s: away since %v, and metrics say\n%s", when, s.Away(), &m)
		}
	}
	time.Sleep(10 * time.Second)
	want("at first", "1", false)
	api.set(w)
	time.Sleep(2 * time.Minute)
	if w.only && w.status == http.StatusInternalServerError {
		// Lists are answered in between.
	} else {
		want("meanwhile", "1", w.down)
	}
	if s.Awaits() != "" {
		t.Errorf("it waits%s", s.Awaits())
	}
	if n := strings.Count(log.String(), "level=WARN"); w.log == "" && n > 0 || w.log != "" && !strings.Contains(log.String(), w.log) || !w.only && n > 1 {
		t.Errorf("the log says\n%s", &log)
	}
	api.set(weather{})
	api.edit("a", "2")
	time.Sleep(30 * time.Second)
	want("afterwards", "2", false)
	cancel()
	_ = srv.Close()
	transport.CloseIdleConnections()
	running.Wait()
}
