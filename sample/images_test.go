package sample

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestByImage(t *testing.T) {
	for _, c := range []struct {
		image   string
		command string // words
		args    string
		want    string // words; "" is refused
	}{
		{image: "registry.example/release/examples-bookinfo-productpage-v1:1.20.3", want: "weir-sample bookinfo-productpage"},
		{image: "registry.example/release/examples-bookinfo-details-v1:1.20.3", want: "weir-sample bookinfo-details --version v1"},
		{image: "registry.example/release/examples-bookinfo-details-v2:1.20.3", want: "weir-sample bookinfo-details --version v2"},
		{image: "registry.example/istio/examples-bookinfo-reviews-v3:1.16.2", want: "weir-sample bookinfo-reviews --version v3"},
		{image: "istio/examples-bookinfo-reviews-v2", want: "weir-sample bookinfo-reviews --version v2"},
		{image: "examples-bookinfo-reviews-v1:0.2.3", want: "weir-sample bookinfo-reviews --version v1"},
		{image: "localhost:5000/mirror/istio/examples-bookinfo-ratings-v1@sha256:0123", want: "weir-sample bookinfo-ratings --version v1"},
		{image: "localhost:5000/examples-bookinfo-ratings-v2:1@sha256:0123", want: "weir-sample bookinfo-ratings --version v2"},
		{image: "istio/examples-bookinfo-ratings-v-faulty:1.20.3", want: "weir-sample bookinfo-ratings --version v-faulty"},
		{image: "istio/examples-helloworld-v1", want: "weir-sample helloworld --version v1"},
		{image: "registry.example/istio/examples-helloworld-v2:1.0", want: "weir-sample helloworld --version v2"},
		{image: "registry.example/mccutchen/go-httpbin:v2.15.0", want: "weir-sample httpbin --port 8080"},
		{image: "mccutchen/go-httpbin", args: "-port 9090", want: "weir-sample httpbin --port 9090"},
		{image: "mccutchen/go-httpbin", command: "/bin/go-httpbin", args: "-host 0.0.0.0 -port=9090", want: "weir-sample httpbin --port 9090"},
		{image: "registry.example/kong/httpbin", command: "gunicorn -b [::]:8080 httpbin:app -k gevent", want: "weir-sample httpbin --port 8080"},
		{image: "registry.example/kennethreitz/httpbin", want: "weir-sample httpbin --port 80"},
		{image: "registry.example/kennethreitz/httpbin", command: "gunicorn", args: "--access-logfile - --bind=0.0.0.0:81 httpbin:app", want: "weir-sample httpbin --port 81"},
		{image: "registry.example/citizenstig/httpbin", want: "weir-sample httpbin --port 8000"},
		{image: "istio/tcp-echo-server:1.3", args: "9000,9001,9002 one", want: "weir-sample tcp-echo --port 9000,9001,9002 --prefix one"},
		{image: "istio/tcp-echo-server:1.3", command: "/usr/local/bin/tcp-echo 9000", args: "two", want: "weir-sample tcp-echo --port 9000 --prefix two"},
		{image: "registry.example/curlimages/curl:8.16.0", command: "/bin/sleep infinity", want: "/bin/sleep infinity"},
		{image: "curlimages/curl", args: "sleep 3650d", want: "weir-sample sleep"},
		{image: "curlimages/curl", args: "-s http://helloworld:5000/hello", want: "curl -s http://helloworld:5000/hello"},
		{image: "curlimages/curl", command: "sh -c", args: "date", want: "sh -c date"},
		{image: "governmentpaas/curl-ssl", want: "weir-sample sleep"},
		{image: "registry.example/weirmesh/weir-sample:1", args: "echo --port 80", want: "weir-sample echo --port 80"},
		{image: "istio/examples-bookinfo-reviews-v1", command: "sh -c", args: "exit 1", want: "sh -c exit 1"},

		{image: "registry.example/release/examples-bookinfo-mongodb:1.20.3"},
		{image: "registry.example/release/examples-bookinfo-mysqldb:1.20.3", args: "--default-authentication-plugin mysql_native_password"},
		{image: "acme/curl"},
		{image: "acme/httpbin:1"},
		{image: "my-examples-bookinfo-reviews-v1"},
		{image: "evil.example/examples-bookinfo-reviews-v1/x"},
		{image: "nginx:1.27", command: "nginx"},
		{image: ""},
		{image: ":@"},
	} {
		argv, ok := ByImage(c.image, strings.Fields(c.command), strings.Fields(c.args))
		if want := strings.Fields(c.want); ok != (c.want != "") || ok && !cmp.Equal(argv, want) {
			t.Errorf("%s command=%q args=%q:\n got %q, %v\nwant %q", c.image, c.command, c.args, argv, ok, want)
		}
		if !ok || argv[0] != Binary {
			continue
		}
		found := false
		for _, p := range Programs() {
			found = found || p.Name == argv[1]
		}
		if !found {
			t.Errorf("%s: there is no sample %q", c.image, argv[1])
		}
	}
}

