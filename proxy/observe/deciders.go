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

// Denied are the objects that denied something, by its RESPONSE_CODE_DETAILS.
func (d Deciders) Denied(details string) []Origin {
	policy, ok := strings.CutPrefix(details, "rbac_access_denied_matched_policy[")
	switch {
	case !ok:
		return nil
	case policy == "none]":
		return d[Allowing]
	}
	return d.Policy(policy)
}

// Policy is the object of a policy, by the name of one of its rules: ns[default]-policy[name]-rule[0].
func (d Deciders) Policy(name string) []Origin {
	if i := strings.LastIndex(name, "-rule["); i > 0 {
		return d[name[:i]]
	}
	return nil
}
