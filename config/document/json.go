package document

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ParseJSON parses a stream of JSON values that begins at line first of its file.
func ParseJSON(text string, first int) ([]*Value, error) {
	if err := checkText(text, first); err != nil {
		return nil, err
	}
	p := &jsonParser{text: text, line: first, dec: json.NewDecoder(strings.NewReader(text))}
	p.dec.UseNumber()
	var out []*Value
	for {
		v, err := p.value(0)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return out, p.wrap(err)
		}
		out = append(out, v)
	}
}

// LooksLikeJSON reports whether text begins as a JSON object or list. YAML may begin
// so too, but YAML's flow style is rarely a whole file.
func LooksLikeJSON(text string) bool {
	text = strings.TrimLeft(text, " \t\r\n")
	return strings.HasPrefix(text, "{") || strings.HasPrefix(text, "[")
}

type jsonParser struct {
	text  string
	dec   *json.Decoder
	pos   int // line is the line of text[pos]
	line  int
	nodes int
}

func (p *jsonParser) wrap(err error) error {
	if _, ok := errors.AsType[*Error](err); ok {
		return err
	}
	p.advance()
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		off := min(int(syntax.Offset), len(p.text))
		if off > p.pos {
			p.line += strings.Count(p.text[p.pos:off], "\n")
		}
	}
	msg := strings.TrimPrefix(err.Error(), "json: ")
	if errors.Is(err, io.ErrUnexpectedEOF) {
		msg = "the text ends in the middle of a value"
	}
	return &Error{Line: p.line, Message: "JSON: " + msg, Hint: "correct this line, or what begins before it"}
}

// advance moves line to what the decoder has read.
func (p *jsonParser) advance() {
	off := min(int(p.dec.InputOffset()), len(p.text))
	p.line += strings.Count(p.text[p.pos:off], "\n")
	p.pos = off
}

func (p *jsonParser) token() (json.Token, error) {
	t, err := p.dec.Token()
	p.advance()
	return t, err
}

// value reads one value. io.EOF means that there is none.
func (p *jsonParser) value(depth int) (*Value, error) {
	if depth > maxDepth {
		return nil, &Error{Line: p.line, Limit: true, Message: fmt.Sprintf("nested deeper than %d levels", maxDepth), Hint: "write it with fewer levels"}
	}
	if p.nodes++; p.nodes > maxNodes {
		return nil, &Error{Line: p.line, Limit: true, Message: fmt.Sprintf("more than %d values", maxNodes), Hint: "split the document"}
	}
	t, err := p.token()
	if err != nil {
		if depth > 0 && errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	v := &Value{Line: p.line}
	switch t := t.(type) {
	case nil:
		v.Kind, v.Text, v.Plain = Null, "null", true
	case bool:
		v.Kind, v.Text, v.Plain = Bool, fmt.Sprint(t), true
	case json.Number:
		v.Kind, v.Text, v.Plain = Number, t.String(), true
		if _, ok := v.float(); !ok {
			return nil, &Error{Line: p.line, Message: "number " + v.Text + " is out of range", Hint: "write a number of at most 64 bits"}
		}
	case string:
		v.Kind, v.Text = String, t
	case json.Delim:
		if t == '[' {
			v.Kind = List
			return v, p.list(v, depth)
		}
		v.Kind = Map
		return v, p.object(v, depth)
	}
	return v, nil
}

func (p *jsonParser) list(v *Value, depth int) error {
	for p.dec.More() {
		item, err := p.value(depth + 1)
		if err != nil {
			return err
		}
		v.Items = append(v.Items, item)
	}
	_, err := p.close()
	return err
}

func (p *jsonParser) object(v *Value, depth int) error {
	at := map[string]int{}
	for p.dec.More() {
		t, err := p.close()
		if err != nil {
			return err
		}
		name, _ := t.(string) // the decoder accepts nothing else as a key
		line := p.line
		if j, ok := at[name]; ok {
			return &Error{Line: line, Message: fmt.Sprintf("%q is given twice, first in line %d", name, v.Fields[j].Line), Hint: "keep one of the two"}
		}
		child, err := p.value(depth + 1)
		if err != nil {
			return err
		}
		at[name] = len(v.Fields)
		v.Fields = append(v.Fields, Field{name, line, child})
	}
	_, err := p.close()
	return err
}

// close reads a token inside a list or mapping, where the end of the text is an error.
func (p *jsonParser) close() (json.Token, error) {
	t, err := p.token()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return t, err
}

// Parse parses a document that holds exactly one value, in YAML or JSON.
func Parse(p Part) (*Value, error) {
	if LooksLikeJSON(p.Text) {
		if vs, err := ParseJSON(p.Text, p.Line); err == nil && len(vs) == 1 {
			return vs[0], nil
		}
	}
	return ParseYAML(p.Text, p.Line)
}
