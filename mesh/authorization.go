package mesh

import "cmp"

// AuthorizationPolicy says who may do what with workloads: those Selector picks, or the
// whole namespace; of the root namespace those of every namespace.
type AuthorizationPolicy struct {
	Ref Ref
	// Legacy policies were made of the object Ref, of Istio before 1.5 (config/legacy). They hold in their own
	// namespace, if that is the root, too; what they allow must be allowed by the others beside them.
	Legacy          bool
	Namespace, Name string // if they are not Ref's

	Selector Labels // nil: all workloads
	Action   AuthorizationAction
	Provider string // of Custom: the name of an Authorizer
	// DryRun policies are watched and enforce nothing (annotation istio.io/dry-run).
	DryRun bool
	Rules  []AuthorizationRule // of which one has to match; none: nothing matches
}

// Home is the namespace the policy is in.
func (p *AuthorizationPolicy) Home() string { return cmp.Or(p.Namespace, p.Ref.Namespace) }

// Title is its name in that namespace.
func (p *AuthorizationPolicy) Title() string { return cmp.Or(p.Name, p.Ref.Name) }

// AuthorizationAction is what a policy does with what its rules match.
type AuthorizationAction uint8

// Actions of AuthorizationPolicy. What one Deny or Custom policy matches is denied; of the rest, if
// there is an Allow policy, what none of those matches. Audit changes nothing.
const (
	AuthorizationAllow AuthorizationAction = iota
	AuthorizationDeny
	AuthorizationAudit
	AuthorizationCustom // asks somebody outside
)

// AuthorizationRule matches what comes from one of From, does one of To and fulfils all of
// When. An empty list asks for nothing.
type AuthorizationRule struct {
	From, To []AuthorizationClause
	When     AuthorizationClause
}

// AuthorizationClause holds if all its conditions do.
type AuthorizationClause []AuthorizationCondition

// AuthorizationCondition asks an attribute for one of Values, if there are any, and for
// none of NotValues. A value is exact, "prefix*", "*suffix" or "*" for any that is not empty; of
// addresses, ports and path templates what those are written as.
type AuthorizationCondition struct {
	Attribute string // as in rules[].when[].key, or one of those below
	Values    []string
	NotValues []string
}

// Attributes that have no key in rules[].when[].
const (
	AttributeHost   = "host"
	AttributeMethod = "method"
	AttributePath   = "path"
)
