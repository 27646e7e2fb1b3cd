// Package e2e_test tries the mesh as its users do: configuration in, traffic through.
package e2e_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/weirmesh/weir/control"
	"github.com/weirmesh/weir/test/mesh"
)

// Every file that Istio publishes for bookinfo does what its documentation says, one
// after the other on one running mesh; and so do ours.
func TestBookinfoFilesDoWhatTheyAreKnownFor(t *testing.T) {
	t.Parallel()
	b := newBookinfo(t)
	const rules, allV1 = "destination-rule-all.yaml", "virtual-service-all-v1.yaml"
	for _, c := range []struct {
		name  string
		files []string
		check func(*testing.T)
		finds string // code of the only error found
	}{
		{"without rules every version is seen", nil, b.sees("v1", "v2", "v3"), ""},
		{"subsets alone change nothing", []string{rules}, b.sees("v1", "v2", "v3"), ""},
		{"random balancing sees every version", []string{"destination-rule-reviews.yaml"}, b.sees("v1", "v2", "v3"), ""},
		{"mesh TLS may be asked for", []string{"destination-rule-all-mtls.yaml", "virtual-service-reviews-v3.yaml"}, b.sees("v3"), ""},
		{"all v1: no stars", []string{rules, allV1}, func(t *testing.T) {
			b.sees("v1")(t)
			b.shows(t, "", page{version: "v1"})
		}, ""},
		{"reviews v3: red stars", []string{rules, "virtual-service-reviews-v3.yaml"}, func(t *testing.T) {
			b.sees("v3")(t)
			b.shows(t, "", page{version: "v3", stars: "red"})
		}, ""},
		{"half v1, half v3", []string{rules, "virtual-service-reviews-50-v3.yaml"}, b.splits(3000, 4, map[string]float64{"v1": 0.5, "v3": 0.5}), ""},
		{"80 to 20", []string{rules, "virtual-service-reviews-80-20.yaml"}, b.splits(1500, 4.6, map[string]float64{"v1": 0.8, "v2": 0.2}), ""},
		{"90 to 10", []string{rules, "virtual-service-reviews-90-10.yaml"}, b.splits(1000, 4.5, map[string]float64{"v1": 0.9, "v2": 0.1}), ""},
		{"half v2, half v3", []string{rules, "virtual-service-reviews-v2-v3.yaml"}, func(t *testing.T) { b.sees("v2", "v3")(t) }, ""},
		{"jason sees v2, others v1", []string{rules, "virtual-service-reviews-test-v2.yaml"}, func(t *testing.T) {
			b.shows(t, "jason", page{version: "v2", stars: "black"})
			b.shows(t, "", page{version: "v1"})
			b.shows(t, "jasonx", page{version: "v1"})
		}, ""},
		{"jason sees v2, others v3", []string{rules, "virtual-service-reviews-jason-v2-v3.yaml"}, func(t *testing.T) {
			b.shows(t, "jason", page{version: "v2", stars: "black"})
			b.shows(t, "anna", page{version: "v3", stars: "red"})
		}, ""},
		{"jason's ratings are late", []string{rules, "virtual-service-reviews-v3.yaml", "virtual-service-ratings-test-delay.yaml"}, b.delays, ""},
		{"jason's ratings fail", []string{rules, "virtual-service-reviews-v3.yaml", "virtual-service-ratings-test-abort.yaml"}, func(t *testing.T) {
			r := b.client.Get("http://ratings:9080/ratings/0", "end-user: jason")
			if r.Status != 500 || string(r.Body) != "fault filter abort" {
				t.Errorf("jason got %v", r)
			}
			b.shows(t, "jason", page{version: "v3", missing: "ratings"})
			b.shows(t, "", page{version: "v3", stars: "red"})
		}, ""},
		{"details fail with 555", []string{"destination-rule-reviews.yaml", "fault-injection-details-v1.yaml", "virtual-service-reviews-v3.yaml"}, func(t *testing.T) {
			if r := b.client.Get("http://details:9080/details/0"); r.Status != 555 {
				t.Error(r)
			}
			b.shows(t, "", page{version: "v3", stars: "red", missing: "details"})
		}, ""},
		{"a version that does not run is missing", []string{rules, "virtual-service-details-v2.yaml", "virtual-service-reviews-v3.yaml"}, func(t *testing.T) {
			r := b.client.Get("http://details:9080/details/0")
			if r.Status != 503 || string(r.Body) != "no healthy upstream" {
				t.Error(r)
			}
			b.client.AccessLog("503 UH no_healthy_upstream", "outbound|9080|v2|details.default.svc.cluster.local")
			b.shows(t, "", page{version: "v3", stars: "red", missing: "details"})
		}, "IST0173"},
		{"ratings from a database that does not run", []string{rules, "virtual-service-ratings-db.yaml"}, b.without("ratings"), "IST0173"},
		{"ratings from MySQL that does not run", []string{rules, "virtual-service-ratings-mysql.yaml"}, b.without("ratings"), "IST0173"},
		{"ratings from a machine that does not run", []string{rules, "virtual-service-ratings-mysql-vm.yaml"}, b.without("ratings"), "IST0173"},
		{"rules for the outside leave the inside alone", []string{rules, allV1, "egress-rule-google-apis.yaml"}, b.sees("v1"), ""},
	} {
		for origin, read := range b.origins {
			// All files of a case are one: traffic never sees half of it.
			var text []string
			for _, f := range append([]string{"bookinfo-gateway.yaml"}, c.files...) {
				text = append(text, read(f))
			}
			b.Config("networking.yaml", shorter.Replace(strings.Join(text, "\n---\n")))
			b.Run(c.name+", "+origin, func(t *testing.T) {
				c.check(t)
				b.finds(t, c.finds)
			})
		}
	}
}

