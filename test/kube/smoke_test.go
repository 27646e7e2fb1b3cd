package kube

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirmesh/weir/test/kube/cluster"
)

// The commands of the README lead from an empty cluster to bookinfo's page, as Istio
// publishes bookinfo; afterwards nothing is left.
func TestSmoke(t *testing.T) {
	book, gateway := sample(t, "bookinfo/platform/kube/bookinfo.yaml"), sample(t, "bookinfo/networking/bookinfo-gateway.yaml")
	c := cluster.Connect(t)
	bare(t, c)
	before := c.All()

	began := time.Now()
	url := install(t)
	installed := time.Since(began)
	if url == "" {
		t.Skip("the ingress gateway of this cluster cannot be reached from here")
	}
	shop := c.NewNamespace("istio-injection=enabled")
	mine := c.Namespace
	c.Namespace = shop
	c.Apply(book)
	c.Apply(gateway)
	c.Until("the page at "+url+"/productpage", booting, func() string {
		switch status, body, err := page(t, url+"/productpage"); {
		case err != nil:
			return err.Error()
		case status != 200 || !strings.Contains(body, "Reviews served by:"):
			return fmt.Sprintf("%d %.200s", status, body)
		}
		return ""
	})
	t.Logf("installed after %v, the first page %v after the beginning", installed.Round(100*time.Millisecond), time.Since(began).Round(100*time.Millisecond))
	c.Ready("app", booting)
	for _, p := range c.Pods("app") {
		if p.Annotations["sidecar.istio.io/status"] == "" {
			t.Errorf("pod %s has no sidecar", p.Name)
		}
	}
	must(t, "verify")
	must(t, "proxy-status")
	must(t, "describe", "pod", c.Pod("app=productpage").Name, "-n", shop)

	c.EndNamespace(shop)
	c.Namespace = mine
	c.AwaitNamespaces(mine)
	must(t, "uninstall", "--yes")
	c.Until("nothing is left", cluster.Patience, func() string { return cmp.Diff(before, c.All()) })
}
