package faults

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	apiv1 "github.com/weirmesh/weir/api/v1"
)

// mark is the YAML tag of what is wrong in the objects of a row: `tls: {!wrong mode: DISABLE}`. Where it stands is the truth that an
// answer is held against: what was injected, whatever is said of it.
const mark = "!wrong"

// place is a field of an object, and where it stands.
type place struct {
	kind, name, field, file string
	line                    int
}

// unfolded writes objects as operators do, a field a line, without the marks, which are returned: lines mean something then.
func unfolded(file, text string) (string, []place, error) {
	var all []*yaml.Node
	var out bytes.Buffer
	to := yaml.NewEncoder(&out)
	to.SetIndent(2)
	for d := yaml.NewDecoder(strings.NewReader(text)); ; {
		var n yaml.Node
		switch err := d.Decode(&n); {
		case errors.Is(err, io.EOF):
			var marks []place
			again := yaml.NewDecoder(bytes.NewReader(out.Bytes()))
			for _, was := range all {
				var is yaml.Node
				if err := again.Decode(&is); err != nil {
					return "", nil, err
				}
				marks = append(marks, marked(was.Content[0], is.Content[0], file)...)
			}
			return out.String(), marks, nil
		case err != nil:
			return "", nil, fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, &n)
		if err := to.Encode(unmarked(&n)); err != nil {
			return "", nil, err
		}
	}
}

// unmarked is a copy in block style.
func unmarked(n *yaml.Node) *yaml.Node {
	c := *n
	if c.Tag == mark {
		c.Tag = ""
	}
	if c.Kind != yaml.ScalarNode {
		c.Style = 0
	}
	c.Content = make([]*yaml.Node, len(n.Content))
	for i := range n.Content {
		c.Content[i] = unmarked(n.Content[i])
	}
	return &c
}

// marked are the marks of a document, at the lines that they have in another copy of it.
func marked(was, is *yaml.Node, file string) (out []place) {
	each(was, is, "", func(path string, n, at *yaml.Node) {
		if n.Tag == mark {
			out = append(out, place{text(was, "kind"), text(was, "metadata", "name"), strings.TrimPrefix(path, "spec."), file, at.Line})
		}
	})
	return out
}

// each walks a document and a copy of it: visits the keys of mappings and the items of lists, by their paths.
func each(n, copied *yaml.Node, path string, visit func(path string, n, copied *yaml.Node)) {
	for i := range n.Content {
		switch n.Kind {
		case yaml.MappingNode:
			if i%2 == 1 {
				continue
			}
			p := strings.TrimPrefix(path+"."+n.Content[i].Value, ".")
			visit(p, n.Content[i], copied.Content[i])
			each(n.Content[i+1], copied.Content[i+1], p, visit)
		case yaml.SequenceNode:
			p := path + "[" + strconv.Itoa(i) + "]"
			visit(p, n.Content[i], copied.Content[i])
			each(n.Content[i], copied.Content[i], p, visit)
		}
	}
}

// text is that of a scalar of a document.
func text(n *yaml.Node, keys ...string) string {
	for i := 0; len(keys) > 0 && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == keys[0] {
			return text(n.Content[i+1], keys[1:]...)
		}
	}
	return n.Value
}

// standing is where a field of an object stands in texts, by their files; [] is the first of a list, and "" the object itself.
func standing(texts map[string]string, kind, name, field string) (out []place) {
	field, _, _ = strings.Cut(strings.Replace(field, "[]", "[0]\x00", 1), "\x00") // of an older version its rule is known
	for file, t := range texts {
		for d := yaml.NewDecoder(strings.NewReader(t)); ; {
			var n yaml.Node
			if d.Decode(&n) != nil {
				break
			}
			if doc := n.Content[0]; text(doc, "kind") == kind && text(doc, "metadata", "name") == name {
				if field == "" {
					out = append(out, place{kind, name, field, file, doc.Line})
				}
				each(doc, doc, "", func(path string, _, at *yaml.Node) {
					if path == "spec."+field {
						out = append(out, place{kind, name, field, file, at.Line})
					}
				})
			}
		}
	}
	return out
}

// write puts a row's objects into the mesh's configuration, and notes what of them is wrong.
func (w *world) write(f *fault, text string) {
	w.Write(f.file(), w.unfold(f, w.filled(f, text)))
}

// note writes objects that several rows share.
func (w *world) note(file, text string) {
	out, _, err := unfolded(file, text)
	must(w.T, err)
	w.texts[file] = out
	w.Write(file, out)
}

// add adds objects to those of a row, and waits until they are in force.
func (w *world) add(f *fault, text string) {
	w.Config(f.file(), w.unfold(f, w.texts[f.file()]+"---\n"+w.filled(f, text)))
}

// unfold notes what a row's objects are, and what of them is wrong.
func (w *world) unfold(f *fault, text string) string {
	out, marks, err := unfolded(f.file(), text)
	must(w.T, err)
	w.texts[f.file()] = out
	w.marks[f.name] = append(w.marks[f.name], marks...)
	return out
}

// stated is a place as rows state it, KIND FIELD, or KIND NAME FIELD.
func (f *fault) stated(kind, name, field string) string {
	if name == f.slug() {
		return kind + " " + field
	}
	return kind + " " + name + " " + field
}

