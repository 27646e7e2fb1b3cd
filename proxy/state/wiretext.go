package state

import (
	"cmp"
	"fmt"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/weirmesh/weir/proxy/http/message"
)

// Texts of a configuration that get into messages must not end a line or a word there:
// what follows would be a header, or a request, of its own. Envoy refuses CR, LF and NUL
// (well_known_regex HTTP_HEADER_NAME and HTTP_HEADER_VALUE, not strict); in paths a space
// ends the word.

// oneLine checks a header's value.
func oneLine(path, s string) error {
	if i := strings.IndexAny(s, "\r\n\x00"); i >= 0 {
		return fmt.Errorf("%s: %q has a control character", path, s)
	}
	return nil
}

// oneWord checks a path, or an authority.
func oneWord(path, s string) error {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] == 0x7f {
			return fmt.Errorf("%s: %q has a space or a control character", path, s)
		}
	}
	return nil
}

// token checks a header's name.
func token(path, s string) error {
	for i := range len(s) {
		if message.LowerToken(s[i]) == 0 {
			return fmt.Errorf("%s: %q is not a header name", path, s)
		}
	}
	return nil
}

func forwardTexts(a *routev3.RouteAction, path string) error {
	return cmp.Or(
		oneWord(path+".prefix_rewrite", a.GetPrefixRewrite()),
		oneWord(path+".host_rewrite_literal", a.GetHostRewriteLiteral()),
		oneWord(path+".regex_rewrite.substitution", a.GetRegexRewrite().GetSubstitution()))
}

func redirectTexts(d *routev3.RedirectAction, path string) error {
	return cmp.Or(
		oneWord(path+".scheme_redirect", d.GetSchemeRedirect()),
		oneWord(path+".host_redirect", d.GetHostRedirect()),
		oneWord(path+".path_redirect", d.GetPathRedirect()),
		oneWord(path+".prefix_rewrite", d.GetPrefixRewrite()),
		oneWord(path+".regex_rewrite.substitution", d.GetRegexRewrite().GetSubstitution()))
}