// shorter makes the delay bearable; TestFaultsKeepTheirNumbers has the original.
var shorter = strings.NewReplacer("fixedDelay: 7s", "fixedDelay: 0.25s")

// What the files say reaches the proxies unchanged.
func TestFaultsKeepTheirNumbers(t *testing.T) {
	t.Parallel()
	b := newBookinfo(t)
	for origin, read := range b.origins {
		b.Run(origin, func(t *testing.T) {
			for file, want := range map[string]string{
				"virtual-service-ratings-test-delay.yaml": `"Delay":7000000000,"DelayPer1M":1000000,`,
				"virtual-service-ratings-test-abort.yaml": `"AbortStatus":500,"AbortGRPC":-1,"AbortPer1M":1000000,`,
			} {
				b.Config("networking.yaml", read("destination-rule-all.yaml")+"\n---\n"+read(file))
				dump := string(b.client.Admin(http.MethodGet, "/state").Body)
				dump = regexp.MustCompile(`\s`).ReplaceAllString(dump, "")
				if !strings.Contains(dump, want) {
					t.Errorf("%s: the proxy's configuration has no %s", file, want)
				}
			}
		})
	}
}

// bookinfo is the application with its gateway, and a client beside it.
type bookinfo struct {
	*mesh.Mesh
	gateway, client *mesh.Workload
	pods            map[string]*mesh.Workload // by name
	origins         map[string]func(file string) string
}

func newBookinfo(t *testing.T) *bookinfo { return newBookinfoOf(t, 0, "", nil) }

// newBookinfoOf has so many replicas of each Deployment; 0: as the Deployments say. Programs wait patience for answers, "": as the
// originals, which give up after 2.5 and 3 s, whoever is slow.
func newBookinfoOf(t *testing.T, replicas int, patience string, change func(*control.Options)) *bookinfo {
	t.Helper()
	b := &bookinfo{Mesh: mesh.New(t, change), pods: map[string]*mesh.Workload{}, origins: map[string]func(string) string{"ours": ours(t)}}
	if root := published(); root != "" {
		b.origins["Istio's"] = theirs(t, root)
	} else {
		t.Log("Istio's published files are not beside the repository: only ours are tried")
	}
	app := ours(t)("bookinfo.yaml")
	if read := b.origins["Istio's"]; read != nil {
		app = read("bookinfo.yaml")
	}
	b.Write("ingress.yaml", mesh.IngressGateway)
	b.Config("bookinfo.yaml", app)
	client := mesh.Spec{Name: "client-0", Labels: map[string]string{"app": "client"}, ServiceAccount: "client"}
	pods := b.Pods([]byte(app), replicas)
	for i := range pods {
		if pods[i].Env == nil {
			pods[i].Env = map[string]string{}
		}
		pods[i].Env["CALL_TIMEOUT"] = patience
	}
	for _, w := range b.Workloads(append(pods, mesh.Gateway(), client)...) {
		b.pods[w.Name] = w
		switch w.Name {
		case "client-0":
			b.client = w
		case "istio-ingressgateway-0":
			b.gateway = w
		}
	}
	return b
}

func ours(t *testing.T) func(string) string {
	t.Helper()
	ar, err := txtar.ParseFile("testdata/bookinfo.txtar")
	if err != nil {
		t.Fatal(err)
	}
	return func(name string) string {
		for _, f := range ar.Files {
			if f.Name == name {
				return string(f.Data)
			}
		}
		t.Fatalf("testdata/bookinfo.txtar has no %s", name)
		return ""
	}
}

// published is the folder of Istio's samples beside the repository, or beside the folder
// of its worktrees; "" if it is not there.
func published() string {
	for _, up := range []string{"../../..", "../../../.."} {
		root := filepath.Join(up, "shared/fixtures/istio-samples")
		if _, err := os.Stat(root); err == nil {
			return root
		}
	}
	return ""
}

