package control

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/ca/token"
)

// A token for a machine is minted for who may write, and is what the certificate authority accepts; what it cannot be for is
// said.
func TestMintingTokens(t *testing.T) {
	p := start(t, t.TempDir())
	const auth = "Authorization: Bearer secret"
	status, text := p.call(t, http.MethodPost, "/api/v1/identity/token", `{"namespace": "shop", "serviceAccount": "db", "workload": "db-0", "ttl": "30m"}`, auth)
	var got apiv1.Token
	if err := json.Unmarshal([]byte(text), &got); status != http.StatusOK || err != nil {
		t.Fatalf("%d %s %v", status, text, err)
	}
	c, err := p.tokens.Verify(got.Token, token.Audience, time.Now())
	if err != nil || c.ID.String() != "spiffe://cluster.local/ns/shop/sa/db" || c.Workload != "db-0" || c.Once == "" || c.Once != got.ID || !c.Expires.Equal(got.Expires) || got.Identity != c.ID.String() {
		t.Errorf("%+v of %+v, %v", c, got, err)
	}
	for _, bad := range []struct {
		body, auth string
		status     int
		says       string
	}{
		{`{"serviceAccount": "db"}`, "Authorization: Bearer secre", http.StatusForbidden, "the token is not the one in the state folder"},
		{`{"serviceAccount": "db"}`, "Authorization: none", http.StatusUnauthorized, "the token of the state folder"},
		{`{"namespace": "shop"}`, auth, http.StatusBadRequest, "name the service account"},
		{`{"serviceAccount": "db/../ca"}`, auth, http.StatusBadRequest, "service account"},
		{`{"serviceAccount": "db", "ttl": "200h"}`, auth, http.StatusBadRequest, "168h"},
		{`{"serviceAccount": "db", "ttl": "-1h"}`, auth, http.StatusBadRequest, "no time"},
		{`{"serviceAccount": "db", "trustDomain": "other"}`, auth, http.StatusBadRequest, "trustDomain"},
		{`[`, auth, http.StatusBadRequest, "reading what token"},
	} {
		if status, text := p.call(t, http.MethodPost, "/api/v1/identity/token", bad.body, bad.auth); status != bad.status || !strings.Contains(text, bad.says) {
			t.Errorf("%s: %d %s", bad.body, status, text)
		}
	}
}
