package why

import (
	"slices"
	"strconv"
	"strings"

	"github.com/weirmesh/weir/api/causes"
	observev1 "github.com/weirmesh/weir/api/observe/v1"
	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config/document"
)

// tellAltered adds to the story of an answer of an application's own what a route made of the request: that may be why.
func tellAltered(s *apiv1.Story, chain []Told, objects Objects) {
	hop := s.Hop
	if s.Cause == string(causes.OK) { // a 4xx is no failure, and blames nobody
		if hop = -1; s.Status >= 400 {
			for i := range chain {
				if int(chain[i].Record.GetStatus()) == s.Status {
					hop = i
				}
			}
		}
	}
	if hop < 0 {
		return
	}
	says, by := altered(chain, hop, objects)
	if says == "" {
		return
	}
	if s.Cause == string(causes.OK) {
		s.Text = "the application itself answered with status " + strconv.Itoa(s.Status)
	}
	s.Text += ", to a request that was changed on its way"
	s.Detail = says
	s.Remedy = "is that what the application is to get? If so, " + causes.Answered.Remedy()
	s.Decided = slices.DeleteFunc(s.Decided, func(d apiv1.Decider) bool {
		return d.Kind == by.Kind && d.Namespace == by.Namespace && d.Name == by.Name
	})
	s.Decided = slices.Insert(s.Decided, 0, by)
}

// altered says what a route made of a request that its destination answered itself, and which object's that is, with the field that
// rewrites if one does; "": the destination got what was asked for, or nobody knows. Records have the path as each side saw it, but the
// authority as it was sent, and of headers nothing: the rest is what the object says, as long as it says what it said then.
func altered(chain []Told, hop int, objects Objects) (says string, by apiv1.Decider) {
	caller, server := hop, hop
	if chain[hop].Record.GetEdge().GetSide() == observev1.Side_SIDE_DESTINATION {
		caller = callerOf(chain, hop)
	} else {
		server = slices.IndexFunc(chain, func(t Told) bool { return leads(chain[hop].Record, t.Record) })
	}
	if caller < 0 {
		return "", by
	}
	r := chain[caller].Record
	i := slices.IndexFunc(r.GetDecisions(), func(d *observev1.Decision) bool { return d.GetStage() == "route" })
	if i < 0 {
		return "", by
	}
	d := r.GetDecisions()[i]
	kind, namespace, name, ok := Parse(d.GetObject())
	if !ok {
		return "", by
	}
	by = apiv1.Decider{Kind: kind, Namespace: namespace, Name: name, Hash: d.GetHash(), File: d.GetFile(), Line: int(d.GetLine())}
	look(&by, r, objects)
	set := func(field string) (x apiv1.Decider, v *document.Value) {
		x = by
		if x.Field = field; !x.Gone {
			aimed(&x, r, objects, func(path string, at *document.Value) string { v = at; return path })
		}
		return x, v
	}
	object := kind + " " + namespace + "/" + name
	rewrite, to := set("http[].rewrite")
	path := to.Get("uri") != nil || to.Get("uriRegexRewrite") != nil
	var all []string
	switch moved := server >= 0 && chain[server].Record.GetPath() != r.GetPath(); {
	case moved && path:
		all = append(all, "the application got the path "+chain[server].Record.GetPath()+": "+rewrite.Field+" of "+object+" changed "+r.GetPath())
		by = rewrite
	case moved:
		all = append(all, "the application got the path "+chain[server].Record.GetPath()+", and "+r.GetPath()+" was asked for: "+object+" routed it")
	case path && server < 0:
		all = append(all, rewrite.Field+" of "+object+" changes the path "+r.GetPath()+", by its text in force; what the application got no proxy has recorded")
		by = rewrite
	}
	if a := to.Get("authority"); a != nil && a.Text == r.GetAuthority() {
		all = append(all, "the application got the authority "+a.Text+", which "+rewrite.Field+" of "+object+" asks for")
		by = rewrite
	}
	for _, field := range []string{"http[].headers.request", "http[].route[].headers.request"} {
		if x, headers := set(field); headers != nil {
			all = append(all, x.Field+" of "+object+" changes headers that the application gets: "+changes(headers))
		}
	}
	return strings.Join(all, "; "), by
}

// changes is "set x-a, remove x-b, x-c": names only, values may be nobody's business.
func changes(headers *document.Value) string {
	var out []string
	for _, how := range headers.Fields {
		if how.Value == nil {
			continue
		}
		var names []string
		for _, h := range how.Value.Fields {
			names = append(names, h.Name)
		}
		for _, h := range how.Value.Items {
			names = append(names, h.Text)
		}
		out = append(out, how.Name+" "+strings.Join(names, ", "))
	}
	return strings.Join(out, ", ")
}
