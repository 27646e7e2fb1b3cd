package control

import (
	"strings"
	"testing"

	apiv1 "github.com/weirmesh/weir/api/v1"
)

// Proxies may be two minor versions behind their control plane, and not before it; of builds that are no release nothing is said.
func TestUnsupported(t *testing.T) {
	for _, tc := range []struct{ proxy, plane, want string }{
		{"v1.4.0", "v1.4.9", ""},
		{"v1.2.7", "v1.4.0", ""},
		{"1.2.7", "v1.4.0-3-gabc", ""},
		{"v1.1.9", "v1.4.0", "more than 2 minor versions older"},
		{"v0.9", "v1.0.0", "more than 2 minor versions older"},
		{"v1.5.0", "v1.4.0", "newer"},
		{"v2.0.0", "v1.4.0", "newer"},
		{"dev", "v1.4.0", ""},
		{"v1.1.0", "4ca1ab1e", ""},
		{"", "v1.4.0", ""},
		{"v1", "v1.4.0", ""},
		{"v1.9999999.0", "v1.4.0", ""},
	} {
		if got := unsupported(tc.proxy, tc.plane); (got == "") != (tc.want == "") || !strings.HasPrefix(got, tc.want) {
			t.Errorf("proxy %s, control plane %s: %q, want %q", tc.proxy, tc.plane, got, tc.want)
		}
	}
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
	if len(all) != 2 || !strings.Contains(text, "Pod shop/a: its proxy has version v1.1.0") || !strings.Contains(text, "so have 3 others: shop/b, shop/c, …") || !strings.Contains(text, "v1.5.0, which is newer") {
		t.Errorf("%s", text)
	}
}
