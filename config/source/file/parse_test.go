package file

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/weirmesh/weir/config"
)

const configMap = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\n"

func codes(u config.Unit) []config.Code {
	var out []config.Code
	for _, f := range u.Findings {
		out = append(out, f.Code)
	}
	return out
}

// What is no object is refused with a line and a remedy, and what stands beside it is
// read. (Ordinary files: the cases of config/store.)
func TestParseRefuses(t *testing.T) {
	deep := "a: " + strings.Repeat("[", 300) + strings.Repeat("]", 300)
	laughs := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: lol}\nx0: &x0 [a,a,a,a,a,a,a,a,a]\n"
	for i := range 9 {
		laughs += fmt.Sprintf("x%d: &x%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*x%d,", i), 9), ","))
	}
	for name, c := range map[string]struct {
		text string
		code config.Code
		line int
		says string
	}{
		"alias bomb":         {laughs, config.LimitExceeded, 9, "aliases repeat more than"},
		"alias bomb of text": {"a: &a " + strings.Repeat("x", 1<<20) + "\nb: [" + strings.TrimSuffix(strings.Repeat("*a,", 10), ",") + "]\n", config.LimitExceeded, 2, "aliases repeat more than"},
		"alias to itself":    {"a: &a [*a]\n", config.SyntaxError, 1, "contains itself"},
		"unknown alias":      {"a: *b\n", config.SyntaxError, 1, "unknown anchor"},
		"deep":               {deep, config.LimitExceeded, 1, "nested deeper"},
		"very deep":          {strings.Repeat("[", 200_000), config.LimitExceeded, 1, "depth"},
		"very deep JSON":     {`{"a":` + strings.Repeat("[", 200_000), config.LimitExceeded, 1, "nested deeper"},
		"binary":             {"\x7fELF\x02\x01\x01\x00\x00", config.SyntaxError, 1, "control character 0x7f"},
		"nul in the middle":  {"a: b\n# \x00\n", config.SyntaxError, 2, "control character 0x00"},
		"Latin-1":            {"a: b\nname: caf\xe9\n", config.SyntaxError, 2, "not valid UTF-8"},
		"UTF-16":             {"\xff\xfea\x00:\x00", config.SyntaxError, 1, "not valid UTF-8"},
		"list as key":        {"? [a, b]\n: c\n", config.SyntaxError, 1, "used as a key"},
		"no key":             {"~: c\n", config.SyntaxError, 1, "key is missing"},
		"tag":                {"a: !secret x\n", config.SyntaxError, 1, "tag !secret"},
		"merge of a scalar":  {"a: &a 1\nb: {<<: *a}\n", config.SyntaxError, 2, "merges a number"},
		"number":             {"42\n", config.NotAnObject, 1, "is a number"},
		"empty entry":        {"apiVersion: v1\nkind: List\nitems:\n-\n", config.NotAnObject, 4, "entry is empty"},
		"items not a list":   {"apiVersion: v1\nkind: List\nitems: {a: b}\n", config.NotAnObject, 3, "items must be a list"},
		"document too large": {"a: " + strings.Repeat("x", maxDocument) + "\n", config.LimitExceeded, 1, "8.0 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			u := Parse("f.yaml", []byte(c.text+"\n---\n"+fmt.Sprintf(configMap, "good")), "default")
			if strings.HasSuffix(name, "JSON") {
				u = Parse("f.json", []byte(c.text), "default")
			} else if n := len(u.Objects); n != 1 {
				t.Errorf("%d objects, want the one that is good", n)
			}
			if len(u.Findings) != 1 || u.Findings[0].Code != c.code || u.Findings[0].Line != c.line || !strings.Contains(u.Findings[0].Message, c.says) {
				t.Fatalf("got %v, want %s in line %d that says %q", u.Findings, c.code, c.line, c.says)
			}
			if !u.Incomplete {
				t.Error("the unit claims to be complete")
			}
		})
	}
}

// What people write in fact, and is fine.
func TestParseAccepts(t *testing.T) {
	good := fmt.Sprintf(configMap, "good")
	for name, text := range map[string]string{
		"byte order mark":       "\ufeff" + good,
		"CRLF":                  strings.ReplaceAll(good+"---\n", "\n", "\r\n"),
		"no newline at the end": strings.TrimSuffix(good, "\n"),
		"directive":             "%YAML 1.1\n---\n" + good,
		"end marker":            good + "...\n# the end\n",
		"marker inside text":    good + "data:\n  a: |\n    ---\n    b\n  c: \"x\n    --- y\"\n",
		"aliases in reason":     good + "data: &d {a: b}\nbinaryData: *d\n",
		"JSON with tabs":        "{\n\t\"apiVersion\": \"v1\",\n\t\"kind\": \"ConfigMap\",\n\t\"metadata\": {\"name\": \"good\"}\n}\n",
		"flow style":            "{apiVersion: v1, kind: ConfigMap, metadata: {name: good}}\n",
		"empty documents":       "---\n---\n# nothing\n---\n" + good + "---\n",
		"status and null":       good + "data:\nstatus: {a: 1}\n",
	} {
		u := Parse("f.yaml", []byte(text), "ns")
		if len(u.Objects) != 1 || u.Incomplete || u.Objects[0].ID.Name != "good" || u.Objects[0].ID.Namespace != "ns" {
			t.Errorf("%s: %+v", name, u)
		}
	}
	for name, text := range map[string]string{"empty": "", "newlines": "\n\n", "comments": "# a\n  # b\n", "separators": "---\n---\n...\n", "null": "null\n", "BOM": "\ufeff", "no text": " "} {
		if u := Parse("f.yaml", []byte(text), ""); len(u.Objects) != 0 || len(u.Findings) != 0 || u.Incomplete {
			t.Errorf("%s: %+v", name, u)
		}
	}
}

