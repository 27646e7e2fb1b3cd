package control

import (
	"strings"
	"testing"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
)

// Proxies of a version that is too old or too new are one finding, which names some of them.
func TestVersionFindings(t *testing.T) {
	proxy := func(name, version string) apiv1.ProxyStatus {
		return apiv1.ProxyStatus{Proxy: apiv1.Proxy{Name: name}, Version: version}
	}
	all := versionFindings([]apiv1.ProxyStatus{proxy("shop/d", "weir-proxy v1.1.0"), proxy("shop/a", "weir-proxy v1.1.0"), proxy("shop/b", "weir-proxy v1.1.0"), proxy("shop/c", "weir-proxy v1.1.0"),
		proxy("shop/now", "weir-proxy v1.4.0"), proxy("shop/other", "envoy v1.1.0"), proxy("bare", "weir-proxy v1.5.0")}, "v1.4.2")
	var got []string
	for _, f := range all {
		got = append(got, f.String())
	}
	text := strings.Join(got, "\n")
	if len(all) != 2 || all[0].Code != config.ProxyVersion || !strings.Contains(text, "Pod shop/a: its proxy has version v1.1.0") || !strings.Contains(text, "so have 3 others: shop/b, shop/c, …") || !strings.Contains(text, "v1.5.0, which is newer") {
		t.Errorf("%s", text)
	}
}
