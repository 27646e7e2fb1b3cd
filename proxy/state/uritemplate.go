package state

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	matchtemplatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/match/uri_template/v3"
	rewritetemplatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/path/rewrite/uri_template/v3"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/weirmesh/weir/proxy/route"
)

// pathTemplate is a RouteMatch.path_match_policy as a regular expression of the whole path, with the variables that a rewrite of the path
// may use, in the order of its groups.
type pathTemplate struct {
	expr string
	vars []string
}

// decodePathTemplate reads the one path_match_policy there is: segments, of which "*" is any, "**" any number of them at the
// end, and {name} or {name=segments} what a rewrite may use.
func decodePathTemplate(c *corev3.TypedExtensionConfig, path string) (t pathTemplate, err error) {
	m := &matchtemplatev3.UriTemplateMatchConfig{}
	if err := unpack(c.GetTypedConfig(), m, path); err != nil {
		return t, err
	}
	text := m.GetPathTemplate()
	wrong := func(what string, args ...any) (pathTemplate, error) {
		return t, fmt.Errorf("%s.path_template: %q: %w", path, text, fmt.Errorf(what, args...))
	}
	if text == "" {
		return wrong("does not begin with a slash")
	}
	for rest := text; rest != ""; {
		var ok bool
		if rest, ok = strings.CutPrefix(rest, "/"); !ok {
			return wrong("segments, and variables, are between slashes")
		}
		if inner, is := strings.CutPrefix(rest, "{"); is {
			if inner, rest, ok = strings.Cut(inner, "}"); !ok {
				return wrong("a variable does not end")
			}
			name, pattern, has := strings.Cut(inner, "=")
			if !has {
				pattern = "*"
			}
			if name == "" || slices.Contains(t.vars, name) {
				return wrong("variable %q has no name, or another's", name)
			}
			expr, err := templateSegments(strings.Split(pattern, "/"), rest == "")
			if err != nil {
				return wrong("%w", err)
			}
			t.vars = append(t.vars, name)
			t.expr += "/(" + expr + ")"
			continue
		}
		end := strings.IndexByte(rest, '/')
		if end < 0 {
			end = len(rest)
		}
		expr, err := templateSegments([]string{rest[:end]}, end == len(rest))
		if err != nil {
			return wrong("%w", err)
		}
		t.expr += "/" + expr
		rest = rest[end:]
	}
	return t, nil
}

// templateSegments is the expression of segments, of which the last may be any number of them if it is the path's last.
func templateSegments(segments []string, last bool) (string, error) {
	out := slices.Clone(segments)
	for i, s := range segments {
		switch {
		case s == "**" && last && i == len(segments)-1:
			out[i] = ".*"
		case s == "*":
			out[i] = "[^/]+"
		case strings.ContainsAny(s, "*{}"):
			return "", fmt.Errorf("%q: * and {name} are whole segments, and ** is the last one", s)
		default:
			out[i] = regexp.QuoteMeta(s)
		}
	}
	return strings.Join(out, "/"), nil
}

// decodePathRewrite reads the one path_rewrite_policy there is, for the variables of the route's match.
func decodePathRewrite(f *route.Forward, c *corev3.TypedExtensionConfig, match *corev3.TypedExtensionConfig, path string) error {
	path += ".path_rewrite_policy"
	m := &rewritetemplatev3.UriTemplateRewriteConfig{}
	if err := unpack(c.GetTypedConfig(), m, path); err != nil {
		return err
	}
	if match == nil {
		return fmt.Errorf("%s: needs a path_match_policy in the route's match", path)
	}
	t, err := decodePathTemplate(match, path)
	if err != nil {
		return err
	}
	path += ".path_template_rewrite"
	text := m.GetPathTemplateRewrite()
	if err := oneWord(path, text); err != nil {
		return err
	}
	if !strings.HasPrefix(text, "/") {
		return fmt.Errorf("%s: %q does not begin with a slash", path, text)
	}
	var b strings.Builder
	for rest := text; rest != ""; {
		literal, variable, found := strings.Cut(rest, "{")
		b.WriteString(strings.ReplaceAll(literal, "$", "$$"))
		if !found {
			break
		}
		name, after, ok := strings.Cut(variable, "}")
		i := slices.Index(t.vars, name)
		if !ok || i < 0 {
			return fmt.Errorf("%s: %q: the match has no variable %q", path, text, name)
		}
		fmt.Fprintf(&b, "${%d}", i+1)
		rest = after
	}
	if f.RegexRewrite, err = regexp.Compile("^" + t.expr + "$"); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	f.Substitution = b.String()
	return nil
}
