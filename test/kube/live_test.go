package kube

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/test/kube/cluster"
)

// liveRules sets aside who answers two errors in a row, and sends /old to nobody.
const liveRules = `
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: web}
spec:
  host: web
  trafficPolicy:
    outlierDetection: {consecutive5xxErrors: 2, baseEjectionTime: 1h, maxEjectionPercent: 100}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: web}
spec:
  hosts: [web]
  http:
  - match: [{uri: {prefix: /old}}]
    route: [{destination: {host: web, subset: v0}}]
  - retries: {attempts: 0}
    route: [{destination: {host: web}}]
`

// says waits until a command of weir prints JSON in which there is something.
func says[T any](c *cluster.Cluster, what string, found func(*T) bool, args ...string) {
	c.T.Helper()
	saysWithin(c, what, cluster.Patience, found, args...)
}

// saysWithin is says with a patience of one's own.
func saysWithin[T any](c *cluster.Cluster, what string, patience time.Duration, found func(*T) bool, args ...string) {
	c.T.Helper()
	c.Until(what, patience, func() string {
		out, errs, err := weir(c.T, append(args, "-o", "json")...)
		var v T
		if err == nil {
			err = json.Unmarshal([]byte(out), &v)
		}
		if err != nil || !found(&v) {
			return fmt.Sprintf("weir %s: %v\n%.2000s%s", strings.Join(args, " "), err, out, errs)
		}
		return ""
	})
}

// What the proxies of a cluster know of calls is told by name: requests as they happen, why some failed, who is set aside, which limits
// there are, and who calls whom.
func TestLiveView(t *testing.T) {
	c, _ := meshed(t)
	c.Apply(withImages(t, web+"---"+caller))
	c.Ready("app in (web,caller)", booting)
	c.Until("the caller reaches web", cluster.Patience, func() string {
		if _, err := echo(c, "caller", "http://web/"); err != nil {
			return err.Error()
		}
		return ""
	})
	source, destination := c.Namespace+"/caller", c.Namespace+"/web"
	call := func(path string) {
		_, _ = c.Exec("caller", "app", "curl", "-s", "-m", "10", "-o", "/dev/null", "http://web"+path)
	}

	tapped := make(chan apiv1.Tapped, 100)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	tap := exec.CommandContext(ctx, program, "tap", "web", "-n", c.Namespace, "--path", "/seen", "-o", "json")
	var errs bytes.Buffer
	tap.Stderr = &errs
	lines, err := tap.StdoutPipe()
	if err == nil {
		err = tap.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(tapped)
		for s := bufio.NewScanner(lines); s.Scan(); {
			var x apiv1.Tapped
			if json.Unmarshal(s.Bytes(), &x) == nil && x.Silent == "" {
				select {
				case tapped <- x:
				default:
				}
			}
		}
	}()
	c.Until("a request is seen as it happens", cluster.Patience, func() string {
		call("/seen?status=418")
		select {
		case x, ok := <-tapped:
			if !ok {
				t.Fatalf("weir tap has ended: %s", errs.String())
			}
			if x.Source != source || x.Destination != destination || x.Status != 418 || x.Path != "/seen" || x.Transport != "mtls" || x.ID == "" {
				t.Errorf("%+v", x)
			}
			return ""
		default:
			return "nothing yet"
		}
	})
	cancel()
	for range tapped { // until it has ended
	}
	_ = tap.Wait() // it was ended

	c.Apply(liveRules)
	c.Until("the route to nobody is in force", cluster.Patience, func() string {
		out, err := c.Exec("caller", "app", "curl", "-s", "-m", "10", "-o", "/dev/null", "-w", "%{http_code}", "http://web/old")
		if err != nil || out != "503" {
			return fmt.Sprint(out, err)
		}
		return ""
	})
	says(c, "what failed is told with the object that decided", func(w *apiv1.Why) bool {
		return slices.ContainsFunc(w.Stories, func(s apiv1.Story) bool {
			return s.Cause == "cluster_not_found" && s.At == source && len(s.Decided) > 0 && s.Decided[0].Kind == "VirtualService" && s.Decided[0].Namespace == c.Namespace && s.Decided[0].Field == "http[0].route[0].destination.subset"
		})
	}, "why", "--last-errors", c.Namespace+"/web")
	for range 2 {
		call("/?status=500")
	}
	says(c, "who is set aside is told, by whom and why", func(e *apiv1.Ejections) bool {
		return slices.ContainsFunc(e.Ejections, func(e apiv1.Ejection) bool {
			return e.State == "ejected" && e.Proxy == source && e.Workload == destination && e.Status == 500 && e.Until != nil
		})
	}, "ejections", "web", "-n", c.Namespace)
	says(c, "the limit that was reached is told with its field", func(l *apiv1.Limits) bool {
		return slices.ContainsFunc(l.Limits, func(x apiv1.Limit) bool {
			return x.Name == "errors_in_a_row" && x.At == "caller" && x.Trips > 0 && x.SetBy != nil && x.SetBy.Kind == "DestinationRule" && x.SetBy.Namespace == c.Namespace && strings.HasSuffix(x.SetBy.Field, "consecutive5xxErrors")
		})
	}, "limits", "web", "-n", c.Namespace)
	type edge struct {
		Source, Destination, Transport string
		Requests                       uint64
	}
	is := func(e edge) bool {
		return e.Source == source && e.Destination == destination && e.Transport == "mtls" && e.Requests > 0
	}
	says(c, "who calls whom is told", func(all *[]edge) bool { return slices.ContainsFunc(*all, is) }, "top", "-n", c.Namespace)
	says(c, "and drawn", func(g *struct{ Edges []edge }) bool { return slices.ContainsFunc(g.Edges, is) }, "graph", "-n", c.Namespace)
}
