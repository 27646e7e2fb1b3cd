package state

import (
	"errors"
	"strings"
	"testing"

	"github.com/weirmesh/weir/xds/resource"
)

// A table whose virtual hosts come by VHDS is whole before it is used, and follows them one by one; what does not fit is
// refused by name, and changes nothing.
func TestVirtualHosts(t *testing.T) {
	const shell = `name: "80" vhds { config_source { ads {} } } request_headers_to_remove: "x-common"
		virtual_hosts { name: "rest" domains: "*" routes { match { prefix: "/" } direct_response { status: 404 } } }`
	host := func(name, domains string) string {
		return `name: "80/` + name + `" domains: ` + domains + ` routes { match { prefix: "/" } route { cluster: "` + name + `" } }`
	}
	b := newBuilder()
	s, _ := apply(t, b, update(t, resource.RouteType, shell))
	if s.Table("80") != nil || !b.WantsVirtualHosts() {
		t.Error("a table is used before its virtual hosts were told")
	}
	serves := func(authority, want string) {
		t.Helper()
		h := b.State().Table("80").Host([]byte(authority))
		if h == nil || h.Name != want {
			t.Errorf("%s is served by %v, want %s", authority, h, want)
		} else if e := h.Entries[0]; e.Host != h || len(e.Headers) != 1 {
			t.Errorf("%s: an entry of %v with operations %v", authority, e.Host, e.Headers)
		}
	}
	apply(t, b, update(t, resource.VirtualHostType, host("a", `"a"`), host("b", `["b", "b:80"]`), `name: "8080/later" domains: "later"`))
	before := b.State().Table("80")
	serves("a", "80/a")
	serves("b:80", "80/b")
	serves("c", "rest")

	apply(t, b, update(t, resource.VirtualHostType, host("a", `"c"`)))
	serves("a", "rest")
	serves("c", "80/a")
	if before.Host([]byte("a")).Name != "80/a" {
		t.Error("a table in use changed")
	}

	u := update(t, resource.VirtualHostType)
	u.Removed = []string{"80/a", "80/unknown", "junk"}
	apply(t, b, u)
	serves("c", "rest")

	for text, want := range map[string]string{
		host("d", `["d", "b"]`):                         `domain "b" is in virtual hosts "80/b" and "80/d"`,
		`name: "80/e"`:                                  "domains: is empty",
		`name: "nameless" domains: "e"`:                 "<route configuration>/<host>",
		`name: "80/f" domains: "f" hedge_policy {}`:     "hedge_policy",
		`name: "80/g" domains: "g" routes { match {} }`: "routes[0]",
	} {
		_, _, err := b.Apply(update(t, resource.VirtualHostType, text))
		refused := &RefusedError{}
		if !errors.As(err, &refused) || len(refused.Refused()) != 1 || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want a refusal with %q", text, err, want)
		}
	}
	serves("b", "80/b")
	serves("d", "rest")

	apply(t, b, update(t, resource.RouteType, `name: "8080" vhds { config_source { ads {} } }`))
	if h := b.State().Table("8080").Host([]byte("later")); h == nil || h.Name != "8080/later" {
		t.Errorf("what came before its table: %v", h)
	}
	apply(t, b, update(t, resource.RouteType, strings.Replace(shell, `vhds { config_source { ads {} } }`, "", 1)))
	serves("b", "rest")

	if _, _, err := b.Apply(update(t, resource.RouteType, `name: "1" vhds { config_source { path: "x" } }`)); err == nil || !strings.Contains(err.Error(), "vhds") {
		t.Errorf("virtual hosts from a file: %v", err)
	}
}
