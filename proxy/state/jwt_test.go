package state

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirmesh/weir/proxy/filter/jwtauthn"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/xds/resource"
)

func withRemote(text string) string {
	return fmt.Sprintf(inboundManager, "", httpFilterText("jwt", `[type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication] {
		providers { key: "p" value { issuer: "i" remote_jwks { `+text+` } } } rules { match { prefix: "/" } requires { provider_name: "p" } } }`, ""))
}

// What remote_jwks says is what is done; what cannot be is refused by its path.
func TestRemoteKeys(t *testing.T) {
	uri := `http_uri { uri: "https://issuer.example:8443/keys?x=1" cluster: "idp" timeout { seconds: 3 } }`
	base := jwtauthn.Remote{Scheme: "https", Authority: "issuer.example:8443", Path: "/keys?x=1", Timeout: 3 * time.Second, Fresh: 10 * time.Minute, Base: time.Second, Max: 10 * time.Second}
	change := func(f func(r *jwtauthn.Remote)) *jwtauthn.Remote { r := base; f(&r); return &r }
	for _, c := range []struct {
		text string
		want *jwtauthn.Remote
		err  string
	}{
		{uri, &base, ""},
		{uri + `cache_duration { seconds: 300 } async_fetch { fast_listener: true failed_refetch_duration { seconds: 7 } }`,
			change(func(r *jwtauthn.Remote) { r.Fresh, r.Again = 5*time.Minute, 7*time.Second }), ""},
		{uri + `retry_policy {}`, change(func(r *jwtauthn.Remote) { r.Retries = 1 }), ""},
		{uri + `retry_policy { num_retries { value: 10 } retry_back_off { base_interval { nanos: 10000000 } max_interval { seconds: 20 } } }`,
			change(func(r *jwtauthn.Remote) { r.Retries, r.Base, r.Max = 10, 10*time.Millisecond, 20*time.Second }), ""},
		{`http_uri { uri: "https://a" cluster: "idp" timeout {} }`, change(func(r *jwtauthn.Remote) { r.Authority, r.Path, r.Timeout = "a", "/", 5*time.Second }), ""},
		{`http_uri { uri: "https://a/b" timeout {} }`, nil, "providers[p].remote_jwks.http_uri.cluster: is empty"},
		{`http_uri { uri: "issuer.example/keys" cluster: "idp" timeout {} }`, nil, `remote_jwks.http_uri.uri: "issuer.example/keys" is no address of HTTP`},
		{`http_uri { uri: "https://u:p@a/keys" cluster: "idp" timeout {} }`, nil, `remote_jwks.http_uri.uri: has a user in it`},
		{uri + `retry_policy { retry_back_off { base_interval { seconds: 2 } max_interval { seconds: 1 } } }`, nil, "max_interval: is less than base_interval"},
		{uri + `retry_policy { host_selection_retry_max_attempts: 1 }`, nil, "retry_policy.host_selection_retry_max_attempts: field is not supported"},
	} {
		b := newBuilder()
		s, _, err := b.Apply(update(t, resource.ListenerType, withRemote(c.text)))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v; want %s", c.text, err, c.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		want := *c.want
		want.Cluster = b.clusterID("idp")
		if got := s.listeners["l"].keys; len(got) != 1 || got[0] != b.opts.Keys.Remote(want) {
			t.Errorf("%s: not %+v", c.text, want)
		}
		if asks := s.listeners["l"].Config.Chains[0].Filters.(*http.Config).Asks; len(asks) != 1 || asks[0] != want.Cluster {
			t.Errorf("%s: asks %v", c.text, asks)
		}
	}
}

// Keys are fetched for what is in force: not for what was refused, and not any more for what is gone.
func TestRemoteKeysInForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		o := Options{Keys: jwtauthn.NewSets(nil, func(context.Context, *jwtauthn.Remote) (string, error) { asked.Add(1); return "", context.Canceled })}
		b := NewBuilder(o)
		defer o.Keys.Close()
		const uri = `http_uri { uri: "https://a/keys" cluster: "idp" timeout { seconds: 1 } } async_fetch { failed_refetch_duration { seconds: 1 } }`
		good := update(t, resource.ListenerType, withRemote(uri))
		bad := update(t, resource.ListenerType, withRemote(uri), `name: "m" transparent { value: true } udp_listener_config {}`)
		if _, _, err := b.Apply(bad); err == nil {
			t.Fatal("taken")
		}
		time.Sleep(time.Minute)
		if asked.Load() != 0 {
			t.Errorf("asked %d times for what was refused", asked.Load())
		}
		apply(t, b, good)
		time.Sleep(10*time.Second + time.Millisecond)
		if asked.Load() != 11 {
			t.Errorf("asked %d times in 10 s", asked.Load())
		}
		apply(t, b, Update{TypeURL: resource.ListenerType, Removed: []string{"l"}})
		time.Sleep(time.Minute)
		if asked.Load() != 11 {
			t.Errorf("asked %d times in all", asked.Load())
		}
	})
}
