package message

import (
	"bytes"
	"testing"
)

// Every spelling of a path that servers take for the same resource has one
// canonical spelling, so that no rule can be walked around. Cases marked (e) are
// the behaviour of Envoy's normalize_path and merge_slashes.
func TestCanonicalPath(t *testing.T) {
	const bad = "\x00refused"
	for _, c := range []struct {
		in, norm, merged string // merged "" means: as norm
	}{
		{"/xyz", "/xyz", ""},
		{"/x/y/z", "/x/y/z", ""},
		{"/", "/", ""},
		{"*", "*", ""},
		{"/a/b/../c", "/a/c", ""},          // (e)
		{"/a/b/./c", "/a/b/c", ""},         // (e)
		{"a/b/../c", "/a/c", ""},           // (e)
		{"/a/b/../../../../c", "/c", ""},   // (e)
		{`/a/..\c`, "/c", ""},              // (e)
		{"/%c0%af", "/%c0%af", ""},         // (e)
		{"/%5c%25", "/%5c%25", ""},         // (e)
		{"/a/b/%2E%2E/c", "/a/c", ""},      // (e)
		{"/a/b/%2E./c", "/a/c", ""},        // (e)
		{"/a/b/%2E/c", "/a/b/c", ""},       // (e)
		{"..", "/", ""},                    // (e)
		{"/../a/b", "/a/b", ""},            // (e)
		{"/./a/b", "/a/b", ""},             // (e)
		{"/A/B/C", "/A/B/C", ""},           // (e)
		{"/a/%2F%2f/c", "/a/%2F%2f/c", ""}, // (e)
		{"/xyz/.%00../abc", bad, ""},       // (e)
		{"/xyz/%00.%00./abc", bad, ""},     // (e)
		{"/xyz/AAAAA%%0000/abc", bad, ""},  // (e)
		{"/a%2", bad, ""},
		{"/a%", bad, ""},
		{"/a%zz", bad, ""},
		{"/a/b/..", "/a/", ""},
		{"/a/b/.", "/a/b/", ""},
		{"/a/..b/.c/d./e..", "/a/..b/.c/d./e..", ""},
		{"/%61dmin", "/admin", ""},
		{"/%252e%252e/a", "/%252e%252e/a", ""},
		{"/a b", "/a%20b", ""},
		{"/caf\xc3\xa9", "/caf%C3%A9", ""},
		{"/a?x=/../..//y&%zz", "/a?x=/../..//y&%zz", ""},
		{"/a/..?x", "/?x", ""},
		{"?x", "/?x", ""},
		{"/a\x00", bad, ""},
		{"/.?x", "/?x", ""},
		{"/?", "/?", ""},
		{"//a/b/c", "//a/b/c", "/a/b/c"},                // (e)
		{"/a//b/c/", "/a//b/c/", "/a/b/c/"},             // (e)
		{"/a/b/c//", "/a/b/c//", "/a/b/c/"},             // (e)
		{"/a////b/c", "/a////b/c", "/a/b/c"},            // (e)
		{"/a//b?a=///c", "/a//b?a=///c", "/a/b?a=///c"}, // (e)
		{"//a/?b", "//a/?b", "/a/?b"},                   // (e)
		{"/a//../b", "/a/b", ""},
		{"/a/\\/b", "/a///b", "/a/b"},
	} {
		if c.merged == "" {
			c.merged = c.norm
		}
		for _, o := range []struct {
			opt  PathOptions
			want string
		}{
			{PathOptions{}, c.in},
			{PathOptions{Normalize: true}, c.norm},
			{PathOptions{Normalize: true, MergeSlashes: true}, c.merged},
		} {
			var a Arena
			got, ok := CanonicalPath([]byte(c.in), o.opt, &a)
			if ok != (o.want != bad) || ok && string(got) != o.want {
				t.Errorf("CanonicalPath(%q, %+v) = %q, %v, want %q", c.in, o.opt, got, ok, o.want)
			}
		}
	}
}

