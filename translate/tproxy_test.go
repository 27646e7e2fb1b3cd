package translate_test

import (
	"testing"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	originalsrcv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_src/v3"

	"github.com/weirmesh/weir/capture"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/resource"
)

// The mark of connections that carry a client's address is the one that the rules of
// capture know.
func TestDialMark(t *testing.T) {
	cache := translate.New()
	v := cache.View(&mesh.Snapshot{}, &translate.Node{Type: translate.Sidecar, Namespace: "default", Name: "a", Interception: translate.TProxy})
	r := v.Sets[resource.ListenerType].At("virtualInbound")
	if r == nil {
		t.Fatal("there is no inbound listener")
	}
	for _, f := range decode(t, r).(*listenerv3.Listener).GetListenerFilters() {
		m := &originalsrcv3.OriginalSrc{}
		if f.GetTypedConfig().UnmarshalTo(m) == nil {
			if m.GetMark() != capture.DialMark || m.GetBindPort() {
				t.Errorf("%v, want mark %#x", m, capture.DialMark)
			}
			return
		}
	}
	t.Error("the filter original_src is missing")
}
