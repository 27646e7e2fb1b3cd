package control

import (
	"cmp"
	"encoding/json"
	"net/http"
	"time"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/ca/token"
	"github.com/weirmesh/weir/identity"
)

const (
	tokenTTL    = time.Hour
	maxTokenTTL = 7 * 24 * time.Hour // to carry one to a machine that is set up next week
)

// handleToken is POST /api/v1/identity/token: a token by which a machine gets its first certificate.
func (p *Plane) handleToken(w http.ResponseWriter, r *http.Request) {
	if p.o.Cluster != nil {
		fail(w, http.StatusForbidden, "in a cluster the replicas of the control plane have no key for tokens in common", "a machine gets a token of its service account, which Kubernetes makes: `weir identity token` asks for it; pods have tokens of their own")
		return
	}
	var q apiv1.TokenRequest
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 16<<10))
	d.DisallowUnknownFields()
	if err := d.Decode(&q); err != nil {
		fail(w, http.StatusBadRequest, "reading what token is asked for: "+err.Error(), "")
		return
	}
	ttl, err := time.ParseDuration(cmp.Or(q.TTL, tokenTTL.String()))
	if err != nil || ttl <= 0 || ttl > maxTokenTTL {
		fail(w, http.StatusBadRequest, "ttl "+quote(q.TTL)+" is no time up to "+maxTokenTTL.String(), "for example 1h")
		return
	}
	id, err := identity.New(p.o.TrustDomain, cmp.Or(q.Namespace, p.o.Namespace), q.ServiceAccount)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error(), "name the service account whose identity the machine gets")
		return
	}
	c := token.Claims{ID: id, Workload: q.Workload, Audience: cmp.Or(q.Audience, token.Audience), Expires: time.Now().Add(ttl).Truncate(time.Second)}
	if c.Once, err = token.NewOnce(); err != nil {
		fail(w, http.StatusInternalServerError, err.Error(), "")
		return
	}
	text, err := p.tokens.Mint(c)
	if err != nil {
		fail(w, http.StatusBadRequest, err.Error(), "")
		return
	}
	p.o.Log.Info("token minted", "id", id, "workload", c.Workload, "audience", c.Audience, "valid_until", c.Expires, "token", c.Once)
	answer(w, http.StatusOK, apiv1.Token{Identity: id.String(), Workload: c.Workload, Audience: c.Audience, Expires: c.Expires.UTC(), ID: c.Once, Token: text.Reveal()})
}