// In an image the program is called by the names of those it stands for.
func TestArgv(t *testing.T) {
	for _, c := range []struct{ argv, want string }{
		{"/usr/local/bin/weir-sample echo --port 80", "echo --port 80"},
		{"/bin/weir-sample", ""},
		{"weir-sample as istio/tcp-echo-server 9000,9001 one", "tcp-echo --port 9000,9001 --prefix one"},
		{"weir-sample as examples-bookinfo-reviews-v3", "bookinfo-reviews --version v3"},
		{"weir-sample as curlimages/curl sleep 60", "sleep"},
		{"/bin/sleep", "sleep"},
		{"/bin/sleep 3650d", "sleep --for 3650d"},
		{"go-httpbin -port 9090", "httpbin --port 9090"},
		{"/bin/tcp-echo 9000 two", "tcp-echo --port 9000 --prefix two"},
		{"gunicorn -b [::]:8080 httpbin:app", "httpbin --port 8080"},
		{"./renamed echo", "echo"},
		{"weir-sample as nginx:1", "error: no sample stands"},
		{"weir-sample as curlimages/curl -s http://a", "curl -s http://a"},
		{"/usr/bin/curl -s http://a", "curl -s http://a"},
	} {
		got, err := Argv(strings.Fields(c.argv))
		if want, ok := strings.CutPrefix(c.want, "error: "); ok {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v, %v, want an error with %q", c.argv, got, err, want)
			}
			continue
		}
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%s: %q, %v, want %q", c.argv, got, err, c.want)
		}
	}
	for s, want := range map[string]time.Duration{
		"5": 5 * time.Second, "1.5s": 1500 * time.Millisecond, "2m": 2 * time.Minute, "1h": time.Hour, "2d": 48 * time.Hour,
		"infinity": 0, "0": 1, "1e300d": 100 * 365 * 24 * time.Hour, "": -1, "s": -1, "-1": -1, "1w": -1, "NaN": -1,
	} {
		if got, err := sleepTime(s); got != want && (want != -1 || err == nil) {
			t.Errorf("sleep %q: %v, %v, want %v", s, got, err, want)
		}
	}
}

// Every image in Istio's published samples is known, but for the two databases.
func TestPublishedImages(t *testing.T) {
	root := filepath.Join("..", "..", "shared", "fixtures", "istio-samples")
	if _, err := os.Stat(root); err != nil {
		t.Skipf("Istio's samples are not beside this repository: %v", err)
	}
	image := regexp.MustCompile(`(?m)^\s*(?:- )?image:\s*(\S+)`)
	found := 0
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		for _, m := range image.FindAllStringSubmatch(string(data), -1) {
			found++
			_, ok := ByImage(m[1], nil, nil)
			if database := strings.Contains(m[1], "mysqldb") || strings.Contains(m[1], "mongodb"); ok == database {
				t.Errorf("%s: image %s: known is %v", p, m[1], ok)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if found == 0 {
		t.Error("no image found: the test looks in the wrong place")
	}
}

func FuzzByImage(f *testing.F) {
	f.Add("registry.example/kong/httpbin:1@sha256:0", "gunicorn -b", "-b= --bind")
	f.Add("istio/tcp-echo-server", "", "9000 one two")
	f.Fuzz(func(t *testing.T, image, command, args string) {
		if argv, ok := ByImage(image, strings.Fields(command), strings.Fields(args)); ok && len(argv) == 0 {
			t.Error("known, but nothing to run")
		}
	})
}
