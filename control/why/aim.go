package why

import (
	"slices"
	"strings"

	"github.com/weirmesh/weir/api/causes"
	observev1 "github.com/weirmesh/weir/api/observe/v1"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/control/field"
)

// aim narrows a field that decided to the part of it that a failure is about, by what the proxies said of that; "": the failure is
// about nothing that stands there, and who looks there loses his time.
func aim(what found, path string, r *observev1.Record, v *document.Value) string {
	c := what.cause
	switch {
	case path == "" || v == nil:
		return path
	case what.part != "" && field.In(v, what.part) != nil:
		return path + "." + what.part
	case strings.HasSuffix(path, ".tls") && c == causes.DownstreamTLSFailed: // of a Gateway
		if unshown.in(r.GetDetails()) {
			return join(path, v, "mode")
		}
	case strings.HasSuffix(path, ".tls"):
		return ofTLS(c, path, lastFailure(r), v)
	case strings.HasPrefix(path, "jwtRules["):
		switch c {
		case causes.TokenKeysUnavailable, causes.TokenKeyUnknown:
			return join(path, v, "jwksUri", "jwks", "issuer")
		case causes.TokenRefused:
			if strings.Contains(r.GetDetails(), "Audiences") {
				return join(path, v, "audiences")
			}
		}
	}
	return path
}

// ofTLS is aim for how a DestinationRule has connections secured.
func ofTLS(c causes.Cause, path, failure string, tls *document.Value) string {
	switch c {
	case causes.UpstreamNotTLS:
		return join(path, tls, "mode")
	case causes.UpstreamTLSFailed:
		if strings.Contains(failure, "closed the connection during the TLS handshake") {
			return join(path, tls, "mode")
		}
		return ""
	case causes.UpstreamCertificateRefused:
		switch {
		case outOfTime.in(failure):
			return ""
		case unvouched.in(failure):
			return join(path, tls, "caCertificates", "credentialName")
		case misnamed.in(failure):
			return part(path, tls, "subjectAltNames", "sni")
		}
	case causes.UpstreamTLSRefused, causes.UpstreamTLSEnded:
		switch {
		case strings.Contains(failure, "got none"), unshown.in(failure):
			return join(path, tls, "mode")
		case outOfTime.in(failure), unvouched.in(failure), misliked.in(failure):
			return part(path, tls, "clientCertificate", "credentialName")
		case strings.Contains(failure, `"unrecognized name"`):
			return join(path, tls, "sni")
		}
		return "" // what it does not like there it does not say, or nobody can set
	}
	return path
}

// join is the first of some parts that there is, or all of it.
func join(path string, v *document.Value, names ...string) string {
	if p := part(path, v, names...); p != "" {
		return p
	}
	return path
}

// part is the first of some parts that there is, "": there is none.
func part(path string, v *document.Value, names ...string) string {
	if i := slices.IndexFunc(names, func(n string) bool { return v.Get(n) != nil }); i >= 0 {
		return path + "." + names[i]
	}
	return ""
}

// words are those that only texts about something have.
type words []string

func (w words) in(text string) bool {
	return slices.ContainsFunc(w, func(x string) bool { return strings.Contains(text, x) })
}

// What proxies say of certificates that are not accepted (identity, proxy/tls), of their own side or the other; TestAim holds it against
// what they say today.
var (
	outOfTime = words{"is out of time", "certificate expired", "has expired", "becomes valid in", "is not valid before", `"expired certificate"`}
	unvouched = words{"is not vouched for", "vouches for its issuer", `"unknown certificate authority"`}
	misnamed  = words{"none of the names in the", "it is somebody else's"}
	misliked  = words{`"bad certificate"`, `"unknown certificate"`, `"access denied"`, `"unsupported certificate"`, `"revoked certificate"`} // alerts that say no more
	unshown   = words{"showed no certificate", "it sent no certificate", `"certificate required"`}
)

// lastFailure is what TLS or the kernel said of the last attempt.
func lastFailure(r *observev1.Record) string {
	if t := r.GetTries(); len(t) > 0 {
		return t[len(t)-1].GetFailure()
	}
	return ""
}

// clusterOf is the cluster that was chosen.
func clusterOf(r *observev1.Record) string {
	for _, d := range r.GetDecisions() {
		if d.GetStage() == "cluster" {
			return d.GetPart()
		}
	}
	return ""
}
