package kube

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// answers are what reviews, details and ratings say of themselves in each of n calls from the
// page's pod: the version of the pod that answered, or the status.
func answers(c *cluster.Cluster, path string, user string, n int) map[string]int {
	argv := []string{"curl", "-s", "-m", "20", "-w", " status=%{http_code}\n"}
	if user != "" {
		argv = append(argv, "-H", "end-user: "+user)
	}
	out, err := c.Exec(c.Pod("app=productpage").Name, "productpage", append(argv, slices.Repeat([]string{"http://" + path}, n)...)...)
	if err != nil {
		return map[string]int{err.Error(): 1}
	}
	got := map[string]int{}
	for line := range strings.Lines(out) {
		_, status, ok := strings.Cut(strings.TrimSpace(line), "status=")
		if !ok {
			continue
		}
		if m := podname.FindStringSubmatch(line); m != nil && status == "200" {
			status = m[1]
		}
		got[status]++
	}
	return got
}

var podname = regexp.MustCompile(`"podname": ?"\w+-(v\d)-`)

// The networking files of bookinfo, as Istio publishes them, do what they say.
func TestNetworking(t *testing.T) {
	book := sample(t, "bookinfo/platform/kube/bookinfo.yaml")
	c, _ := meshed(t)
	c.Apply(book)
	c.Ready("app", booting)
	rules := sample(t, "bookinfo/networking/destination-rule-all.yaml")
	const reviews, ratings, details = "reviews:9080/reviews/0", "ratings:9080/ratings/0", "details:9080/details/0"
	for _, step := range []struct {
		file, path, user string
		want             string // versions or statuses that are seen, all of them
		least            time.Duration
	}{
		{"", reviews, "", "v1 v2 v3", 0},
		{"virtual-service-all-v1", reviews, "", "v1", 0},
		{"virtual-service-reviews-v3", reviews, "", "v3", 0},
		{"virtual-service-reviews-test-v2", reviews, "jason", "v2", 0},
		{"virtual-service-reviews-test-v2", reviews, "", "v1", 0},
		{"virtual-service-reviews-jason-v2-v3", reviews, "jason", "v2", 0},
		{"virtual-service-reviews-jason-v2-v3", reviews, "", "v3", 0},
		{"virtual-service-reviews-50-v3", reviews, "", "v1 v3", 0},
		{"virtual-service-reviews-80-20", reviews, "", "v1 v2", 0},
		{"virtual-service-reviews-90-10", reviews, "", "v1 v2", 0},
		{"virtual-service-reviews-v2-v3", reviews, "", "v2 v3", 0},
		{"virtual-service-ratings-test-abort", ratings, "jason", "500", 0},
		{"virtual-service-ratings-test-abort", ratings, "", "200", 0},
		{"virtual-service-ratings-test-delay", ratings, "jason", "200", 7 * time.Second},
		{"virtual-service-ratings-test-delay", ratings, "", "200", 0},
		{"virtual-service-details-v2", details, "", "503", 0}, // the subset has no pods
		{"fault-injection-details-v1", details, "", "555", 0},
		{"destination-rule-all-mtls", details, "", "200", 0},
		{"destination-rule-reviews", reviews, "", "v1 v2 v3", 0},
	} {
		name := cmp.Or(step.file, "no file") + " for " + cmp.Or(step.user, "anybody")
		text := rules
		if step.file != "" {
			// A file that has rules itself comes last: it replaces them.
			text = rules + "\n---\n" + sample(t, "bookinfo/networking/"+step.file+".yaml")
			c.Apply(text)
		}
		n := 60 // of which one in ten is missed by chance once in 500
		if step.least > 0 {
			n = 1
		}
		c.Until(name, cluster.Patience+2*step.least, func() string {
			began := time.Now()
			got := answers(c, step.path, step.user, n)
			if s := strings.Join(slices.Sorted(maps.Keys(got)), " "); s != step.want {
				return fmt.Sprintf("%v, want %s", got, step.want)
			}
			if took := time.Since(began); took < step.least {
				return fmt.Sprintf("took %v, want %v", took, step.least)
			}
			return ""
		})
		if step.file != "" {
			c.Delete(text)
		}
	}

	// Those that need what is not here are accepted as they stand.
	files, err := filepath.Glob(filepath.Join(samples, "bookinfo/networking/*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.TryApply(string(text)); err != nil {
			t.Errorf("%s: %v", filepath.Base(f), err)
		}
		c.Delete(string(text))
	}
}

// Pods talk TLS with their service accounts' certificates without being told to; told to
// be strict they refuse whoever has none.
func TestMutualTLS(t *testing.T) {
	c, _ := meshed(t)
	c.Apply(manifest(t, "workloads.yaml"))
	c.Ready("app in (caller,outside,web)", booting)
	want := "spiffe://cluster.local/ns/" + c.Namespace + "/sa/caller"
	web := c.Pod("app=web")
	c.Until("web sees the caller's identity", cluster.Patience, func() string {
		if r, err := echo(c, "caller", "http://web/"); err != nil || r.Identity != want {
			return fmt.Sprintf("%+v, %v", r, err)
		}
		return ""
	})
	// x-forwarded-client-cert is the proxy's to write: what a client sends is replaced.
	out, err := c.Exec("caller", "app", "curl", "-sS", "-H", "x-forwarded-client-cert: By=x;URI=spiffe://cluster.local/ns/kube-system/sa/root", "http://web/")
	if err != nil || strings.Contains(out, "kube-system") || !strings.Contains(out, want) {
		t.Errorf("a client that says who it is: %s, %v", out, err)
	}
	if r, err := echo(c, "outside", "http://web/"); err != nil || r.Identity != "" {
		t.Errorf("without a sidecar: %+v, %v", r, err)
	}

	c.Apply("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default}\nspec: {mtls: {mode: STRICT}}")
	c.Until("who has no certificate is refused", cluster.Patience, func() string {
		if r, err := echo(c, "outside", "http://web/"); err == nil {
			return fmt.Sprintf("answered: %+v", r)
		}
		return ""
	})
	if r, err := echo(c, "caller", "http://web/"); err != nil || r.Identity != want {
		t.Errorf("strict: %+v, %v", r, err)
	}
	// What is on the wire is TLS and not HTTP: an answer to a plain request would begin with "HTTP/1.1".
	if out, err := c.Exec("outside", "app", "curl", "-sS", "-m", "5", "http://"+web.Status.PodIP+":8080/"); err == nil {
		t.Errorf("a plain request was answered: %s", out)
	} else if got := cluster.Status(err); got != 52 && got != 56 {
		t.Errorf("a plain request ended with curl's status %d, want 52 or 56: %v", got, err)
	}
	// kubelet has no certificate, and its probes still arrive.
	restarted := c.Pod("app=web")
	if err := c.Client.CoreV1().Pods(c.Namespace).Delete(t.Context(), restarted.Name, deleteNow); err != nil {
		t.Fatal(err)
	}
	c.Until("a strict pod becomes ready", booting, func() string {
		for _, p := range c.Pods("app=web") {
			if p.Name != restarted.Name {
				return cluster.Unready(&p)
			}
		}
		return "it is not there"
	})
}
