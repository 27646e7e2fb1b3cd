package access

import (
	"bytes"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"

	"github.com/weirmesh/weir/proxy/conn"
	rbacfilter "github.com/weirmesh/weir/proxy/filter/rbac"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/rbac"
	"github.com/weirmesh/weir/proxy/state"
	"github.com/weirmesh/weir/proxy/tls"
)

type facts = *rbac.Facts

// truth is what is known of a condition. The order matters: the conjunction is the least.
type truth uint8

const (
	no truth = iota
	maybe
	yes
)

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

// finding is what is known of rules: whether one of them matches, and which.
type finding struct {
	truth  truth
	policy string   // the first that does, or may
	needs  []string // of maybe
}

// read makes the facts of a call: those of a request for each way to read its path.
func (e *evaluation) read(m *hcmv3.HttpConnectionManager) error {
	c := &e.call
	base := rbac.Facts{Conn: &conn.Info{Remote: netip.AddrPortFrom(c.From, 0), Local: c.To}}
	if c.SNI != nil {
		base.Conn.ServerName = *c.SNI
	}
	if c.ID != "" {
		base.Conn.TLS = &tls.Peer{Presented: true, URI: c.ID}
	}
	if s := c.Shown; s != nil {
		base.Conn.TLS = &tls.Peer{Presented: true, Subject: s.Subject.String(), DNS: s.DNSNames}
		if len(s.URIs) > 0 {
			base.Conn.TLS.URI = s.URIs[0].String()
		}
	}
	if c.Method == "" {
		e.facts = []facts{&base}
		return nil
	}
	o, err := state.PathOptions(m, "")
	if err != nil {
		return err
	}
	arena := &message.Arena{}
	path, ok := message.CanonicalPath([]byte(c.Path), o, arena)
	if !ok || o.Slashes == message.RefuseSlashes && message.HasEscapedSlash(path) {
		return fmt.Errorf("the path %q is refused by every proxy", c.Path)
	}
	q := &message.Request{Path: bytes.Clone(path), Authority: []byte(c.Host), Scheme: []byte("http"), Claims: e.claims}
	q.SetMethod([]byte(c.Method))
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		if v := c.Headers[name]; v != "" {
			q.Headers.SetName([]byte(name), []byte(v))
		}
	}
	base.Request = q
	e.facts = []facts{&base}
	other, ok := message.CanonicalPath(q.Path, rbacfilter.Loosest, arena)
	if !ok {
		return fmt.Errorf("the path %q is refused wherever there are policies", c.Path)
	}
	if !bytes.Equal(other, q.Path) {
		second := base
		second.Path = bytes.Clone(other)
		e.facts = append(e.facts, &second)
	}
	if bare, has := message.WithoutParameters(q.Path, arena); has {
		if bare, ok = message.CanonicalPath(bare, rbacfilter.Loosest, arena); !ok {
			return fmt.Errorf("the path %q is refused wherever there are policies", c.Path)
		}
		third := base
		third.Path = bytes.Clone(bare)
		e.facts = append(e.facts, &third)
	}
	return nil
}

// rules are one filter: what it enforces, and what it only watches.
func (e *evaluation) rules(enforced, shadow *rbacv3.RBAC, prefix string) error {
	if shadow != nil {
		f, err := e.decide(shadow)
		if err != nil {
			return err
		}
		e.watch(shadow, f)
	}
	if enforced == nil || e.verdict == Denied {
		return nil
	}
	f, err := e.decide(enforced)
	if err != nil {
		return err
	}
	deny := enforced.GetAction() == rbacv3.RBAC_DENY
	switch {
	case enforced.GetAction() == rbacv3.RBAC_LOG:
		if f.truth != no {
			e.notes = append(e.notes, "audit: "+f.policy+map[truth]string{yes: " logs it", maybe: " may log it"}[f.truth])
		}
	case deny && f.truth == no:
	case f.truth == maybe:
		if e.verdict == Allowed {
			e.verdict, e.why = Unknown, "whether a rule matches depends on what was not given"
			e.name(f.policy)
		}
		for _, n := range f.needs {
			e.need(n)
		}
	case deny:
		e.verdict, e.why = Denied, "a DENY policy matches"
		if strings.HasSuffix(f.policy, "CUSTOM-action") {
			e.why = "a CUSTOM policy matches, and there is nobody to ask"
		}
		e.name(f.policy)
	case f.truth == yes:
		if e.verdict == Allowed {
			e.why = "an ALLOW policy matches"
			e.name(f.policy)
		}
	default:
		e.verdict, e.why, e.policy, e.rule = Denied, "no rule of the ALLOW policies "+policies(enforced)+" matches", "", nil
	}
	return nil
}

