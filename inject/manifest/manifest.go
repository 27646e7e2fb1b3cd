// Package manifest puts proxies into the workloads of YAML and JSON text: what the
// webhook does to pods, done to the templates in files.
//
// Text enters Inject; the text with proxies leaves, and what was decided about each
// workload. Documents that are no workload, or get no proxy, stay as they are byte for
// byte; in the others only what injection changes does, comments stay. It is a pure
// function.
package manifest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/inject"
	"github.com/weirmesh/weir/mesh"
)

// Format is how documents are written.
type Format string

// Formats. Keep leaves each document in its own.
const (
	Keep Format = ""
	YAML Format = "yaml"
	JSON Format = "json"
)

// Options are what Inject needs besides the text.
type Options struct {
	Settings  *inject.Settings
	Namespace string // of objects that name none
	File      string // for findings
	Format    Format
}

// Workload is what was decided about one.
type Workload struct {
	Object   mesh.Ref
	Decision inject.Decision
	Refused  bool // it must not run as it is
	Findings []config.Finding
}

// templates says where each kind has its pod.
var templates = map[string][]string{
	"Pod": {}, "PodTemplate": {"template"}, "Deployment": {"spec", "template"}, "StatefulSet": {"spec", "template"}, "DaemonSet": {"spec", "template"},
	"ReplicaSet": {"spec", "template"}, "ReplicationController": {"spec", "template"}, "DeploymentConfig": {"spec", "template"}, "Job": {"spec", "template"},
	"CronJob": {"spec", "jobTemplate", "spec", "template"},
}

// Inject gives the workloads of text their proxies. The error says which document cannot
// be read.
func Inject(text string, o Options) (string, []Workload, error) {
	var out strings.Builder
	var workloads []Workload
	starts := lines(text)
	done := 0
	for part := range document.Split(text) {
		at := starts[part.Line-1]
		if o.Format != JSON {
			out.WriteString(text[done:at])
		}
		done = at + len(part.Text)
		d, err := parse(part, o)
		if err != nil {
			return "", nil, err
		}
		workloads = append(workloads, d.workloads...)
		written, err := d.text(o.Format)
		if err != nil {
			return "", nil, err
		}
		out.WriteString(written)
	}
	if o.Format != JSON {
		out.WriteString(text[done:])
	}
	return out.String(), workloads, nil
}

// lines are the offsets at which lines begin.
func lines(text string) []int {
	out := []int{0}
	for i := range len(text) {
		if text[i] == '\n' {
			out = append(out, i+1)
		}
	}
	return out
}

// file is one document.
type file struct {
	part      document.Part
	root      *document.Value
	node      *yaml.Node // of a mapping; nil: not read yet
	json      bool
	o         Options
	changed   bool
	workloads []Workload
}

func parse(part document.Part, o Options) (*file, error) {
	root, err := document.Parse(part)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.File, err)
	}
	d := &file{part: part, root: root, o: o, json: isJSON(part.Text)}
	if root == nil || root.Kind != document.Map {
		return d, nil
	}
	if items := root.Get("items"); strings.HasSuffix(root.Get("kind").String(), "List") && items != nil && items.Kind == document.List {
		for i, item := range items.Items {
			if err := d.object(item, "items", i); err != nil {
				return nil, err
			}
		}
		return d, nil
	}
	return d, d.object(root, "", 0)
}

// object injects into one object; list and i say where it is in the document.
func (d *file) object(v *document.Value, list string, i int) error {
	path, ok := templates[v.Get("kind").String()]
	if !ok || v.Kind != document.Map {
		return nil
	}
	template := v
	for _, name := range path {
		template = template.Get(name)
	}
	if template == nil || template.Kind != document.Map {
		return nil
	}
	meta := v.Get("metadata")
	ref := mesh.Ref{Kind: v.Get("kind").String(), Namespace: meta.Get("namespace").String(), Name: meta.Get("name").String(), File: d.o.File, Line: v.Line}
	if ref.Namespace == "" {
		ref.Namespace = d.o.Namespace
	}
	if ref.Name == "" {
		ref.Name = strings.TrimSuffix(meta.Get("generateName").String(), "-")
	}
	w := Workload{Object: ref}
	pod := &corev1.Pod{}
	if err := json.Unmarshal(template.AppendJSON(nil), pod); err != nil {
		w.Refused = true
		w.Findings = []config.Finding{config.New(config.SchemaError, ref, strings.Join(path, "."), 0, "is not a pod: "+err.Error(), "correct the field")}
		d.workloads = append(d.workloads, w)
		return nil
	}
	in := inject.Input{Pod: pod, Namespace: inject.Namespace{Name: ref.Namespace}, Object: ref, Path: strings.Join(path, ".")}
	if len(path) > 0 {
		in.Owner = &inject.Owner{APIVersion: v.Get("apiVersion").String(), Kind: ref.Kind, Name: ref.Name}
	}
	r := inject.Inject(in, d.o.Settings)
	w.Decision, w.Refused, w.Findings = r.Decision, r.Refused(), r.Findings
	for j := range w.Findings {
		w.Findings[j].Line = v.LineOf(w.Findings[j].FieldPath)
	}
	d.workloads = append(d.workloads, w)
	if len(r.Patch) == 0 {
		return nil
	}
	at, err := d.at(list, i)
	if err != nil {
		return err
	}
	for _, name := range path {
		at = child(at, name)
	}
	for _, op := range r.Patch {
		if err := apply(at, op); err != nil {
			return fmt.Errorf("%s: %s %s: %w", d.o.File, op.Op, op.Path, err)
		}
	}
	d.changed = true
	return nil
}

