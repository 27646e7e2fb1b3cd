package document

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Limits of one document.
const (
	// maxDepth is far above what Kubernetes and Istio objects need (a CRD reaches about
	// 60) and keeps recursion shallow.
	maxDepth = 200
	// maxNodes bounds a document, maxExpanded what its aliases and merge keys add to it:
	// the largest object an API server stores (1.5 MiB) has about 100,000 values.
	maxNodes    = 1_000_000
	maxExpanded = 100_000
)

var yamlLine = regexp.MustCompile(`^line (\d+): `)

// ParseYAML parses one YAML document that begins at line first of its file. A document
// that is empty (or only comments) gives nil.
func ParseYAML(text string, first int) (*Value, error) {
	if err := checkText(text, first); err != nil {
		return nil, err
	}
	var root yaml.Node
	if err := yaml.Unmarshal([]byte(text), &root); err != nil {
		return nil, yamlError(err, text, first)
	}
	if root.Kind == 0 || len(root.Content) == 0 {
		return nil, nil
	}
	c := &converter{offset: first - 1, done: map[*yaml.Node]*Value{}, sizes: map[*Value]int{}, open: map[*yaml.Node]bool{}}
	v, err := c.value(root.Content[0], 0)
	if err != nil {
		return nil, err
	}
	if v.Kind == Null {
		return nil, nil
	}
	return v, nil
}

// checkText finds what no text file contains, where the YAML library would only say
// that something is wrong somewhere.
func checkText(text string, first int) error {
	for i := 0; i < len(text); {
		c := text[i]
		if c >= 0x20 && c < 0x7f || c == '\n' || c == '\r' || c == '\t' {
			i++
			continue
		}
		line := first + strings.Count(text[:i], "\n")
		if c < utf8.RuneSelf {
			return &Error{Line: line, Message: fmt.Sprintf("control character 0x%02x", c), Hint: "this is not a text file, or it was damaged"}
		}
		r, n := utf8.DecodeRuneInString(text[i:])
		if r == utf8.RuneError && n == 1 {
			return &Error{Line: line, Message: fmt.Sprintf("byte 0x%02x is not valid UTF-8", c), Hint: "save the file as UTF-8"}
		}
		i += n
	}
	return nil
}

// yamlError gives the library's complaint the line of the file and, where the cause is
// a usual one, a remedy.
func yamlError(err error, text string, first int) error {
	msg := strings.TrimPrefix(err.Error(), "yaml: ")
	msg, _, _ = strings.Cut(strings.TrimPrefix(msg, "unmarshal errors:\n  "), "\n")
	line := 0
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		line, _ = strconv.Atoi(m[1])
		msg = msg[len(m[0]):]
	}
	lines := strings.Split(text, "\n")
	// At the end of the text the library may point behind it.
	last := strings.Count(strings.TrimRight(text, "\r\n"), "\n")
	e := &Error{Line: first + min(max(line-1, 0), last), Message: "YAML: " + msg}
	// The library reports the line where the surrounding block began, so that a tab
	// is looked for from there on.
	for i := max(line-2, 0); i < len(lines); i++ {
		indent := lines[i][:len(lines[i])-len(strings.TrimLeft(lines[i], " \t"))]
		if strings.Contains(indent, "\t") && strings.TrimSpace(lines[i]) != "" {
			e.Line, e.Message, e.Hint = first+i, "YAML: a tab indents this line", "YAML allows only spaces for indentation: replace the tab by spaces"
			return e
		}
	}
	switch {
	case strings.Contains(msg, "mapping values are not allowed"):
		e.Hint = `check the indentation of this line and the one before; quote a value that contains ": "`
	case strings.Contains(msg, "did not find expected key"), strings.Contains(msg, "did not find expected '-' indicator"):
		e.Hint = "a line here is indented differently from its neighbours"
	case strings.Contains(msg, "could not find expected ':'"):
		e.Hint = `write "name: value", with a space after the colon`
	case strings.Contains(msg, "cannot start any token"):
		e.Hint = "quote a value that begins with @, ` or %"
	case strings.Contains(msg, "unknown anchor"):
		e.Hint = "anchors are known only inside their own document"
	case strings.Contains(msg, "did not find expected ',' or"):
		e.Hint = "close the bracket or brace that begins near this line, or separate what is in it by commas"
	case strings.Contains(msg, "unexpected end of stream"), strings.Contains(msg, "unexpected document indicator"):
		e.Hint = "close the quotation that begins near this line"
	case strings.Contains(msg, "exceeded max depth"):
		e.Limit, e.Hint = true, "write it with fewer levels"
	default:
		e.Hint = "correct this line, or what begins before it"
	}
	return e
}

type converter struct {
	offset   int
	done     map[*yaml.Node]*Value // anchored nodes
	open     map[*yaml.Node]bool   // anchored nodes being converted
	sizes    map[*Value]int        // of anchored values, written out
	nodes    int                   // values so far, written out
	expanded int                   // of these by aliases and merges
}

func (c *converter) fail(n *yaml.Node, message, hint string) error {
	return &Error{Line: n.Line + c.offset, Message: message, Hint: hint}
}

// weight is what a scalar or key costs: long text counts as several values.
func weight(text string) int { return 1 + len(text)/64 }

