package faults

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"

	apiv1 "github.com/weirmesh/weir/api/v1"
)

// fault is a row of the catalogue.
type fault struct {
	name string // what is wrong; with hyphens also the service, the file of its objects and the request's id
	how  string // how it is injected

	// Who serves the service, if anybody: a program behind the server's proxy, or an endpoint without one.
	app, far func(net.Conn)
	on       string // whose program it is; server unless given
	protocol string // of the service's port; http unless given
	target   string // what the service says instead of targetPort: PORT
	// config are objects: NAME is the service, PORT where its endpoints listen.
	config string
	// ask makes the request, and says what to ask `weir why` about; nil: a GET by the client.
	ask func(*world, *fault) string

	// apart injects it in a mesh of its own; nil: all share one.
	apart func(*testing.T, *fault) (w *world, about string)

	// What is true: the cause that comes first, whose proxy knows it, and which object's field is wrong (KIND FIELD; it has the row's
	// name unless it says KIND NAME FIELD): the one that is marked in the row's objects, if it is one of those.
	cause, at, object string
	// against is the object that it contradicts, at the other hop.
	against string
	// version is which version of the object decided: the one in force unless it says changed (another one is in force by now), behind
	// (another one was in force then) or quarantined (the one in force is not what is written).
	version string
	// What each proxy alone recorded: a cause, "-" for an answer that was passed on, passed for one below 500 of which its
	// proxy knows no more, kept in a sample only, "" for nothing.
	client, server string
	// detail is part of what the story adds to the cause.
	detail string
	// stopped is what ended the attempts at it, and the field of the row's object that set the limit (BY KIND FIELD); "": not looked at.
	stopped string
	// limit is the limit that was reached, and its peak (NAME VALUE PEAK); "": it is none.
	limit string
	// unknown is whom to ask for what nobody in the mesh can know.
	unknown string
}

func (f *fault) slug() string { return strings.ToLower(strings.ReplaceAll(f.name, " ", "-")) }

// passed is an answer below 500 that no proxy is known to have made.
const passed = "(-)"

func (f *fault) file() string { return f.slug() + ".yaml" }

// home is the workload of the row's endpoints.
func (f *fault) home() string {
	switch {
	case f.app != nil:
		return cmp.Or(f.on, "server")
	case f.far != nil:
		return "far"
	}
	return ""
}

// sides are the causes that both proxies record.
func (f *fault) sides() map[string]string {
	return map[string]string{"source": f.client, "destination": f.server}
}

// told says which side has not told yet what it knows, "" if both have.
func (f *fault) told(s *apiv1.Story) string {
	for side, want := range f.sides() {
		if want != "" && want != passed && !slices.ContainsFunc(s.Hops, func(h apiv1.Hop) bool { return h.Side == side }) {
			return side
		}
	}
	return ""
}

// judge says what is not right about a story; "" for nothing.
func (f *fault) judge(s *apiv1.Story, texts map[string]string) string {
	var wrong []string
	is := func(what, got, want string) {
		if got != want {
			wrong = append(wrong, fmt.Sprintf("%s is %q, want %q", what, got, want))
		}
	}
	is("the cause", s.Cause, f.cause)
	is("who knows", s.At, f.at)
	if !strings.Contains(s.Unknown, f.unknown) || f.unknown == "" && s.Unknown != "" {
		is("what is not known", s.Unknown, f.unknown)
	}
	if !strings.Contains(s.Detail, f.detail) {
		is("the detail", s.Detail, f.detail)
	}
	is("who decided", strings.Join(f.named(s, texts), " against "), strings.Join(f.objects(), " against "))
	is("its version", version(s), f.version)
	if f.stopped != "" {
		got := ""
		if x := s.Stopped; x != nil {
			if got = x.By; x.Decided != nil {
				got += " " + x.Decided.Kind + " " + x.Decided.Field
			}
		}
		is("what ended the attempts", got, f.stopped)
	}
	limit := ""
	if l := s.Limit; l != nil && l.Value != nil && l.Trips > 0 {
		limit = fmt.Sprint(l.Name, " ", *l.Value, " ", l.Peak)
	}
	is("the limit", limit, f.limit)
	for side, want := range f.sides() {
		got := ""
		if i := slices.IndexFunc(s.Hops, func(h apiv1.Hop) bool { return h.Side == side }); i >= 0 {
			if got = s.Hops[i].Cause; got == "" {
				got = "-"
			}
		}
		if want == passed {
			want = ""
			if got == "-" {
				continue
			}
		}
		is("what the "+side+" recorded", got, want)
	}
	return strings.Join(wrong, "; ")
}

// version says which version of the object decided that a story names first.
func version(s *apiv1.Story) string {
	switch {
	case len(s.Decided) == 0 || s.Decided[0].Field == "":
	case s.Decided[0].Gone:
		return "gone"
	case s.Decided[0].Behind:
		return "behind"
	case s.Decided[0].Changed:
		return "changed"
	case s.Decided[0].Quarantined:
		return "quarantined"
	}
	return ""
}
