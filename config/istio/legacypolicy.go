package istio

import (
	"fmt"
	"strings"

	securityv1beta1 "istio.io/api/security/v1beta1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/config/legacy"
	"github.com/weirmesh/weir/mesh"
)

// Policy and MeshPolicy of authentication.istio.io/v1alpha1.
type (
	policySpec struct {
		Targets          []targetSpec `json:"targets"`
		Peers            []peerSpec   `json:"peers"`
		PeerIsOptional   bool         `json:"peerIsOptional"`
		Origins          []originSpec `json:"origins"`
		OriginIsOptional bool         `json:"originIsOptional"`
		PrincipalBinding string       `json:"principalBinding"`
	}
	targetSpec struct {
		Name   string            `json:"name"`
		Labels map[string]string `json:"labels"`
		Ports  []portSpec        `json:"ports"`
	}
	portSpec struct {
		Number uint16 `json:"number"`
		Name   string `json:"name"`
	}
	peerSpec struct {
		MTLS *struct {
			Mode     string `json:"mode"`
			AllowTLS bool   `json:"allowTls"`
		} `json:"mtls"`
		JWT *jwtSpec `json:"jwt"`
	}
	originSpec struct {
		JWT *jwtSpec `json:"jwt"`
	}
	jwtSpec struct {
		Issuer       string        `json:"issuer"`
		Audiences    []string      `json:"audiences"`
		JwksURI      string        `json:"jwksUri"`
		JWKS         string        `json:"jwks"`
		JwtHeaders   []string      `json:"jwtHeaders"`
		JwtParams    []string      `json:"jwtParams"`
		TriggerRules []triggerSpec `json:"triggerRules"`
	}
	triggerSpec struct {
		ExcludedPaths []matchSpec `json:"excludedPaths"`
		IncludedPaths []matchSpec `json:"includedPaths"`
	}
	matchSpec struct {
		Exact  string `json:"exact"`
		Prefix string `json:"prefix"`
		Suffix string `json:"suffix"`
		Regex  string `json:"regex"`
	}
)

func (l *lowerer) policy(spec *policySpec) *legacy.Policy {
	out := &legacy.Policy{Ref: l.o.Ref, Mode: l.peers(spec)}
	switch {
	case l.o.ID.Kind == "MeshPolicy" && l.o.ID.Name != "default":
		l.Invalid("metadata.name", "MeshPolicy has another name than default: Istio has but one", "rename it")
	case l.o.ID.Kind == "MeshPolicy" && len(spec.Targets) > 0:
		l.Invalid("spec.targets", "MeshPolicy is for all services", "remove them, or write a Policy")
	case l.o.ID.Kind == "Policy" && (l.o.ID.Name == "default") != (len(spec.Targets) == 0):
		l.Invalid("spec.targets", "the Policy for a whole namespace, and no other, is named default and has no targets", "rename the Policy, or give or remove targets")
	}
	for i := range spec.Targets {
		t, at := &spec.Targets[i], document.Index("spec.targets", i)
		x := legacy.Target{Service: t.Name, Path: at, Line: l.LineOf(at)}
		switch {
		case t.Name == "":
			l.Invalid(at+".name", "is missing", "write the short name of a Service")
		case strings.Contains(t.Name, "."):
			l.Invalid(at+".name", fmt.Sprintf("%q is not the short name of a Service", t.Name), "write the name without namespace and domain; it is one of the Policy's namespace")
		case len(t.Labels) > 0:
			l.Add(config.FieldNotEnforcedUnsafe, at+".labels", "subsets of a service are not told apart", "write a PeerAuthentication with a selector")
		}
		for j, p := range t.Ports {
			if (p.Number == 0) == (p.Name == "") {
				l.Invalid(document.Index(at+".ports", j), "has not just one of number and name", "name one port of the Service")
			}
			x.Ports = append(x.Ports, legacy.Port{Number: p.Number, Name: p.Name})
		}
		out.Targets = append(out.Targets, x)
	}
	switch spec.PrincipalBinding {
	case "", "USE_PEER", "USE_ORIGIN": // a condition of today says itself whose principal it asks about
	default:
		l.Invalid("spec.principalBinding", fmt.Sprintf("%q is neither USE_PEER nor USE_ORIGIN", spec.PrincipalBinding), "remove it")
	}
	for i, o := range spec.Origins {
		at := document.Index("spec.origins", i) + ".jwt"
		if o.JWT == nil {
			l.Invalid(at, "is missing", "say whose tokens are taken")
			continue
		}
		out.Origins = append(out.Origins, l.origin(at, o.JWT))
	}
	out.Required = len(out.Origins) > 0 && !spec.OriginIsOptional
	return out
}

