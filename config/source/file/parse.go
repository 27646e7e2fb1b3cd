package file

import (
	"errors"
	"fmt"
	"strings"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// Limits on what is read. The API server takes objects up to 3 MiB and etcd keeps 1.5;
// a List as `kubectl get -o yaml` writes it holds many of them.
const (
	maxFile     = 64 << 20
	maxDocument = 8 << 20
	// maxFindings per file: junk should not bury what matters.
	maxFindings = 100
)

var errTooLarge = fmt.Errorf("the file has more than %d MiB", maxFile>>20)

// Parse reads the objects in data, the content of the file called name. Objects without
// a namespace get namespace.
func Parse(name string, data []byte, namespace string) config.Unit {
	p := &parser{unit: config.Unit{Name: name}, namespace: namespace}
	if len(data) > maxFile {
		return unreadable(name, errTooLarge)
	}
	text := strings.TrimPrefix(string(data), "\ufeff")
	if document.LooksLikeJSON(text) {
		if len(text) <= maxDocument || strings.HasSuffix(name, ".json") {
			roots, err := p.json(text)
			if err == nil || strings.HasSuffix(name, ".json") {
				for _, root := range roots {
					p.part(root)
				}
				if err != nil {
					p.error(err)
				}
				return p.unit
			}
		}
	}
	for part := range document.Split(text) {
		if len(part.Text) > maxDocument {
			p.refuse(config.LimitExceeded, part.Line, fmt.Sprintf("the document has %.1f MiB, more than %d", float64(len(part.Text))/(1<<20), maxDocument>>20),
				"an API server refuses objects above 3 MiB; split a list by \"---\"")
			continue
		}
		root, err := document.ParseYAML(part.Text, part.Line)
		if err != nil {
			p.error(err)
			continue
		}
		if root != nil {
			p.object(root, part)
		}
	}
	if p.dropped > 0 {
		p.unit.Findings = append(p.unit.Findings, config.New(config.SyntaxError, mesh.Ref{File: name}, "", 1, fmt.Sprintf("%d more problems in this file are not shown", p.dropped), "correct those that are shown first"))
	}
	return p.unit
}

type parser struct {
	unit      config.Unit
	namespace string
	dropped   int
}

func (p *parser) json(text string) ([]*document.Value, error) {
	if len(text) > maxDocument {
		return nil, &document.Error{Line: 1, Limit: true, Message: fmt.Sprintf("the JSON text has more than %d MiB", maxDocument>>20), Hint: "split it into several files"}
	}
	return document.ParseJSON(text, 1)
}

// refuse notes a part of the file that could not be used. Whatever it defines, it is
// not known to be gone.
func (p *parser) refuse(code config.Code, line int, message, hint string) {
	p.finding(config.New(code, mesh.Ref{File: p.unit.Name, Line: line}, "", line, message, hint))
}

func (p *parser) finding(f config.Finding) {
	p.unit.Incomplete = true
	if len(p.unit.Findings) >= maxFindings {
		p.dropped++
		return
	}
	p.unit.Findings = append(p.unit.Findings, f)
}

func (p *parser) error(err error) {
	var e *document.Error
	if !errors.As(err, &e) {
		e = &document.Error{Line: 1, Message: err.Error()}
	}
	code := config.SyntaxError
	if e.Limit {
		code = config.LimitExceeded
	}
	p.refuse(code, max(e.Line, 1), e.Message, e.Hint)
}

// part takes an object that is only a part of the text.
func (p *parser) part(root *document.Value) {
	if isList(root) {
		p.list(root) // its entries are parts
		return
	}
	if root.Kind == document.Null {
		return // as in YAML: an empty document
	}
	part := root.Part()
	root, err := document.Parse(part)
	if err != nil {
		p.error(fmt.Errorf("rendering a part of the document: %w", err))
		return
	}
	p.object(root, part)
}

func (p *parser) object(root *document.Value, part document.Part) {
	if isList(root) {
		p.list(root)
		return
	}
	o, findings := config.NewObject(root, part, p.unit.Name, p.namespace)
	if o == nil {
		for _, f := range findings {
			p.finding(f)
		}
		return
	}
	if _, problem, hint := config.Classify(o.APIVersion, o.ID.Kind); problem != "" {
		path := "kind"
		if strings.HasPrefix(problem, "version") || strings.HasPrefix(problem, "API group") {
			path = "apiVersion"
		}
		p.finding(config.New(config.UnknownKind, o.Ref, path, root.LineOf(path), problem, hint))
		return
	}
	p.unit.Objects = append(p.unit.Objects, o)
}

func isList(root *document.Value) bool {
	return strings.HasSuffix(root.Get("kind").String(), "List") && root.Get("items") != nil
}

// list takes the entries of a List (`kubectl get -o yaml`), or of a typed list whose
// entries may leave out what the list says.
func (p *parser) list(root *document.Value) {
	kind, items := strings.TrimSuffix(root.Get("kind").String(), "List"), root.Get("items")
	if items.Kind != document.List && items.Kind != document.Null {
		p.refuse(config.NotAnObject, items.Line, "items must be a list, is "+items.Kind.String(), `begin each entry with "- "`)
		return
	}
	for _, item := range items.Items {
		if item.Kind == document.Null {
			p.refuse(config.NotAnObject, item.Line, "the list entry is empty", `remove the "-", or write an object after it`)
			continue
		}
		if kind != "" && item.Kind == document.Map && item.Get("kind") == nil {
			head := []document.Field{{Name: "kind", Line: item.Line, Value: &document.Value{Kind: document.String, Line: item.Line, Text: kind}}}
			if v := root.Get("apiVersion"); v != nil && item.Get("apiVersion") == nil {
				head = append(head, document.Field{Name: "apiVersion", Line: item.Line, Value: v})
			}
			filled := *item
			filled.Fields = append(head, item.Fields...)
			item = &filled
		}
		p.part(item)
	}
}