// count adds values that are written in the document, expand those that it repeats.
func (c *converter) count(n *yaml.Node) error {
	if c.nodes += weight(n.Value); c.nodes-c.expanded > maxNodes {
		return &Error{Line: n.Line + c.offset, Limit: true, Message: fmt.Sprintf("more than %d values", maxNodes), Hint: "split the document"}
	}
	return nil
}

func (c *converter) expand(n *yaml.Node, more int) error {
	c.nodes += more
	if c.expanded += more; c.expanded > maxExpanded {
		return &Error{Line: n.Line + c.offset, Limit: true, Message: fmt.Sprintf("aliases repeat more than %d values", maxExpanded),
			Hint: "write the repeated parts out, or split the document"}
	}
	return nil
}

func (c *converter) value(n *yaml.Node, depth int) (*Value, error) {
	if depth > maxDepth {
		return nil, &Error{Line: n.Line + c.offset, Limit: true, Message: fmt.Sprintf("nested deeper than %d levels", maxDepth), Hint: "write it with fewer levels"}
	}
	if n.Kind == yaml.AliasNode {
		if c.open[n.Alias] {
			return nil, c.fail(n, "alias *"+n.Value+" contains itself", "write the value out where the alias stands")
		}
		v := c.done[n.Alias]
		if v == nil {
			return nil, c.fail(n, "alias *"+n.Value+" has no anchor", "write &"+n.Value+" before the value that it repeats")
		}
		return v, c.expand(n, c.sizes[v])
	}
	before := c.nodes
	if err := c.count(n); err != nil {
		return nil, err
	}
	if n.Anchor != "" {
		c.open[n] = true
		defer delete(c.open, n)
	}
	v := &Value{Line: n.Line + c.offset}
	var err error
	switch n.Kind {
	case yaml.ScalarNode:
		err = c.scalar(v, n)
	case yaml.SequenceNode:
		v.Kind = List
		v.Items = make([]*Value, len(n.Content))
		for i, item := range n.Content {
			if v.Items[i], err = c.value(item, depth+1); err != nil {
				return nil, err
			}
		}
	case yaml.MappingNode:
		v.Kind = Map
		err = c.mapping(v, n, depth)
	default:
		err = c.fail(n, "unexpected YAML node", "write plain mappings, lists and values")
	}
	if err != nil {
		return nil, err
	}
	if n.Anchor != "" {
		c.done[n] = v
		c.sizes[v] = c.nodes - before
	}
	return v, nil
}

func (c *converter) scalar(v *Value, n *yaml.Node) error {
	v.Text = n.Value
	v.Plain = n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
	switch tag := n.ShortTag(); tag {
	case "!!null":
		v.Kind = Null
	case "!!bool":
		v.Kind = Bool
	case "!!int", "!!float":
		v.Kind = Number
		if _, ok := v.float(); !ok {
			v.Kind = String // .inf and .nan have no place in an object; a field says what it wants instead
		}
	case "!!str", "!!timestamp":
		v.Kind = String
	default:
		return c.fail(n, "tag "+tag+" is not understood", "remove the tag")
	}
	return nil
}

func (c *converter) mapping(v *Value, n *yaml.Node, depth int) error {
	v.Fields = make([]Field, 0, len(n.Content)/2)
	at := map[string]int{}
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		if key.Kind == yaml.AliasNode {
			key = key.Alias
		}
		if key.ShortTag() == "!!merge" {
			merges = append(merges, val)
			continue
		}
		name, err := c.key(key)
		if err != nil {
			return err
		}
		if j, ok := at[name]; ok {
			return c.fail(key, fmt.Sprintf("%q is given twice, first in line %d", name, v.Fields[j].Line), "keep one of the two")
		}
		if err := c.count(key); err != nil {
			return err
		}
		child, err := c.value(val, depth+1)
		if err != nil {
			return err
		}
		at[name] = len(v.Fields)
		v.Fields = append(v.Fields, Field{name, n.Content[i].Line + c.offset, child})
	}
	for _, m := range merges {
		merged, err := c.value(m, depth+1)
		if err != nil {
			return err
		}
		sources := []*Value{merged}
		if merged.Kind == List {
			sources = merged.Items
		}
		for _, s := range sources {
			if s.Kind != Map {
				return c.fail(m, "<< merges "+s.Kind.String(), "only a mapping can be merged")
			}
			for _, f := range s.Fields {
				if _, ok := at[f.Name]; ok {
					continue // a key of the mapping itself wins, then the first merged
				}
				if err := c.expand(m, weight(f.Name)); err != nil {
					return err
				}
				at[f.Name] = len(v.Fields)
				v.Fields = append(v.Fields, f)
			}
		}
	}
	return nil
}

// key reads a mapping key as the string it is in JSON: portLevelMtls: {8080: …}.
func (c *converter) key(n *yaml.Node) (string, error) {
	if n.Kind != yaml.ScalarNode {
		return "", c.fail(n, "a list or mapping is used as a key", `a key is a word: "name: value"`)
	}
	k := &Value{}
	if err := c.scalar(k, n); err != nil {
		return "", err
	}
	switch k.Kind {
	case Null:
		return "", c.fail(n, "a key is missing before the colon", `write "name: value"`)
	case Number:
		if i, ok := k.integer(); ok {
			return i.String(), nil
		}
	}
	return k.Text, nil
}