// sound says what is wrong with a row's own truth: it has to state what its marks mark.
func (f *fault) sound(all []place) error {
	var marks []string
	for _, m := range all {
		marks = append(marks, f.stated(m.kind, m.name, m.field))
	}
	if len(marks) > 1 || len(marks) == 1 && marks[0] != strings.Replace(f.object, "[]", "[0]", 1) {
		return fmt.Errorf("it states %q, and marks %q", f.object, marks)
	}
	return nil
}

// objects are those whose fields decide, the one that is wrong first.
func (f *fault) objects() (out []string) {
	for _, o := range []string{f.object, f.against} {
		if o != "" {
			out = append(out, o)
		}
	}
	return out
}

// named are the fields that a story says decided, as rows state them; with file and line if those are not where the field stands.
func (f *fault) named(s *apiv1.Story, texts map[string]string) (out []string) {
	for i := range s.Decided {
		d := &s.Decided[i]
		if d.Field == "" {
			continue
		}
		what := f.stated(d.Kind, d.Name, d.Field)
		at := standing(texts, d.Kind, d.Name, d.Field)
		if d.Changed { // of that version no more is known than where it stood
			at = append(at, standing(texts, d.Kind, d.Name, "")...)
		}
		if !d.Gone && !slices.ContainsFunc(at, func(p place) bool { return strings.HasSuffix(d.File, "/"+p.file) && d.Line == p.line }) {
			what += fmt.Sprintf(" at %s:%d, not %v", d.File, d.Line, at)
		}
		out = append(out, what)
	}
	return out
}

// score counts rows: right ones, and those of which something else was said without a doubt.
type score struct{ rows, right, confident int }

func (s *score) add(f *fault, got *apiv1.Story, wrong string, texts map[string]string) {
	s.rows++
	if wrong == "" {
		s.right++
	}
	if got == nil {
		return
	}
	misled := slices.ContainsFunc(f.named(got, texts), func(o string) bool { return !slices.Contains(f.objects(), o) })
	certain := got.Unknown == "" && (got.Cause != f.cause || got.At != f.at || f.unknown != "")
	if misled || certain {
		s.confident++
	}
}

// Whoever names another cause, workload, object, field or line than the true one without a doubt is counted; who says less is not right, and no more.
func TestScore(t *testing.T) {
	const file = "x.yaml"
	text, marks, err := unfolded(file, object("v1", "DestinationRule", "x", "{host: x, trafficPolicy: {tls: {!wrong mode: DISABLE, sni: y}}}"))
	if err != nil || len(marks) != 1 || marks[0] != (place{"DestinationRule", "x", "trafficPolicy.tls.mode", file, 9}) {
		t.Fatalf("%s %+v %v", text, marks, err)
	}
	texts := map[string]string{file: text}
	f := &fault{name: "x", cause: "c", at: "a", object: "DestinationRule trafficPolicy.tls.mode"}
	right := apiv1.Decider{Kind: "DestinationRule", Name: "x", Field: "trafficPolicy.tls.mode", File: "/in/" + file, Line: 9}
	for what, c := range map[string]struct {
		change           func(*apiv1.Story)
		right, confident int
	}{
		"nothing":          {func(*apiv1.Story) {}, 1, 0},
		"another cause":    {func(s *apiv1.Story) { s.Cause = "d" }, 0, 1},
		"another workload": {func(s *apiv1.Story) { s.At = "b" }, 0, 1},
		"another object":   {func(s *apiv1.Story) { s.Decided[0].Name = "y" }, 0, 1},
		"another field": {func(s *apiv1.Story) {
			s.Decided[0].Field, s.Decided[0].Line = "trafficPolicy.tls.sni", 10
		}, 0, 1},
		"another line": {func(s *apiv1.Story) { s.Decided[0].Line = 8 }, 0, 1},
		"another file": {func(s *apiv1.Story) { s.Decided[0].File = "/in/y.yaml" }, 0, 1},
		"one too many": {func(s *apiv1.Story) {
			s.Decided = append(s.Decided, apiv1.Decider{Kind: "Service", Name: "x", Field: "ports"})
		}, 0, 1},
		"by way of more": {func(s *apiv1.Story) { s.Decided = append(s.Decided, apiv1.Decider{Kind: "Service", Name: "x"}) }, 1, 0},
		"no object":      {func(s *apiv1.Story) { s.Decided = nil }, 0, 0},
		"a doubt":        {func(s *apiv1.Story) { s.Cause, s.Unknown = "d", "why" }, 0, 0},
		"a doubt, and a field all the same": {func(s *apiv1.Story) {
			s.Unknown, s.Decided[0].Field = "why", "trafficPolicy.tls.sni"
		}, 0, 1},
	} {
		s := &apiv1.Story{Cause: "c", At: "a", Decided: []apiv1.Decider{right}}
		c.change(s)
		var got score
		if got.add(f, s, f.judge(s, texts), texts); got != (score{1, c.right, c.confident}) {
			t.Errorf("%s: %+v, want %+v", what, got, score{1, c.right, c.confident})
		}
	}
	if f.object = "DestinationRule trafficPolicy.tls.sni"; f.sound(marks) == nil {
		t.Error("a row may state another truth than what it injects")
	}
}
