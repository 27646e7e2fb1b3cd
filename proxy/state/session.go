package state

import (
	"cmp"
	"fmt"
	"strings"

	sessionv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/stateful_session/v3"
	cookiev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/stateful_session/cookie/v3"
	headerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/stateful_session/header/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/filter/session"
	"github.com/weirmesh/weir/proxy/route"
)

const (
	sessionURL         = typePrefix + "envoy.extensions.filters.http.stateful_session.v3.StatefulSession"
	sessionPerRouteURL = typePrefix + "envoy.extensions.filters.http.stateful_session.v3.StatefulSessionPerRoute"
)

func (b *Builder) sessionFilter(l *filterList, config *anypb.Any, at string) error {
	x := &sessionv3.StatefulSession{}
	if err := unpack(config, x, at); err != nil {
		return err
	}
	if l.session != nil {
		return fmt.Errorf("%s: there is a filter for sessions already, and one request is for one endpoint", at)
	}
	s, err := decodeSession(x, at)
	if err == nil {
		l.session = l.at.of(session.Stage(s))
	}
	return err
}

func decodeSessionPerRoute(config *anypb.Any, at string) (*route.Session, error) {
	x := &sessionv3.StatefulSessionPerRoute{}
	if err := unpack(config, x, at); err != nil {
		return nil, err
	}
	return decodeSession(x.GetStatefulSession(), at+".stateful_session") // disabled: none
}

// decodeSession reads how requests say which endpoint they are for; without session_state they do not.
func decodeSession(x *sessionv3.StatefulSession, path string) (*route.Session, error) {
	s := &route.Session{Strict: x.GetStrict(), Missing: cmp.Or(int(x.GetStatusOnStrictDestinationNotFound()), 503)}
	if s.Missing < 200 || s.Missing > 599 {
		return nil, fmt.Errorf("%s.status_on_strict_destination_not_found: %d is not a final HTTP status", path, s.Missing)
	}
	if x.GetSessionState() == nil {
		return s, nil
	}
	a, path := x.GetSessionState().GetTypedConfig(), path+".session_state"
	switch {
	case a.MessageIs((*cookiev3.CookieBasedSessionState)(nil)):
		m := &cookiev3.CookieBasedSessionState{}
		if err := unpack(a, m, path); err != nil {
			return nil, err
		}
		c := m.GetCookie()
		if c.GetName() == "" {
			return nil, fmt.Errorf("%s.cookie.name: is empty", path)
		}
		var attributes [][2]string
		for _, a := range c.GetAttributes() {
			attributes = append(attributes, [2]string{a.GetName(), a.GetValue()})
		}
		s.Cookie, s.TTL = c.GetName(), c.GetTtl().AsDuration()
		s.SetCookie = cluster.CookieSuffix(c.GetPath(), s.TTL, attributes)
		if s.Path = c.GetPath(); s.Path == "/" {
			s.Path = ""
		}
		if strings.ContainsFunc(s.Cookie+s.SetCookie, func(r rune) bool { return r < ' ' || r == 0x7f }) {
			return nil, fmt.Errorf("%s.cookie: has a control character", path)
		}
	case a.MessageIs((*headerv3.HeaderBasedSessionState)(nil)):
		m := &headerv3.HeaderBasedSessionState{}
		if err := unpack(a, m, path); err != nil {
			return nil, err
		}
		var err error
		if s.Header, err = headerName(m.GetName(), path+".name"); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("%s: %s is not supported; say a cookie or a header", path, a.GetTypeUrl())
	}
	return s, nil
}
