package sample

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weirmesh/weir/sample/bookinfo"
)

// addresses collects from the log where a program listens.
type addresses chan string

func (a addresses) Write(line []byte) (int, error) {
	if _, rest, ok := strings.Cut(string(line), "address="); ok {
		a <- strings.TrimSpace(rest)
	}
	return len(line), nil
}

func environment(vars map[string]string) Environment {
	return Environment{
		Getenv: func(name string) string { return vars[name] },
		Host:   "pod-1", Log: slog.New(slog.DiscardHandler), Output: io.Discard, Result: io.Discard,
	}
}

// Every program in the table starts, answers, and ends in order.
func TestPrograms(t *testing.T) {
	for _, c := range []struct {
		argv string
		vars map[string]string
		path string // "" for programs without HTTP
		want string // beginning of the answer
	}{
		{argv: "bookinfo-productpage", path: "/health", want: "Product page is healthy"},
		{argv: "bookinfo-details", path: "/details/0", want: `{"id":0,"author":"William Shakespeare"`},
		{argv: "bookinfo-reviews", path: "/reviews/0", want: `{"id":"0","podname":"pod-1","clustername":"null","version":"v1"`},
		{argv: "bookinfo-reviews --version v3", vars: map[string]string{"CLUSTER_NAME": "east"}, path: "/reviews/0", want: `{"id":"0","podname":"pod-1","clustername":"east","version":"v3"`},
		{argv: "bookinfo-ratings", path: "/ratings/0", want: `{"id":0,"ratings":{"Reviewer1":5,"Reviewer2":4}}`},
		{argv: "helloworld", vars: map[string]string{"SERVICE_VERSION": "v2"}, path: "/hello", want: "Hello version: v2, instance: pod-1\n"},
		{argv: "helloworld --version v3", vars: map[string]string{"SERVICE_VERSION": "v2"}, path: "/hello", want: "Hello version: v3, instance: pod-1\n"},
		{argv: "helloworld", path: "/health", want: "Helloworld is healthy"},
		{argv: "httpbin", path: "/hostname", want: "{\n  \"hostname\": \"pod-1\"\n}"},
		{argv: "echo --version v9 --tcp-port 0", path: "/?format=text", want: "GET /?format=text HTTP/1.1\n"},
		{argv: "tcp-echo --prefix one"},
		{argv: "grpc"},
		{argv: "client --url http://127.0.0.1:1 --rate 0.01"},
		{argv: "sleep"},
	} {
		t.Run(c.argv, func(t *testing.T) {
			env := environment(c.vars)
			listening := make(addresses, 2)
			env.Log = slog.New(slog.NewTextHandler(listening, nil))
			vars := env.Getenv
			env.Getenv = func(name string) string {
				switch name {
				case "BIND_ADDRESS":
					return "127.0.0.1"
				case "PORT":
					return "0"
				}
				return vars(name)
			}
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- Run(ctx, env, strings.Fields(c.argv)) }()
			address := ""
			if c.argv != "sleep" && !strings.HasPrefix(c.argv, "client") {
				address = <-listening
			}
			if c.path != "" {
				req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+c.path, nil)
				if err != nil {
					t.Fatal(err)
				}
				transport := &http.Transport{}
				res, err := transport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(res.Body)
				res.Body.Close()
				transport.CloseIdleConnections()
				if res.StatusCode != http.StatusOK || !strings.HasPrefix(string(body), c.want) {
					t.Errorf("%d %s, want %s", res.StatusCode, body, c.want)
				}
			}
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		argv string
		vars map[string]string
		err  string // part of it; "" is no error
		help string // part of it
	}{
		{argv: "help", help: "bookinfo-reviews"},
		{argv: "--help", help: "BIND_ADDRESS"},
		{argv: "", err: "name a sample", help: "Usage"},
		{argv: "bookinfo-reviews --help", help: "weir-sample bookinfo-reviews --version v3"},
		{argv: "tcp-echo -h", help: "(default 9000)"},
		{argv: "nginx", err: `there is no sample "nginx"`},
		{argv: "sleep infinity", err: `sleep takes no argument "infinity"`},
		{argv: "helloworld --colour red", err: "not defined: -colour", help: "--version v2"},
		{argv: "helloworld --port http", err: `port "http" is not a number`},
		{argv: "helloworld", vars: map[string]string{"PORT": "65536"}, err: `reading $PORT: port "65536"`},
		{argv: "bookinfo-productpage", vars: map[string]string{"FLOOD_FACTOR": "many"}, err: "$FLOOD_FACTOR"},
		{argv: "bookinfo-productpage", vars: map[string]string{"CALL_TIMEOUT": "-3s"}, err: "$CALL_TIMEOUT"},
		{argv: "bookinfo-reviews", vars: map[string]string{"CALL_TIMEOUT": "3"}, err: "$CALL_TIMEOUT"},
		{argv: "bookinfo-ratings --version v2", vars: map[string]string{"MONGO_DB_URL": "mongodb"}, err: "$MONGO_DB_URL"},
		{argv: "helloworld", vars: map[string]string{"BIND_ADDRESS": "192.0.2.1"}, err: "starting helloworld: listening on port 5000"},
	} {
		var out bytes.Buffer
		env := environment(c.vars)
		env.Output = &out
		err := Run(t.Context(), env, strings.Fields(c.argv))
		if c.err == "" && err != nil || c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)) {
			t.Errorf("%q: error %v, want %q", c.argv, err, c.err)
		}
		if !strings.Contains(out.String(), c.help) {
			t.Errorf("%q: help lacks %q:\n%s", c.argv, c.help, out.String())
		}
	}
}

