package route

import (
	"bytes"
	"regexp"
	"testing"

	"github.com/weirmesh/weir/proxy/http/message"
)

// FuzzMatch lets a client ask for anything: it meets routes of every kind, and rewriting and redirects keep what they do not
// replace.
func FuzzMatch(f *testing.F) {
	re := regexp.MustCompile("^(?:/re/([a-z]+)(/.*)?)$")
	headers := []ValueMatch{{Name: "a", Kind: ValueRange, Low: -5, High: 300}, {Name: "a", Kind: ValueSuffix, Value: "z", IgnoreCase: true}, {Name: "a", Kind: ValueContains, Value: "M", IgnoreCase: true, Invert: true}}
	for i := range headers {
		headers[i].ID = message.IDOf(headers[i].Name)
	}
	entries := []*Entry{
		{When: When{Kind: PathExact, Path: "/exact", IgnoreCase: true}, Forward: &Forward{PrefixRewrite: "/new"}},
		{When: When{Kind: PathSeparatedPrefix, Path: "/part"}, Redirect: &Redirect{PrefixRewrite: "/new", Scheme: "https"}},
		{When: When{Kind: PathRegex, Regex: re}, Forward: &Forward{RegexRewrite: re, Substitution: "/${1}"}},
		{When: When{Kind: PathConnect}, Forward: &Forward{}},
		{When: When{Path: "/", Query: []ValueMatch{{Name: "v", Kind: ValuePrefix, Value: "1"}}}, Forward: &Forward{PrefixRewrite: "/q/"}},
		{When: When{Path: "/", Headers: headers[:1]}, Redirect: &Redirect{Host: "h:81", StripQuery: true}},
		{When: When{Path: "/", Headers: headers[1:]}, Redirect: &Redirect{Path: "/at?x"}},
		{When: When{Path: "/pre", IgnoreCase: true}, Redirect: &Redirect{PrefixRewrite: "/new"}},
	}
	for _, e := range entries {
		e.When = always(e.When)
	}
	table, err := New("t", "", true, []*VirtualHost{{Name: "some", Domains: []string{"a.example", "*.b.example", "c.*"}, Entries: entries}, {Name: "any", Domains: []string{"*"}, Entries: entries}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("GET", "A.example:80", "/Exact?x=1", "2")
	f.Add("GET", "x.b.example", "/part/1", "-5")
	f.Add("CONNECT", "[fd00::1]:443", "", "")
	f.Add("POST", "c.", "/re/a/b?v=1&v=2&=", "mz")
	f.Add("GET", "h:", "/PREfix?", "301")
	f.Fuzz(func(t *testing.T, method, authority, path, value string) {
		r := &message.Request{}
		r.Reset()
		r.SetMethod([]byte(method))
		r.Scheme, r.Authority, r.Path = []byte("http"), []byte(authority), []byte(path)
		if value != "" {
			r.Headers.AddName([]byte("a"), []byte(value))
		}
		vh, e := table.Match(r, 1)
		if vh == nil {
			t.Fatal("nobody wants it")
		}
		if e == nil {
			return
		}
		_, query := r.PathQuery()
		if e.Redirect != nil {
			out := e.AppendLocation(nil, r)
			if e.Redirect.Path == "" && !e.Redirect.StripQuery && !bytes.HasSuffix(out, query) {
				t.Errorf("%q %q: location %q", authority, path, out)
			}
		} else if out := e.AppendRewritten(nil, r.Path); !bytes.HasSuffix(out, query) {
			t.Errorf("%q became %q", path, out)
		}
	})
}
