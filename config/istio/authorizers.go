package istio

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	meshv1alpha1 "istio.io/api/mesh/v1alpha1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// authorizerTimeout is how long a provider may take that says nothing about it, as in Istio.
const authorizerTimeout = 10 * time.Minute

// maxAuthorizerBody is what proxies keep at most of a body to show it.
const maxAuthorizerBody = 16 << 20

// authorizers are the providers that AuthorizationPolicies ask. Others are told of where they stand.
func (l *lowerer) authorizers(path string, list []*meshv1alpha1.MeshConfig_ExtensionProvider) (out []mesh.Authorizer) {
	for i, p := range list {
		at := document.Index("extensionProviders", i)
		if p.GetName() == "" {
			l.Invalid(path, at+".name is missing", "give each provider a name, which policies ask by")
			continue
		}
		a := mesh.Authorizer{Name: p.GetName()}
		switch {
		case p.GetEnvoyExtAuthzHttp() != nil:
			l.asksHTTP(&a, path, at+".envoyExtAuthzHttp", p.GetEnvoyExtAuthzHttp())
		case p.GetEnvoyExtAuthzGrpc() != nil:
			a.GRPC = true
			l.asks(&a, path, at+".envoyExtAuthzGrpc", p.GetEnvoyExtAuthzGrpc())
		case p.GetPrometheus() != nil: // metrics are always there
			continue
		default:
			l.Add(config.FieldNotEnforced, path+"."+at, "this provider is not called in this version", "providers that are: envoyExtAuthzHttp, envoyExtAuthzGrpc")
			continue
		}
		if slices.ContainsFunc(out, func(b mesh.Authorizer) bool { return b.Name == a.Name }) {
			l.Invalid(path, at+".name: there is another provider "+a.Name, "give each provider a name of its own")
		}
		out = append(out, a)
	}
	return out
}

// authorizerFields are what both kinds have.
type authorizerFields interface {
	GetService() string
	GetPort() uint32
	GetTimeout() *durationpb.Duration
	GetFailOpen() bool
	GetClearRouteCache() bool
	GetStatusOnError() string
	GetIncludeRequestBodyInCheck() *meshv1alpha1.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationRequestBody
}

func (l *lowerer) asks(a *mesh.Authorizer, path, at string, p authorizerFields) {
	a.Timeout = authorizerTimeout
	if t := p.GetTimeout(); t != nil {
		a.Timeout = t.AsDuration()
	}
	if a.Timeout <= 0 {
		l.Invalid(path, at+".timeout is not above 0", "write a duration, as 600s")
	}
	_, host, ok := strings.Cut(p.GetService(), "/") // [Namespace/]Hostname
	if !ok {
		host = p.GetService()
	}
	a.Host = strings.ToLower(host)
	if !strings.Contains(a.Host, ".") {
		l.Invalid(path, fmt.Sprintf("%s.service: %q is not the full name of a service", at, p.GetService()), "write NAME.NAMESPACE.svc.cluster.local, or the host of a ServiceEntry")
	}
	if p.GetPort() == 0 || p.GetPort() > 65535 {
		l.Invalid(path, fmt.Sprintf("%s.port: %d is no port", at, p.GetPort()), "write the port of the service, 1 to 65535")
	}
	a.Port, a.FailOpen, a.ClearRoute = uint16(p.GetPort()), p.GetFailOpen(), p.GetClearRouteCache()
	if s := p.GetStatusOnError(); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || !xdsStatus(n) {
			l.Invalid(path, fmt.Sprintf("%s.statusOnError: %q is no HTTP status that xDS has", at, s), `write a number as "403" or "503"`)
		}
		a.Status = n
	}
	if b := p.GetIncludeRequestBodyInCheck(); b != nil {
		if b.GetMaxRequestBytes() == 0 || b.GetMaxRequestBytes() > maxAuthorizerBody {
			l.Invalid(path, fmt.Sprintf("%s.includeRequestBodyInCheck.maxRequestBytes: %d, proxies keep 1 to %d bytes", at, b.GetMaxRequestBytes(), maxAuthorizerBody), "write how much of a body the service needs to see")
		}
		a.Body = &mesh.AuthorizerBody{Max: b.GetMaxRequestBytes(), Partial: b.GetAllowPartialMessage(), Bytes: b.GetPackAsBytes()}
	}
}

// xdsStatus reports whether a status is one of envoy.type.v3.StatusCode, and final.
func xdsStatus(n int) bool {
	switch {
	case n >= 200 && n <= 208, n == 226, n >= 300 && n <= 305, n == 307, n == 308, n >= 400 && n <= 417, n >= 421 && n <= 424,
		n == 426, n == 428, n == 429, n == 431, n >= 500 && n <= 508, n == 510, n == 511:
		return true
	}
	return false
}

func (l *lowerer) asksHTTP(a *mesh.Authorizer, path, at string, p *meshv1alpha1.MeshConfig_ExtensionProvider_EnvoyExternalAuthorizationHttpProvider) {
	l.asks(a, path, at, p)
	if a.PathPrefix = p.GetPathPrefix(); a.PathPrefix != "" && (!strings.HasPrefix(a.PathPrefix, "/") || strings.ContainsAny(a.PathPrefix, " \r\n\x00?#")) {
		l.Invalid(path, fmt.Sprintf("%s.pathPrefix: %q is not the beginning of a path", at, a.PathPrefix), "write a path that begins with /")
	}
	a.Show = slices.Concat(p.GetIncludeRequestHeadersInCheck(), p.GetIncludeHeadersInCheck()) //nolint:staticcheck // which Istio still takes
	a.ToUpstream, a.ToClient, a.ToClientOnAllow = p.GetHeadersToUpstreamOnAllow(), p.GetHeadersToDownstreamOnDeny(), p.GetHeadersToDownstreamOnAllow()
	for name, list := range map[string][]string{"includeRequestHeadersInCheck": a.Show, "headersToUpstreamOnAllow": a.ToUpstream, "headersToDownstreamOnDeny": a.ToClient, "headersToDownstreamOnAllow": a.ToClientOnAllow} {
		for _, h := range list {
			if h == "" || h == "*" || strings.Contains(strings.TrimSuffix(strings.TrimPrefix(h, "*"), "*"), "*") || strings.HasPrefix(h, "*") && strings.HasSuffix(h, "*") {
				l.Invalid(path, fmt.Sprintf("%s.%s: %q", at, name, h), "write the name of a header, or its beginning or end with one *")
			}
		}
	}
	for _, name := range sortedKeys(p.GetIncludeAdditionalHeadersInCheck()) {
		value := p.GetIncludeAdditionalHeadersInCheck()[name]
		if strings.ContainsAny(name+value, "\r\n\x00%") || name == "" {
			l.Invalid(path, fmt.Sprintf("%s.includeAdditionalHeadersInCheck: %q: %q", at, name, value), "write names and values without line breaks and variables")
		}
		a.Add = append(a.Add, [2]string{strings.ToLower(name), value})
	}
	slices.SortFunc(a.Add, func(x, y [2]string) int { return cmp.Compare(x[0], y[0]) })
}
