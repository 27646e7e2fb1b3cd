package mesh

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// IsDelegate reports whether v is only there for others to delegate to: it has no hosts.
func (v *VirtualService) IsDelegate() bool { return len(v.Hosts) == 0 }

// Delegates are the VirtualServices that v's rules delegate to.
func (v *VirtualService) Delegates() []Key {
	var out []Key
	for i := range v.HTTP {
		if d := v.HTTP[i].Action.Delegate; d != "" && !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	return out
}

// Undelegated is a rule of a delegate that does not come into force under the rule that
// delegates, because none of its matches is within what that rule matches.
type Undelegated struct {
	Root, Rule int // indexes of HTTP
	To         Key
}

// Delegated is v with the rules of its delegates in the places of the rules that delegate to
// them; find finds a VirtualService, nil if there is none. A rule whose delegate is not there,
// has hosts of its own or is not visible in v's namespace is left out. v itself, if it
// delegates nothing.
//
// Merging follows Istio: a delegate's rule counts with each pair of its matches and the
// root's of which the first is within the second, and what it does not say the root says.
func (v *VirtualService) Delegated(find func(Key) *VirtualService) (*VirtualService, []Undelegated) {
	if len(v.Delegates()) == 0 {
		return v, nil
	}
	out := *v
	out.HTTP = nil
	var lost []Undelegated
	for i := range v.HTTP {
		root := &v.HTTP[i]
		if root.Action.Delegate == "" {
			out.HTTP = append(out.HTTP, *root)
			continue
		}
		d := find(root.Action.Delegate)
		if d == nil || !d.IsDelegate() || !d.Visible.VisibleTo(v.Ref.Namespace) {
			continue
		}
		for j := range d.HTTP {
			if d.HTTP[j].Action.Delegate != "" {
				continue
			}
			rule, ok := under(root, &d.HTTP[j])
			if !ok {
				lost = append(lost, Undelegated{i, j, root.Action.Delegate})
				continue
			}
			rule.From = &d.Ref
			out.HTTP = append(out.HTTP, rule)
		}
	}
	return &out, lost
}

// under is a delegate's rule under the rule that delegates to it.
func under(root, leaf *HTTPRoute) (HTTPRoute, bool) {
	out := *leaf
	out.Name = joined(root.Name, leaf.Name)
	var ok bool
	if out.Matches, ok = within(root.Matches, leaf.Matches); !ok {
		return out, false
	}
	if out.Timeout == 0 {
		out.Timeout = root.Timeout
	}
	if out.Retries == nil {
		out.Retries = root.Retries
	}
	if out.Fault == nil {
		out.Fault = root.Fault
	}
	if out.Rewrite == nil {
		out.Rewrite = root.Rewrite
	}
	if out.CORS == nil {
		out.CORS = root.CORS
	}
	if len(out.Mirrors) == 0 {
		out.Mirrors, out.MirrorList = root.Mirrors, root.MirrorList
	}
	h, r := &out.Headers, &root.Headers
	h.RequestSet, h.RequestAdd = both(h.RequestSet, r.RequestSet), both(h.RequestAdd, r.RequestAdd)
	h.ResponseSet, h.ResponseAdd = both(h.ResponseSet, r.ResponseSet), both(h.ResponseAdd, r.ResponseAdd)
	h.RequestRemove = slices.Compact(slices.Sorted(slices.Values(slices.Concat(h.RequestRemove, r.RequestRemove))))
	h.ResponseRemove = slices.Compact(slices.Sorted(slices.Values(slices.Concat(h.ResponseRemove, r.ResponseRemove))))
	return out, true
}

func joined(root, leaf string) string {
	if root == "" || leaf == "" {
		return root + leaf
	}
	return root + "-" + leaf
}

// both are the delegate's headers, and of the root's those it does not name.
func both(leaf, root []Header) []Header {
	out := slices.Clip(leaf)
	for _, h := range root {
		if !slices.ContainsFunc(leaf, func(l Header) bool { return l.Name == h.Name }) {
			out = append(out, h)
		}
	}
	slices.SortStableFunc(out, func(a, b Header) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// within joins the matches of a delegate's rule with those of the root; false if one of them
// is within none.
func within(root, leaf []HTTPMatch) ([]HTTPMatch, bool) {
	if len(root) == 0 {
		return leaf, true
	}
	if len(leaf) == 0 {
		return root, true
	}
	var out []HTTPMatch
	for i := range leaf {
		before := len(out)
		for j := range root {
			if m, ok := meet(&root[j], &leaf[i]); ok {
				out = append(out, m)
			}
		}
		if len(out) == before {
			return nil, false
		}
	}
	return out, true
}

// meet is a delegate's match with what it does not say from the root's; false if it is not
// within that.
func meet(root, leaf *HTTPMatch) (HTTPMatch, bool) {
	out := *leaf
	out.Name = joined(root.Name, leaf.Name)
	out.StatPrefix = cmp.Or(leaf.StatPrefix, root.StatPrefix)
	for _, f := range []struct{ to, root *StringMatch }{{&out.URI, &root.URI}, {&out.Scheme, &root.Scheme}, {&out.Method, &root.Method}, {&out.Authority, &root.Authority}} {
		if !inside(*f.root, *f.to) {
			return out, false
		}
		if f.to.Kind == Any {
			*f.to = *f.root
		}
	}
	if leaf.URI.Kind != Any && root.URI.Kind != Any && root.IgnoreURICase != leaf.IgnoreURICase {
		return out, false
	}
	out.IgnoreURICase = root.IgnoreURICase || leaf.IgnoreURICase
	for _, f := range []struct {
		to   *[]HeaderMatch
		root []HeaderMatch
	}{{&out.Headers, root.Headers}, {&out.WithoutHeaders, root.WithoutHeaders}, {&out.QueryParams, root.QueryParams}} {
		own := *f.to
		*f.to = slices.Clone(own)
		for _, h := range f.root {
			switch i := slices.IndexFunc(own, func(o HeaderMatch) bool { return o.Name == h.Name }); {
			case i < 0:
				*f.to = append(*f.to, h)
			case !inside(h.Match, own[i].Match):
				return out, false
			}
		}
		slices.SortStableFunc(*f.to, func(a, b HeaderMatch) int { return strings.Compare(a.Name, b.Name) })
	}
	switch {
	case root.Port != 0 && leaf.Port != 0 && root.Port != leaf.Port:
		return out, false
	case leaf.Port == 0:
		out.Port = root.Port
	}
	switch {
	case root.SourceNamespace != "" && leaf.SourceNamespace != "" && root.SourceNamespace != leaf.SourceNamespace:
		return out, false
	case leaf.SourceNamespace == "":
		out.SourceNamespace = root.SourceNamespace
	}
	for k, want := range root.SourceLabels {
		if own, ok := leaf.SourceLabels[k]; ok && own != want {
			return out, false
		}
	}
	if len(root.SourceLabels) > 0 {
		labels := maps.Clone(root.SourceLabels)
		maps.Copy(labels, leaf.SourceLabels)
		out.SourceLabels = labels
	}
	switch {
	case root.Gateways != nil && slices.ContainsFunc(leaf.Gateways, func(g string) bool { return !slices.Contains(root.Gateways, g) }):
		return out, false
	case leaf.Gateways == nil:
		out.Gateways = root.Gateways
	}
	return out, true
}

// inside reports whether everything that leaf matches, root matches, as far as that can be
// told: of regular expressions nobody can.
func inside(root, leaf StringMatch) bool {
	switch {
	case root.Kind == Any, leaf.Kind == Any, root == leaf && root.Kind != Regex, root.Kind == Present:
		return true
	case root.Kind == Prefix && (leaf.Kind == Prefix || leaf.Kind == Exact):
		return strings.HasPrefix(leaf.Value, root.Value)
	}
	return false
}