// at is the node of the object at a place of the document.
func (d *file) at(list string, i int) (*yaml.Node, error) {
	if err := d.read(); err != nil {
		return nil, err
	}
	if list == "" {
		return d.node, nil
	}
	return child(d.node, list).Content[i], nil
}

// read makes the nodes of the document. One with aliases is written out first: what
// changes in one place must not change in another.
func (d *file) read() error {
	if d.node != nil {
		return nil
	}
	var n yaml.Node
	if err := yaml.Unmarshal([]byte(d.part.Text), &n); err != nil {
		return fmt.Errorf("%s: %w", d.o.File, err)
	}
	if aliases(&n) {
		n = yaml.Node{}
		if err := yaml.Unmarshal(d.root.AppendJSON(nil), &n); err != nil {
			return fmt.Errorf("%s: %w", d.o.File, err)
		}
		if !d.json {
			plain(&n)
		}
	}
	d.node = n.Content[0]
	d.node.HeadComment = join(n.HeadComment, d.node.HeadComment)
	d.node.FootComment = join(d.node.FootComment, n.FootComment)
	return nil
}

func join(a, b string) string {
	if a == "" || b == "" || a == b {
		return cmp.Or(a, b)
	}
	return a + "\n\n" + b
}

func aliases(n *yaml.Node) bool {
	return n.Kind == yaml.AliasNode || slices.ContainsFunc(n.Content, aliases)
}

// plain gives nodes the style of a file that a person wrote.
func plain(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		plain(c)
	}
}

// text is the document as it is to be written.
func (d *file) text(f Format) (string, error) {
	asJSON := f == JSON || f == Keep && d.json
	switch {
	case d.root == nil && f == JSON:
		return "", nil // JSON has no way to write nothing but comments
	case d.root == nil || !d.changed && (f == Keep || asJSON == d.json):
		return d.part.Text, nil
	}
	if err := d.read(); err != nil {
		return "", err
	}
	var b bytes.Buffer
	if asJSON {
		var compact bytes.Buffer
		value, err := document.Parse(document.Part{Text: d.plainYAML(), Line: 1})
		if err != nil {
			return "", err
		}
		compact.Write(value.AppendJSON(nil))
		if err := json.Indent(&b, compact.Bytes(), "", "  "); err != nil {
			return "", err
		}
		b.WriteByte('\n')
		return b.String(), nil
	}
	if d.json {
		plain(d.node)
	}
	if first, _, _ := strings.Cut(d.part.Text, "\n"); strings.HasPrefix(first, "---") {
		b.WriteString("---\n")
	}
	b.WriteString(d.plainYAML())
	return b.String(), nil
}

func (d *file) plainYAML() string {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if compactLists(d.part.Text) {
		e.CompactSeqIndent()
	}
	if err := e.Encode(d.node); err != nil {
		panic(err) // it was read, or made here
	}
	_ = e.Close()
	return b.String()
}

// compactLists reports whether the first list below a field is indented like the field.
func compactLists(text string) bool {
	before := ""
	for line := range strings.Lines(text) {
		trimmed := strings.TrimLeft(line, " ")
		if strings.TrimSpace(trimmed) == "" || trimmed[0] == '#' {
			continue
		}
		if strings.HasPrefix(trimmed, "- ") && strings.HasSuffix(strings.TrimRight(before, " \r\n"), ":") {
			indent := len(before) - len(strings.TrimLeft(before, " "))
			if strings.HasPrefix(strings.TrimLeft(before, " "), "- ") {
				indent += 2 // the field of an entry
			}
			return len(line)-len(trimmed) == indent
		}
		before = line
	}
	return true
}

// isJSON reports whether a document is JSON, and not YAML that begins as JSON does.
func isJSON(text string) bool {
	return strings.HasPrefix(strings.TrimLeft(text, " \t\r\n"), "{") && json.Valid([]byte(text))
}