// watch notes what policies would do that enforce nothing.
func (e *evaluation) watch(shadow *rbacv3.RBAC, f finding) {
	deny := shadow.GetAction() == rbacv3.RBAC_DENY
	switch {
	case f.truth == maybe:
		e.notes = append(e.notes, "dry run: whether "+f.policy+" would match is unknown: "+strings.Join(f.needs, ", "))
	case deny && f.truth == yes:
		e.notes = append(e.notes, "dry run: "+f.policy+" would deny it")
	case !deny && f.truth == yes:
		e.notes = append(e.notes, "dry run: "+f.policy+" would allow it")
	case !deny:
		e.notes = append(e.notes, "dry run: no rule of "+policies(shadow)+" would allow it")
	}
}

// policies are the names of those that rules are made of.
func policies(r *rbacv3.RBAC) string {
	var out []string
	for name := range r.GetPolicies() {
		var e evaluation
		if e.name(name); e.policy != "" {
			name = e.policy
		}
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	if len(out) == 0 {
		return "for this workload" // none of their rules is for this port
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}

// decide finds the first policy that matches. What must be allowed must be so in each reading, and one suffices to
// be denied.
func (e *evaluation) decide(r *rbacv3.RBAC) (finding, error) {
	var out finding
	for i, f := range e.facts {
		got, err := e.match(r, f)
		if err != nil {
			return got, err
		}
		better := got.truth > out.truth // of a DENY: one reading suffices
		if r.GetAction() == rbacv3.RBAC_ALLOW {
			better = got.truth < out.truth
		}
		if i == 0 || better {
			out = got
		}
	}
	return out, nil
}

func (e *evaluation) match(r *rbacv3.RBAC, f facts) (finding, error) {
	out := finding{truth: no}
	for _, name := range slices.Sorted(maps.Keys(r.GetPolicies())) {
		p := r.GetPolicies()[name]
		w := &walk{e: e, f: f}
		got := min(w.any(len(p.GetPermissions()), func(i int) truth { return w.permission(p.GetPermissions()[i]) }),
			w.any(len(p.GetPrincipals()), func(i int) truth { return w.principal(p.GetPrincipals()[i]) }))
		if w.err != nil {
			return out, fmt.Errorf("%s: %w", name, w.err)
		}
		switch got {
		case yes:
			return finding{truth: yes, policy: name}, nil
		case no:
		case maybe:
			if out.truth == no {
				out.policy = name
			}
			out.truth = maybe
			for _, n := range w.needs {
				if !slices.Contains(out.needs, n) {
					out.needs = append(out.needs, n)
				}
			}
		}
	}
	return out, nil
}

// walk evaluates the conditions of one policy (Kleene's logic); single conditions are the proxy's own.
type walk struct {
	e     *evaluation
	f     facts
	needs []string // what decides those that are not known
	err   error
}

func (w *walk) all(n int, one func(int) truth) truth {
	out, mark := yes, len(w.needs)
	for i := range n {
		if out = min(out, one(i)); out == no {
			w.needs = w.needs[:mark] // whatever they are
			break
		}
	}
	return out
}

func (w *walk) any(n int, one func(int) truth) truth {
	out, mark := no, len(w.needs)
	for i := range n {
		if out = max(out, one(i)); out == yes {
			w.needs = w.needs[:mark]
			break
		}
	}
	return out
}

func (w *walk) permission(m *rbacv3.Permission) truth {
	switch p := m.GetRule().(type) {
	case *rbacv3.Permission_AndRules:
		return w.all(len(p.AndRules.GetRules()), func(i int) truth { return w.permission(p.AndRules.GetRules()[i]) })
	case *rbacv3.Permission_OrRules:
		return w.any(len(p.OrRules.GetRules()), func(i int) truth { return w.permission(p.OrRules.GetRules()[i]) })
	case *rbacv3.Permission_NotRule:
		return yes - w.permission(p.NotRule)
	case *rbacv3.Permission_Header:
		return w.leaf(w.e.header(p.Header.GetName()), m, anyone)
	case *rbacv3.Permission_Metadata:
		return w.leaf(w.e.token(), m, anyone)
	case *rbacv3.Permission_RequestedServerName:
		return w.leaf(w.e.unless(w.e.call.SNI != nil, "connection.sni"), m, anyone)
	}
	return w.leaf("", m, anyone)
}

func (w *walk) principal(m *rbacv3.Principal) truth {
	switch p := m.GetIdentifier().(type) {
	case *rbacv3.Principal_AndIds:
		return w.all(len(p.AndIds.GetIds()), func(i int) truth { return w.principal(p.AndIds.GetIds()[i]) })
	case *rbacv3.Principal_OrIds:
		return w.any(len(p.OrIds.GetIds()), func(i int) truth { return w.principal(p.OrIds.GetIds()[i]) })
	case *rbacv3.Principal_NotId:
		return yes - w.principal(p.NotId)
	case *rbacv3.Principal_Authenticated_, *rbacv3.Principal_FilterState:
		return w.leaf(w.e.unless(!w.e.call.Unshown, "the client's certificate"), anything, m)
	case *rbacv3.Principal_Header:
		return w.leaf(w.e.header(p.Header.GetName()), anything, m)
	case *rbacv3.Principal_Metadata:
		return w.leaf(w.e.token(), anything, m)
	case *rbacv3.Principal_SourceIp, *rbacv3.Principal_DirectRemoteIp:
		return w.leaf(w.e.unless(w.e.call.From.IsValid(), "source.ip"), anything, m)
	case *rbacv3.Principal_RemoteIp:
		return w.leaf(w.e.unless(w.e.call.From.IsValid() && w.e.call.Headers["x-forwarded-for"] == "", "remote.ip"), anything, m)
	}
	return w.leaf("", anything, m)
}

var (
	anything = &rbacv3.Permission{Rule: &rbacv3.Permission_Any{Any: true}}
	anyone   = &rbacv3.Principal{Identifier: &rbacv3.Principal_Any{Any: true}}
)

// leaf is one condition, beside one that always holds. missing is what it depends on that is not known.
func (w *walk) leaf(missing string, what *rbacv3.Permission, from *rbacv3.Principal) truth {
	if w.err != nil {
		return no
	}
	r, err := state.CompileRBAC(&rbacv3.RBAC{Policies: map[string]*rbacv3.Policy{"": {Permissions: []*rbacv3.Permission{what}, Principals: []*rbacv3.Principal{from}}}}, "rules")
	if err != nil {
		w.err = err
		return no
	}
	if missing == "" {
		return truthOf(r.Decide(w.f).Allowed)
	}
	w.needs = append(w.needs, missing)
	return maybe
}

func (e *evaluation) unless(known bool, what string) string {
	if known {
		return ""
	}
	return what
}

// header is what a condition about a header needs. Of connections none is true, whatever there is.
func (e *evaluation) header(name string) string {
	if _, given := e.call.Headers[name]; given || strings.HasPrefix(name, ":") || e.call.Method == "" {
		return ""
	}
	return "request.headers[" + name + "]"
}

// token is what a condition about a token needs.
func (e *evaluation) token() string {
	return e.unless(!e.unsaid || e.call.Method == "", "token")
}