// $PORT replaces the first ports and leaves the others.
func TestPorts(t *testing.T) {
	for _, c := range []struct {
		ports    []int
		assigned string
		want     []int
	}{
		{[]int{9080}, "", []int{9080}},
		{[]int{9000, 9001, 9002}, "7000", []int{7000, 9001, 9002}},
		{[]int{9000}, "7000, 7001", []int{7000, 7001}},
		{nil, "7000", nil},
	} {
		got, err := assign(c.ports, c.assigned)
		if diff := cmp.Diff(c.want, got); diff != "" || err != nil {
			t.Errorf("%v with PORT=%q: %v (-want +got):\n%s", c.ports, c.assigned, err, diff)
		}
	}
}

func TestBackend(t *testing.T) {
	for _, c := range []struct {
		intention string
		vars      map[string]string
		want      bookinfo.Backend
	}{
		{"by name", nil, bookinfo.Backend{Authority: "ratings:9080"}},
		{"as the original is told", map[string]string{"RATINGS_HOSTNAME": "stars", "RATINGS_SERVICE_PORT": "80", "SERVICES_DOMAIN": "shop.example"},
			bookinfo.Backend{Authority: "stars.shop.example:80"}},
		{"in a pod Kubernetes sets the address, which would bypass the name", map[string]string{"RATINGS_SERVICE_HOST": "10.1.2.3", "RATINGS_SERVICE_PORT": "9080"},
			bookinfo.Backend{Authority: "ratings:9080"}},
		{"without a network namespace the address is dialled", map[string]string{"BIND_ADDRESS": "127.0.0.9", "RATINGS_SERVICE_HOST": "127.3.0.1", "RATINGS_SERVICE_PORT": "4711"},
			bookinfo.Backend{Authority: "ratings:9080", Address: "127.3.0.1:4711"}},
		{"a name that was asked for wins", map[string]string{"BIND_ADDRESS": "127.0.0.9", "RATINGS_SERVICE_HOST": "127.3.0.1", "RATINGS_HOSTNAME": "127.0.0.1"},
			bookinfo.Backend{Authority: "127.0.0.1:9080"}},
	} {
		if diff := cmp.Diff(c.want, backend(environment(c.vars), "ratings")); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.intention, diff)
		}
	}
}
