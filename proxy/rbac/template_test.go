package rbac

import "testing"

// Templates mean what Envoy's mean: a wildcard of one segment is never empty, one of many
// begins behind its slash.
func TestTemplates(t *testing.T) {
	for _, c := range []struct {
		template  string
		fit, miss []string
	}{
		{"/a/b", []string{"/a/b"}, []string{"", "a/b", "/a", "/a/b/", "/a/b/c", "/A/b", "//a/b"}},
		{"/", []string{"/"}, []string{"/a", "", "//"}},
		{"/a/{*}", []string{"/a/x", "/a/*"}, []string{"/a", "/a/", "/a/x/", "/a/x/y"}},
		{"/{*}/b", []string{"/x/b"}, []string{"//b", "/b", "/x/y/b", "/x/bb"}},
		{"/a/{name}/c", []string{"/a/x/c"}, []string{"/a//c", "/a/x/y/c"}},
		{"/a/*", []string{"/a/x"}, []string{"/a/x/y"}},
		{"/{**}", []string{"/", "/a", "/a/b", "//"}, []string{"", "*"}},
		{"/a/{**}", []string{"/a/", "/a/b", "/a/b/c/"}, []string{"/a", "/ab", "/b/a/"}},
		{"/a/{**}/z", []string{"/a/b/z", "/a/b/c/z", "/a//z", "/a/z/z"}, []string{"/a/z", "/a/b/z/", "/z", "/a/bz"}},
		{"/{*}/m/{**}/{*}", []string{"/x/m/y/z", "/x/m/1/2/3"}, []string{"/x/m/y", "/x/m/y/", "/m/y/z"}},
		{"/a/{rest=**}", []string{"/a/b/c"}, []string{"/a"}},
		{"/a/{**}/", []string{"/a/b/"}, []string{"/a/b", "/a/"}},
	} {
		tpl, err := ParseTemplate(c.template)
		if err != nil {
			t.Errorf("%s: %v", c.template, err)
			continue
		}
		for _, p := range c.fit {
			if !tpl.Fits([]byte(p)) {
				t.Errorf("%s does not fit %s", p, c.template)
			}
		}
		for _, p := range c.miss {
			if tpl.Fits([]byte(p)) {
				t.Errorf("%s fits %s", p, c.template)
			}
		}
	}
	for _, bad := range []string{"", "a", "*", "/a*", "/{a", "/a}", "/{}", "/x{*}", "/{**}/{**}", "/**/a/**", "/{1a}", "/{a=b*}", "/***"} {
		if _, err := ParseTemplate(bad); err == nil {
			t.Errorf("%q is a template", bad)
		}
	}
}
