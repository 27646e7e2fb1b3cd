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
	mute   bool          // watches begin and say nothing
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
	if s.weather.mute {
		return
	}
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
	if watch && !now.mute && r.URL.Query().Get("resourceVersion") != fmt.Sprint(version) {
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
		every := time.NewTicker(time.Minute)
		defer every.Stop()
		for !now.ends {
			select {
			case <-until.Done():
				return
			case <-r.Context().Done():
				return
			case <-every.C:
				if !now.mute {
					fmt.Fprintf(w, `{"type":"BOOKMARK","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"%d"}}}`+"\n", version)
					w.(http.Flusher).Flush()
				}
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

// watching is a Mirror of an API server whose weather changes.
type watching struct {
	t       *testing.T
	api     *server
	s       *Server
	log     locked.Buffer
	end     func()
	mu      sync.Mutex
	held    map[string]string
	dropped int
}

func newWatching(t *testing.T) *watching {
	x := &watching{t: t, api: &server{data: map[string]string{"a": "1", "b": "1"}, version: 1}, held: map[string]string{}}
	x.api.until, x.api.stop = context.WithCancel(t.Context())
	network := &memnet.Network{}
	l, err := network.Listen("10.0.0.1:443")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: x.api, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(l) }()
	x.s = New(slog.New(slog.NewTextHandler(&x.log, nil)))
	x.s.Plain = true
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		x.api.mu.Lock()
		away := x.api.weather.away
		x.api.mu.Unlock()
		if away {
			return nil, fmt.Errorf("connection refused")
		}
		return network.DialContext(ctx, "tcp", "10.0.0.1:443")
	}}
	client, err := kubernetes.NewForConfig(&rest.Config{Host: "http://api", Transport: x.s.Through(transport), WarningHandler: rest.NoWarnings{}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		Watch(ctx, x.s, client.CoreV1().ConfigMaps("mesh"), Mirror[*corev1.ConfigMap]{Kind: "ConfigMap", Synced: func() {},
			Put: func(c *corev1.ConfigMap) {
				x.mu.Lock()
				defer x.mu.Unlock()
				x.held[c.Name] = c.Data["is"]
			},
			Drop: func(types.NamespacedName) {
				x.mu.Lock()
				defer x.mu.Unlock()
				x.dropped++
			}})
	})
	x.end = func() {
		cancel()
		_ = srv.Close()
		transport.CloseIdleConnections()
		running.Wait()
	}
	return x
}

func (x *watching) metrics() string {
	var m strings.Builder
	x.s.Metrics(&m)
	return m.String()
}

// want compares what is held, and what is said of the API server.
func (x *watching) want(when, a string, down bool) {
	x.t.Helper()
	x.mu.Lock()
	defer x.mu.Unlock()
	if d := cmp.Diff(map[string]string{"a": a, "b": "1"}, x.held); d != "" || x.dropped > 0 {
		x.t.Errorf("%s: %d were given up (-want +got):\n%s", when, x.dropped, d)
	}
	m := x.metrics()
	if up := map[bool]string{true: "0", false: "1"}[down]; x.s.Away().IsZero() == down || !strings.Contains(m, "weir_kubernetes_up "+up+"\n") {
		x.t.Errorf("%s: away since %v, and metrics say\n%s", when, x.s.Away(), m)
	}
}

func endure(t *testing.T, w weather) {
	x := newWatching(t)
	time.Sleep(10 * time.Second)
	x.want("at first", "1", false)
	x.api.set(w)
	time.Sleep(2 * time.Minute)
	if w.only && w.status == http.StatusInternalServerError {
		// Lists are answered in between.
	} else {
		x.want("meanwhile", "1", w.down)
		if got := x.s.Trouble(); w.log != "" && !strings.Contains("the API server "+strings.TrimPrefix(got, "it "), strings.TrimPrefix(w.log, "the API server ")) {
			t.Errorf("meanwhile people are told: %q", got)
		}
	}
	if x.s.Awaits() != "" {
		t.Errorf("it waits%s", x.s.Awaits())
	}
	if n := strings.Count(x.log.String(), "level=WARN"); w.log == "" && n > 0 || w.log != "" && !strings.Contains(x.log.String(), w.log) || !w.only && n > 1 {
		t.Errorf("the log says\n%s", &x.log)
	}
	x.api.set(weather{})
	x.api.edit("a", "2")
	time.Sleep(30 * time.Second)
	x.want("afterwards", "2", false)
	x.end()
}

// An API server that keeps a watch open and says nothing on it looks like one where nothing happens, but for the bookmark that it owes
// every minute. What it does not tell is read, that it does not is said once, and so is that it does again.
func TestSilentWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newWatching(t)
		silent := func(when string, want bool) {
			t.Helper()
			_, is := x.s.Silent()["ConfigMap"]
			if is != want {
				t.Errorf("%s: silent is %v", when, is)
			}
		}
		time.Sleep(time.Hour)
		x.want("a quiet hour", "1", false)
		silent("a quiet hour", false)
		if m := x.metrics(); !strings.Contains(m, "weir_kubernetes_watch_silent_seconds{kind=\"ConfigMap\"} ") {
			t.Error(m)
		}
		x.api.set(weather{mute: true})
		x.api.edit("a", "2")
		time.Sleep(2 * time.Minute)
		x.want("two minutes of silence", "1", false)
		silent("two minutes of silence", false)
		time.Sleep(2 * time.Minute)
		x.want("four minutes of silence", "2", false)
		silent("four minutes of silence", true)
		time.Sleep(20 * time.Minute)
		x.api.edit("a", "3")
		time.Sleep(4 * time.Minute)
		x.want("half an hour of silence", "3", false)
		silent("half an hour of silence", true)
		if n := strings.Count(x.log.String(), "level=WARN"); n != 1 || !strings.Contains(x.log.String(), "kind=ConfigMap") {
			t.Errorf("the log says\n%s", &x.log)
		}
		if m := x.metrics(); !strings.Contains(m, "weir_kubernetes_watch_silent_seconds{kind=\"ConfigMap\"} 1") { // a thousand and some
			t.Error(m)
		}
		x.api.set(weather{})
		time.Sleep(2 * time.Minute)
		silent("afterwards", false)
		if n := strings.Count(x.log.String(), "tells of a kind again"); n != 1 {
			t.Errorf("the log says\n%s", &x.log)
		}
		x.end()
	})
}

// Of an API server that never sent a bookmark nobody knows whether it is deaf: it is left alone.
func TestQuietWithoutBookmarks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x := newWatching(t)
		x.api.set(weather{mute: true})
		time.Sleep(time.Hour)
		if len(x.s.Silent()) > 0 || strings.Contains(x.log.String(), "level=WARN") || strings.Contains(x.metrics(), "silent") {
			t.Errorf("%v\n%s\n%s", x.s.Silent(), &x.log, x.metrics())
		}
		x.end()
	})
}