func theirs(t *testing.T, root string) func(string) string {
	return func(name string) string {
		t.Helper()
		folder := "networking"
		if name == "bookinfo.yaml" {
			folder = "platform/kube"
		}
		text, err := os.ReadFile(filepath.Join(root, "bookinfo", folder, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
}

// finds checks that errors are found with this code only; with "" there are none.
func (b *bookinfo) finds(t *testing.T, code string) {
	t.Helper()
	b.Eventually("the configuration is analysed", func() error {
		if !b.Status().Analyzed {
			return errors.New("not yet")
		}
		return nil
	})
	found := false
	for _, f := range b.Findings() {
		if f.Severity == "error" && f.Code != code {
			t.Errorf("finding: %+v", f)
		}
		found = found || f.Code == code
	}
	if !found && code != "" {
		t.Errorf("%s was not found", code)
	}
}

// page is what the product page shows.
type page struct {
	version, stars string
	missing        string // the section that is unavailable
}

var marks = regexp.MustCompile(`data-(reviews-version|color|unavailable)="([^"]*)"`)

// shows checks the product page of a user, from outside through the gateway.
func (b *bookinfo) shows(t *testing.T, user string, want page) {
	t.Helper()
	var headers []string
	if user != "" {
		headers = append(headers, "cookie: user="+user)
	}
	r := mesh.Do(b.gateway.Outside(), http.MethodGet, "http://gateway:8080/productpage", nil, headers...)
	if r.Status != http.StatusOK {
		t.Fatal(r)
	}
	var got page
	for _, m := range marks.FindAllStringSubmatch(string(r.Body), -1) {
		switch m[1] {
		case "reviews-version":
			got.version = m[2]
		case "color":
			got.stars = m[2]
		default:
			got.missing = m[2]
		}
	}
	if got != want {
		t.Errorf("the page of %q shows %+v, want %+v", user, got, want)
	}
}

func (b *bookinfo) without(section string) func(*testing.T) {
	return func(t *testing.T) { b.shows(t, "", page{version: "v3", missing: section}) }
}

// versions asks reviews n times and counts who answered.
func (b *bookinfo) versions(t *testing.T, n int) map[string]int {
	t.Helper()
	var mu sync.Mutex
	seen := map[string]int{}
	var asking sync.WaitGroup
	const callers = 8
	for i := range callers {
		asking.Go(func() {
			for range (n + i) / callers {
				r := b.client.Get("http://reviews:9080/reviews/0")
				var answer struct{ Version string }
				if r.Status != http.StatusOK || json.Unmarshal(r.Body, &answer) != nil {
					answer.Version = r.String()
				}
				mu.Lock()
				seen[answer.Version]++
				mu.Unlock()
			}
		})
	}
	asking.Wait()
	return seen
}

// sees checks that exactly these versions of reviews answer.
func (b *bookinfo) sees(want ...string) func(*testing.T) {
	return func(t *testing.T) {
		t.Helper()
		// Of three equals each is missed by 96 answers once in 10^16 times.
		seen := b.versions(t, 96)
		for _, v := range want {
			if seen[v] == 0 {
				t.Errorf("%s was never seen", v)
			}
			delete(seen, v)
		}
		if len(seen) > 0 {
			t.Errorf("other answers: %v", seen)
		}
	}
}

// splits checks the shares of n requests, within so many points. The numbers used are 4.4
// standard deviations or more: chance alone fails one run in 90,000.
func (b *bookinfo) splits(n int, points float64, want map[string]float64) func(*testing.T) {
	return func(t *testing.T) {
		t.Helper()
		seen := b.versions(t, n)
		for v, share := range want {
			if got := float64(seen[v]) / float64(n); 100*math.Abs(got-share) > points {
				t.Errorf("%s has %.1f %% of the answers, want %.0f", v, 100*got, 100*share)
			}
			delete(seen, v)
		}
		if len(seen) > 0 {
			t.Errorf("other answers: %v", seen)
		}
	}
}

// delays checks that jason waits for ratings, and nobody else.
func (b *bookinfo) delays(t *testing.T) {
	id := fmt.Sprintf("late-%d", time.Now().UnixNano())
	for user, flag := range map[string]string{"jason": "DI", "anna": "-"} {
		r := b.client.Get("http://ratings:9080/ratings/0", "end-user: "+user, "x-request-id: "+id+user)
		if r.Status != http.StatusOK {
			t.Errorf("%s got %v", user, r)
		}
		if user == "jason" && r.Took < 250*time.Millisecond {
			t.Errorf("jason waited %v", r.Took)
		}
		b.client.AccessLog(`"GET /ratings/0 HTTP/1.1" 200 `+flag+" via_upstream", id+user)
	}
	b.shows(t, "jason", page{version: "v3", stars: "red"})
}