// %2F and %5C where they are to be slashes.
func TestEscapedSlashes(t *testing.T) {
	for _, c := range []struct{ in, plain, normal string }{
		{"/a/b", "/a/b", "/a/b"},
		{"/a%2fb", "/a/b", "/a/b"},
		{"/a%2Fb%5cc%5Cd", `/a/b\c\d`, "/a/b/c/d"},
		{"/a%2f..%2fb", "/a/../b", "/b"},
		{"/a%2f%2e%2e/b", "/a/%2e%2e/b", "/b"},
		{"%2fa", "/a", "/a"},
		{"/a%2f%2fb", "/a//b", "/a//b"},
		{"/a?b%2fc", "/a?b%2fc", "/a?b%2fc"},
		{"/a%2fb?c%2fd", "/a/b?c%2fd", "/a/b?c%2fd"},
		{"/a%252fb", "/a%252fb", "/a%252fb"}, // decoded once
		{"/a%2", "/a%2", "\x00"},
		{"*", "*", "*"},
	} {
		for o, want := range map[PathOptions]string{
			{Slashes: UnescapeSlashes}:                  c.plain,
			{Slashes: RedirectSlashes}:                  c.plain,
			{Slashes: UnescapeSlashes, Normalize: true}: c.normal,
			{Slashes: KeepSlashes}:                      c.in,
			{Slashes: RefuseSlashes}:                    c.in,
		} {
			var a Arena
			got, ok := CanonicalPath([]byte(c.in), o, &a)
			if ok != (want != "\x00") || ok && string(got) != want {
				t.Errorf("CanonicalPath(%q, %+v) = %q, %v, want %q", c.in, o, got, ok, want)
			}
			if ok && o.Slashes >= UnescapeSlashes && HasEscapedSlash(got) {
				t.Errorf("CanonicalPath(%q, %+v) = %q has an escaped slash", c.in, o, got)
			}
		}
	}
}

// Canonical means: once is enough, no dot segment is left, and merging leaves no double slash.
func FuzzCanonicalPath(f *testing.F) {
	for _, s := range []string{"/", "/a/../b", "/%2e%2e/x", `\..\a`, "a", "/a//b?c", "/%41%zz", "/\xff", "/a/..//..", "///..", "/.%2e"} {
		f.Add([]byte(s), true, false)
	}
	f.Add([]byte("/a%2f..%5C%2e/b?%2f"), false, true)
	f.Fuzz(func(t *testing.T, in []byte, merge, unescape bool) {
		o := PathOptions{Normalize: true, MergeSlashes: merge}
		if unescape {
			o.Slashes = UnescapeSlashes
		}
		orig := bytes.Clone(in)
		var a Arena
		once, ok := CanonicalPath(in, o, &a)
		if !bytes.Equal(in, orig) {
			t.Fatalf("input %q was changed to %q", orig, in)
		}
		if !ok || len(in) == 0 || in[0] == '*' {
			return
		}
		twice, ok := CanonicalPath(once, o, &a)
		if !ok || !bytes.Equal(once, twice) {
			t.Fatalf("%q → %q → %q, %v: not canonical after one pass", in, once, twice, ok)
		}
		if unescape && HasEscapedSlash(once) {
			t.Fatalf("%q → %q has an escaped slash", in, once)
		}
		path, _ := (&Request{Path: once}).PathQuery()
		if path[0] != '/' {
			t.Fatalf("%q → %q does not begin with a slash", in, once)
		}
		for i, seg := range bytes.Split(path[1:], []byte("/")) {
			if s := string(seg); s == "." || s == ".." || merge && s == "" && i > 0 && i < bytes.Count(path[1:], []byte("/")) {
				t.Fatalf("%q → %q has segment %q", in, once, s)
			}
		}
	})
}

func BenchmarkCanonicalPath(b *testing.B) {
	var a Arena
	p := []byte("/api/v2/products/17/reviews?page=3")
	b.ReportAllocs()
	for b.Loop() {
		CanonicalPath(p, PathOptions{Normalize: true, MergeSlashes: true}, &a)
	}
}

// What servlet containers leave out before they look at dots and escapes; nothing is made where there is nothing to leave out.
func TestWithoutParameters(t *testing.T) {
	for path, want := range map[string]string{
		"/admin;x=1": "/admin", "/admin;": "/admin", "/a;b=1;c/d;e,f": "/a/d", "/x/..;/admin": "/x/../admin", "/;/admin": "//admin", `/a;b\\c;d`: `/a\\c`,
		"/a;x?q=;y": "/a?q=;y", "/admin;%2fx/y": "/admin/y", "/a%3bx": "", "/a?x=;y": "", "/": "", "": "", "*": "",
	} {
		var a Arena
		got, ok := WithoutParameters([]byte(path), &a)
		if !ok && want == "" {
			want = path
		}
		if string(got) != want || ok != (want != path) {
			t.Errorf("%q: %q, %v, want %q", path, got, ok, want)
		}
	}
	full := []byte("/a/b?x=;y")
	var a Arena
	if n := testing.AllocsPerRun(100, func() { WithoutParameters(full, &a) }); n != 0 {
		t.Errorf("%v allocations for a path without parameters", n)
	}
}