// A file of 50 MB is read if it consists of many documents, and refused quickly if it
// is one; beyond the limit it is refused as it is.
func TestHugeFiles(t *testing.T) {
	var b bytes.Buffer
	n := 0
	for ; b.Len() < hugeFile; n++ {
		fmt.Fprintf(&b, "---\n"+configMap+"data:\n  text: %q\n", fmt.Sprintf("c%d", n), strings.Repeat("0123456789abcdef", 4096))
	}
	u := Parse("huge.yaml", b.Bytes(), "default")
	if len(u.Objects) != n || len(u.Findings) != 0 {
		t.Errorf("%d objects of %d, findings %v", len(u.Objects), n, u.Findings)
	}
	one := []byte("data: |\n" + strings.Repeat("  line of text\n", 50<<20/15))
	if got := codes(Parse("one.yaml", one, "")); len(got) != 1 || got[0] != config.LimitExceeded {
		t.Errorf("one document of 50 MB: %v", got)
	}
	if got := codes(Parse("big.yaml", make([]byte, maxFile+1), "")); len(got) != 1 || got[0] != config.LimitExceeded {
		t.Errorf("a file above the limit: %v", got)
	}
	if u := Parse("junk.yaml", bytes.Repeat([]byte("---\njunk\n"), 10_000), ""); len(u.Findings) != maxFindings+1 || !strings.Contains(u.Findings[maxFindings].Message, "9900 more") {
		t.Errorf("%d findings about junk", len(u.Findings))
	}
}

// Lines are those of the file: in later documents, in lists, in JSON, behind aliases.
func TestLines(t *testing.T) {
	u := Parse("f.yaml", []byte("# comment\n---\n\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\n---\napiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  metadata:\n    name: b\n    labels:\n      app.kubernetes.io/name: x\n"), "")
	if len(u.Objects) != 2 {
		t.Fatalf("%+v", u)
	}
	a, b := u.Objects[0], u.Objects[1]
	if a.Ref.Line != 4 || b.Ref.Line != 12 {
		t.Errorf("objects begin in lines %d and %d", a.Ref.Line, b.Ref.Line)
	}
	for path, want := range map[string]int{"metadata.name": 15, `metadata.labels["app.kubernetes.io/name"]`: 17, "metadata.labels.absent": 16, "spec.http[3].x": 12, "kind": 13} {
		if got := b.LineOf(path); got != want {
			t.Errorf("%s is in line %d, want %d", path, got, want)
		}
	}
	if got := a.Compact().LineOf("metadata.name"); got != 7 {
		t.Errorf("after compaction metadata.name is in line %d", got)
	}
	if u := Parse("f.json", []byte("null"), ""); len(u.Objects)+len(u.Findings) != 0 {
		t.Errorf("JSON null: %+v", u)
	}
	j := Parse("f.json", []byte("[\n]"), "")
	if len(j.Findings) != 1 {
		t.Errorf("%+v", j)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("a.yaml", []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\na: &a [1, *a]\n"))
	f.Add("a.yaml", []byte("x: &x {a: b}\ny: {<<: [*x, *x], c: d}\n? e\n: |\n  text\n"))
	f.Add("a.yaml", []byte("%TAG ! x\n---\n!!binary aGk=\n...\n\xef\xbb\xbf{\"a\": 1e999}"))
	f.Add("a.json", []byte(`{"apiVersion":"v1","kind":"List","items":[{"a":[1,2,{"b":null}]}]}{"kind":1}`))
	f.Fuzz(func(t *testing.T, name string, data []byte) {
		u := Parse(name, data, "default")
		lines := 1 // with all that YAML takes for a line break
		for _, sep := range []string{"\n", "\r", "\u0085", "\u2028", "\u2029"} {
			lines += bytes.Count(data, []byte(sep))
		}
		for _, fd := range u.Findings {
			if fd.Line < 0 || fd.Line > lines {
				t.Errorf("line %d of %d: %v", fd.Line, lines, fd)
			}
		}
		for _, o := range u.Objects {
			c := o.Compact()
			kept, err := c.MarshalJSON()
			if err != nil {
				t.Fatal(err)
			}
			var back config.Object
			if err := back.UnmarshalJSON(kept); err != nil {
				t.Fatalf("%s: %v", kept, err)
			}
			if back.ID != o.ID || c.Text() != "" && c.LineOf("kind") != o.LineOf("kind") {
				t.Errorf("%v came back as %v", o.ID, back.ID)
			}
		}
	})
}