// peers is what a Policy says of mutual TLS; what leaves it out is for plaintext.
func (l *lowerer) peers(spec *policySpec) mesh.MTLSMode {
	mode := mesh.MTLSDisable
	for i, p := range spec.Peers {
		at := document.Index("spec.peers", i)
		if i > 0 {
			l.Invalid(at, "is a second way to prove who calls", "keep one")
		}
		switch {
		case p.JWT != nil:
			l.Add(config.FieldNotEnforcedUnsafe, at+".jwt", "workloads prove who they are by certificates", "use origins")
		case p.MTLS == nil || p.MTLS.Mode == "" || p.MTLS.Mode == "STRICT":
			mode = mesh.MTLSStrict
		case p.MTLS.Mode == "PERMISSIVE":
			mode = mesh.MTLSPermissive
		default:
			l.Invalid(at+".mtls.mode", fmt.Sprintf("%q is neither STRICT nor PERMISSIVE", p.MTLS.Mode), "correct it")
		}
		if p.MTLS != nil && p.MTLS.AllowTLS {
			l.Add(config.FieldNotEnforced, at+".mtls.allowTls", "TLS without a certificate of the caller is not accepted", "remove it")
		}
	}
	if spec.PeerIsOptional && mode == mesh.MTLSStrict {
		l.Add(config.FieldNotEnforced, "spec.peerIsOptional", "a STRICT port takes nobody without a certificate, as with Istio's proxies", "write mode: PERMISSIVE")
	}
	return mode
}

func (l *lowerer) origin(at string, j *jwtSpec) legacy.Origin {
	r := &securityv1beta1.JWTRule{Issuer: j.Issuer, Audiences: j.Audiences, JwksUri: j.JwksURI, Jwks: j.JWKS, FromParams: j.JwtParams, ForwardOriginalToken: true}
	for _, h := range j.JwtHeaders {
		r.FromHeaders = append(r.FromHeaders, &securityv1beta1.JWTHeader{Name: h})
	}
	if strings.HasPrefix(j.Issuer, "*") || strings.HasSuffix(j.Issuer, "*") {
		l.Invalid(at+".issuer", "has a wildcard", "write the iss claim that the tokens have")
	}
	out := legacy.Origin{Rule: l.jwtRule(at, r)}
	for i, t := range j.TriggerRules {
		at := document.Index(at+".triggerRules", i)
		x := legacy.Trigger{NotPaths: l.paths(at+".excludedPaths", t.ExcludedPaths), Paths: l.paths(at+".includedPaths", t.IncludedPaths)}
		out.Triggers = append(out.Triggers, x)
	}
	return out
}

func (l *lowerer) paths(at string, list []matchSpec) (out []string) {
	for i, m := range list {
		at := document.Index(at, i)
		given := 0
		for _, s := range []string{m.Exact, m.Prefix, m.Suffix, m.Regex} {
			if s != "" {
				given++
			}
			if strings.ContainsAny(s, "*{}") && m.Regex == "" {
				l.Add(config.FieldNotEnforcedUnsafe, at, "wildcards and braces have a meaning in policies of today", "write an AuthorizationPolicy")
			}
		}
		switch {
		case given != 1:
			l.Invalid(at, "has not just one of exact, prefix, suffix and regex", "say how the path is compared")
		case m.Regex != "":
			l.Add(config.FieldNotEnforcedUnsafe, at+".regex", "policies have no regular expressions", "use exact, prefix or suffix")
		case m.Prefix != "":
			out = append(out, m.Prefix+"*")
		case m.Suffix != "":
			out = append(out, "*"+m.Suffix)
		default:
			out = append(out, m.Exact)
		}
	}
	return out
}
