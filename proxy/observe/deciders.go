package observe

import "strings"

// Deciders are the objects by which what is served at one place decides: policies by the names that details have, and several under the
// names below. They are the configuration's, and immutable.
type Deciders map[string][]Origin

// What several objects decide together.
const (
	Allowing    = "allow"  // who may come in
	Identifying = "tokens" // whose tokens are good
	Serving     = "server" // what is served at all
)

// deniedBy is how details begin that name a policy.
const deniedBy = "rbac_access_denied_matched_policy["

// Denied are the objects that denied something, by its RESPONSE_CODE_DETAILS.
func (d Deciders) Denied(details string) []Origin {
	policy, ok := strings.CutPrefix(details, deniedBy)
	switch {
	case !ok:
		return nil
	case policy == "none]":
		return d[Allowing]
	}
	return d.Policy(policy)
}

// mostDecided is how many objects an access log names that decided together.
const mostDecided = 16

// appendDecided appends objects as words joined by commas, a policy with the rule that details name: …@policy.yaml:21#rules[0]; false:
// there are none.
func appendDecided(b []byte, all []Origin, details string) ([]byte, bool) {
	start := len(b)
	for _, o := range all[:min(len(all), mostDecided)] {
		if len(b) > start {
			b = append(b, ',')
		}
		b, _ = o.append(b)
	}
	if _, rule, ok := strings.Cut(details, "-rule["); ok && len(b) > start && strings.HasPrefix(details, deniedBy) {
		if n, _, ok := strings.Cut(rule, "]"); ok {
			b = append(append(append(b, "#rules["...), n...), ']')
		}
	}
	return b, len(b) > start
}

// Policy is the object of a policy, by the name of one of its rules: ns[default]-policy[name]-rule[0].
func (d Deciders) Policy(name string) []Origin {
	if i := strings.LastIndex(name, "-rule["); i > 0 {
		return d[name[:i]]
	}
	return nil
}
