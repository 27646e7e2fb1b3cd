package translate

import (
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	sessionv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/stateful_session/v3"
	cookiev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/stateful_session/cookie/v3"
	headerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/stateful_session/header/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/type/http/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/mesh"
)

const (
	sessionFilterName = "envoy.filters.http.stateful_session"

	// Labels of a Service whose clients stay with one endpoint: of the cookie that tells them which, "name" or "name:/path", or of the header.
	labelSessionCookie = "istio.io/persistent-session"
	labelSessionHeader = "istio.io/persistent-session-header"
)

// session is how the clients of a service say with which endpoint they stay; the zero value: they do not.
type session struct{ cookie, path, header string }

// sessionOf reads a service's labels. As in Istio the cookie goes before the header.
func sessionOf(s *mesh.Service) (session, error) {
	if s == nil {
		return session{}, nil
	}
	if v := s.Labels[labelSessionCookie]; v != "" {
		name, path, ok := strings.Cut(v, ":")
		if !ok {
			path = "/"
		}
		if !headerName(strings.ToLower(name)) || !strings.HasPrefix(path, "/") || strings.ContainsFunc(path, func(r rune) bool { return r <= ' ' || r >= 0x7f || r == ';' }) {
			return session{}, fmt.Errorf("label %s: %q is no name of a cookie, or name and path (name:/path): requests stay with no endpoint", labelSessionCookie, clip(v))
		}
		return session{cookie: name, path: path}, nil
	}
	if v := s.Labels[labelSessionHeader]; v != "" {
		if !headerName(strings.ToLower(v)) {
			return session{}, fmt.Errorf("label %s: %q is no name of a header: requests stay with no endpoint", labelSessionHeader, clip(v))
		}
		return session{header: strings.ToLower(v)}, nil
	}
	return session{}, nil
}

// stay makes requests of a route to services stay with one endpoint each, if all of them ask for it in one way: which of several a
// request is for is not known before its session is.
func (k *mint) stay(r *routev3.Route, services ...*mesh.Service) {
	var asked session
	for i, s := range services {
		this, _ := sessionOf(s)
		if this == (session{}) || i > 0 && this != asked {
			return
		}
		asked = this
	}
	if asked == (session{}) {
		return
	}
	state := &corev3.TypedExtensionConfig{}
	if asked.cookie != "" { // without TTL: it ends with the browser's session
		state.Name, state.TypedConfig = "envoy.http.stateful_session.cookie", k.any(&cookiev3.CookieBasedSessionState{Cookie: &httpv3.Cookie{Name: asked.cookie, Path: asked.path}})
	} else {
		state.Name, state.TypedConfig = "envoy.http.stateful_session.header", k.any(&headerv3.HeaderBasedSessionState{Name: asked.header})
	}
	if r.TypedPerFilterConfig == nil {
		r.TypedPerFilterConfig = map[string]*anypb.Any{}
	}
	r.TypedPerFilterConfig[sessionFilterName] = k.any(&sessionv3.StatefulSessionPerRoute{Override: &sessionv3.StatefulSessionPerRoute_StatefulSession{
		StatefulSession: &sessionv3.StatefulSession{SessionState: state}}})
}

// staying are the endpoints that sessions stay with: those that end get no new ones.
func staying() *corev3.HealthStatusSet {
	return &corev3.HealthStatusSet{Statuses: []corev3.HealthStatus{corev3.HealthStatus_UNKNOWN, corev3.HealthStatus_HEALTHY, corev3.HealthStatus_DRAINING, corev3.HealthStatus_DEGRADED}}
}
