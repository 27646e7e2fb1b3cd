// Package config is what the operator asked for, before it means anything: objects as
// sources read them, the kinds Weir knows, and findings, the one way to say what is
// wrong with an object.
//
// Sources (config/source/...) make Units of Objects; config/istio and config/kubeobj
// lower single Objects; config/analyze looks across them; config/store drives all three.
// Everything here is data; a value is not modified after it was handed on.
package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/weirmesh/weir/mesh"
)

// Severity of a Finding.
type Severity uint8

// An Error makes an object quarantined (or is a promise the mesh cannot keep), a
// Warning is probably not what was meant, Info is worth knowing.
const (
	Info Severity = iota
	Warning
	Error
)

var severityNames = [...]string{"info", "warning", "error"}

// String is the lower-case name.
func (s Severity) String() string { return severityNames[s] }

// MarshalText writes the name.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the name.
func (s *Severity) UnmarshalText(text []byte) error {
	i := slices.Index(severityNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("unknown severity %q", text)
	}
	*s = Severity(i)
	return nil
}

// Finding is one thing to tell the operator about one object or file.
type Finding struct {
	Code      Code     `json:"code"`
	Severity  Severity `json:"severity"`
	Object    mesh.Ref `json:"object"`              // Kind is empty if it concerns a file
	FieldPath string   `json:"fieldPath,omitempty"` // "spec.http[0].route[1].weight"
	Line      int      `json:"line,omitempty"`      // in Object.File
	Message   string   `json:"message"`
	Hint      string   `json:"hint,omitempty"` // what to do about it
	// By is the object that has what this one does not get, ByPath the part of it.
	By     mesh.Ref `json:"by,omitzero"`
	ByPath string   `json:"byPath,omitempty"`
}

// New is a finding with the severity its code has.
func New(code Code, object mesh.Ref, path string, line int, message, hint string) Finding {
	info, ok := Explain(code)
	if !ok {
		panic("config: code " + string(code) + " is not in the table")
	}
	switch {
	case object.File == "":
		line = 0 // an object of an API server has fields, not lines
	case line == 0:
		line = object.Line
	}
	return Finding{Code: code, Severity: info.Severity, Object: object, FieldPath: path, Line: line, Message: message, Hint: hint}
}

// Because names the object, and the part of it, that is used instead.
func (f Finding) Because(by mesh.Ref, path string) Finding {
	f.By, f.ByPath = by, path
	return f
}

// String is the finding in one line.
func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", f.Severity, f.Code)
	if f.Object.Kind != "" {
		b.WriteString(" " + f.Object.Kind)
	}
	if f.Object.Name != "" {
		b.WriteString(" " + qualified(f.Object.Namespace, f.Object.Name))
	}
	switch {
	case f.Object.File != "" && f.Line > 0:
		fmt.Fprintf(&b, " (%s:%d)", f.Object.File, f.Line)
	case f.Object.File != "":
		fmt.Fprintf(&b, " (%s)", f.Object.File)
	}
	b.WriteString(":")
	if f.FieldPath != "" {
		fmt.Fprintf(&b, " %s:", f.FieldPath)
	}
	fmt.Fprintf(&b, " %s", f.Message)
	if f.Hint != "" {
		fmt.Fprintf(&b, " (%s)", f.Hint)
	}
	return b.String()
}

func qualified(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

// SuppressAnnotation is Istio's, by which an object turns findings off.
const SuppressAnnotation = "galley.istio.io/analyze-suppress"

// Suppresses reports whether the value of a SuppressAnnotation, codes or "*", turns a code off.
func Suppresses(value string, code Code) bool {
	for s := range strings.SplitSeq(value, ",") {
		if s = strings.TrimSpace(s); s == "*" || s == string(code) {
			return true
		}
	}
	return false
}

// Compare orders findings by place: file, line, object, field, code. What a mesh must never have comes before everything.
func Compare(a, b Finding) int {
	if x, y := a.Code == TrafficNotCaptured, b.Code == TrafficNotCaptured; x != y {
		if x {
			return -1
		}
		return 1
	}
	return cmp.Or(
		cmp.Compare(a.Object.File, b.Object.File), cmp.Compare(a.Line, b.Line),
		cmp.Compare(a.Object.Kind, b.Object.Kind), cmp.Compare(a.Object.Namespace, b.Object.Namespace), cmp.Compare(a.Object.Name, b.Object.Name),
		cmp.Compare(a.FieldPath, b.FieldPath), cmp.Compare(a.Code, b.Code), cmp.Compare(a.Message, b.Message))
}

// Tidy sorts findings and drops repetitions, in place.
func Tidy(fs []Finding) []Finding {
	slices.SortFunc(fs, Compare)
	return slices.Compact(fs)
}

// Merge joins two tidy lists into one.
func Merge(a, b []Finding) []Finding {
	out := make([]Finding, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if Compare(b[0], a[0]) < 0 {
			out, b = append(out, b[0]), b[1:]
		} else {
			out, a = append(out, a[0]), a[1:]
		}
	}
	return slices.Compact(append(append(out, a...), b...))
}

// Errors counts the findings that are errors.
func Errors(fs []Finding) int {
	n := 0
	for _, f := range fs {
		if f.Severity == Error {
			n++
		}
	}
	return n
}
