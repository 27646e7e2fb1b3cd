package config

import (
	"fmt"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// Report collects what is found in one object. It finds the line of a field path.
type Report struct {
	Findings []Finding

	object *Object
	root   *document.Value
	failed []string // paths that could not be decoded
}

// maxFindings about one object: a long list of mistakes has one cause. The first error
// is always kept, because it decides what becomes of the object.
const maxFindings = 100

func (r *Report) append(f Finding) {
	if len(r.Findings) < maxFindings || f.Severity == Error && !r.Failed() {
		r.Findings = append(r.Findings, f)
	}
}

// NewReport begins the report on o.
func NewReport(o *Object) *Report { return &Report{object: o, root: o.Root()} }

// ReportOn begins the report on something that was not read from a document.
func ReportOn(ref mesh.Ref) *Report { return &Report{object: &Object{Ref: ref}} }

// Root is the object's document.
func (r *Report) Root() *document.Value { return r.root }

// Add reports a finding at path, unless something at or below path could not be decoded:
// what was read there is then not what was written.
func (r *Report) Add(code Code, path, message, hint string) {
	for _, f := range r.failed {
		if rest, ok := strings.CutPrefix(f, path); ok && (rest == "" || rest[0] == '.' || rest[0] == '[') {
			return
		}
	}
	r.append(New(code, r.object.Ref, path, r.LineOf(path), message, hint))
}

// Invalid reports a value that is not allowed.
func (r *Report) Invalid(path, message, hint string) { r.Add(SchemaError, path, message, hint) }

// Problem reports what decoding found.
func (r *Report) Problem(p document.Problem) {
	code := SchemaError
	if p.Deprecated {
		code = Deprecated
	} else if len(r.failed) < maxFindings {
		r.failed = append(r.failed, p.Path)
	}
	r.append(New(code, r.object.Ref, p.Path, p.Line, p.Message, p.Hint))
}

// LineOf is the line of a field path.
func (r *Report) LineOf(path string) int {
	if path == "" {
		return r.object.Ref.Line
	}
	return r.root.LineOf(path)
}

// Failed reports whether there is an error: the object cannot be used.
func (r *Report) Failed() bool { return Errors(r.Findings) > 0 }

// Meta checks labels and annotations as the API server does.
func (r *Report) Meta(m *metav1.ObjectMeta, path string) {
	r.Labels(m.Labels, path+".labels")
	for k := range m.Annotations {
		if msgs := validation.IsQualifiedName(strings.ToLower(k)); len(msgs) > 0 {
			r.Add(BadMetadata, document.Key(path+".annotations", k), fmt.Sprintf("%q is not a valid annotation name", k), qualifiedRule)
		}
	}
}

const (
	qualifiedRule = "use letters, digits, '-', '_' and '.', at most 63, optionally after a domain and '/'"
	valueRule     = "use letters, digits, '-', '_' and '.', at most 63, beginning and ending with a letter or digit"
)

// Labels checks a set of labels or a selector.
func (r *Report) Labels(labels map[string]string, path string) {
	for k, v := range labels {
		at := document.Key(path, k)
		if msgs := validation.IsQualifiedName(k); len(msgs) > 0 {
			r.Add(BadMetadata, at, fmt.Sprintf("%q is not a valid label name", k), qualifiedRule)
		}
		if msgs := validation.IsValidLabelValue(v); len(msgs) > 0 {
			r.Add(BadMetadata, at, fmt.Sprintf("%q is not a valid label value", v), valueRule)
		}
	}
}
