package translate_test

import (
	"strings"
	"testing"

	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/resource"
)

// A policy that cannot be written for a proxy leaves its workload without a listener, so that nobody gets past it; that is a finding about all
// that has a part in it, until it is put right. Other workloads are not concerned.
func TestInboundThatCannotBeWritten(t *testing.T) {
	w := bookinfo()
	put := func(path string) {
		p := &mesh.AuthorizationPolicy{Ref: w.ref("AuthorizationPolicy", "default", "odd"), Selector: mesh.Labels{"app": "reviews"}, Action: mesh.AuthorizationDeny,
			Rules: []mesh.AuthorizationRule{{To: []mesh.AuthorizationClause{{{Attribute: mesh.AttributePath, Values: []string{path}}}}}}}
		w.snap.Authorizations = w.snap.Authorizations.Set(mesh.NewKey("default", "odd"), p)
	}
	cache := translate.New()
	look := func() (reviews, details bool, problems string) {
		snap := w.publish()
		there := func(app string) bool {
			return cache.View(snap, sidecar("default", app+"-v1-0", mesh.Labels{"app": app, "version": "v1"})).Sets[resource.ListenerType].At("virtualInbound") != nil
		}
		reviews, details = there("reviews"), there("details")
		var all []string
		for _, p := range cache.Problems() {
			all = append(all, p.Ref.Kind+" "+p.Ref.Name+" "+p.Text)
		}
		return reviews, details, strings.Join(all, "\n")
	}
	put("/a\xff")
	if reviews, details, problems := look(); reviews || !details || !strings.Contains(problems, "AuthorizationPolicy odd ") || !strings.Contains(problems, "Service reviews ") ||
		strings.Contains(problems, "details") || !strings.Contains(problems, "accept nothing") {
		t.Errorf("listeners %v and %v, findings\n%s", reviews, details, problems)
	}
	put("/a")
	if reviews, details, problems := look(); !reviews || !details || problems != "" {
		t.Errorf("listeners %v and %v, findings\n%s", reviews, details, problems)
	}
}
