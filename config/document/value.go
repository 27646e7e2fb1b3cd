// Package document turns text into trees that know their lines, and trees into typed
// objects, strictly.
//
// YAML and JSON text enters; a Value leaves (ParseYAML, ParseJSON), and from a Value a
// protobuf message (Proto) or a Go struct with JSON tags (Struct), together with every
// Problem found on the way: all of them, each with its field path and line, not only
// the first. Text is untrusted: size, depth and the expansion of aliases are limited.
// Everything here is a pure function; a Value is not modified after it was returned.
package document

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// Kind is the kind of a Value.
type Kind uint8

// Kinds of Value.
const (
	Null Kind = iota
	Bool
	Number
	String
	List
	Map
)

var kindNames = [...]string{"null", "a boolean", "a number", "a string", "a list", "a mapping"}

// String names the kind with its article, for sentences.
func (k Kind) String() string { return kindNames[k] }

// Value is one node of a document. Aliases and merge keys are already followed, so a
// subtree may be reachable more than once.
type Value struct {
	Kind   Kind
	Plain  bool   // a scalar written without quotes
	Line   int    // 1-based line in the file
	Text   string // scalars: as written, quotes and escapes removed
	Items  []*Value
	Fields []Field // in the order written, names unique
}

// Field is one entry of a Map.
type Field struct {
	Name  string
	Line  int
	Value *Value
}

// Get returns the field called name, or nil; of nil, too.
func (v *Value) Get(name string) *Value {
	if v == nil {
		return nil
	}
	for i := range v.Fields {
		if v.Fields[i].Name == name {
			return v.Fields[i].Value
		}
	}
	return nil
}

// String returns the text of a String, "" of anything else.
func (v *Value) String() string {
	if v == nil || v.Kind != String {
		return ""
	}
	return v.Text
}

// Index and Key extend a field path: "spec.http" → "spec.http[0]", and
// "metadata.labels" → `metadata.labels["app.kubernetes.io/name"]`.
func Index(path string, i int) string { return path + "[" + strconv.Itoa(i) + "]" }

// Key extends a path by a mapping key; a plain identifier is joined with a dot.
func Key(path, key string) string {
	plain := key != ""
	for _, r := range key {
		plain = plain && (r == '-' || r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z')
	}
	if !plain {
		return path + "[" + strconv.Quote(key) + "]"
	}
	if path == "" {
		return key
	}
	return path + "." + key
}

// LineOf returns the line of the field path leads to, or of its nearest ancestor that
// exists.
func (v *Value) LineOf(path string) int {
	if v == nil {
		return 0
	}
	line := v.Line
	for path != "" && v != nil {
		var key string
		switch {
		case strings.HasPrefix(path, `["`):
			quoted, err := strconv.QuotedPrefix(path[1:])
			if err != nil {
				return line
			}
			key, _ = strconv.Unquote(quoted)
			path = strings.TrimPrefix(path[1+len(quoted):], "]")
		case path[0] == '[':
			digits, rest, _ := strings.Cut(path[1:], "]")
			i, err := strconv.Atoi(digits)
			if err != nil || i < 0 || i >= len(v.Items) {
				return line
			}
			v, path = v.Items[i], rest
			line = v.Line
			continue
		default:
			path = strings.TrimPrefix(path, ".")
			end := strings.IndexAny(path, ".[")
			if end < 0 {
				end = len(path)
			}
			key, path = path[:end], path[end:]
		}
		var next *Value
		for i := range v.Fields {
			if v.Fields[i].Name == key {
				next, line = v.Fields[i].Value, v.Fields[i].Line
			}
		}
		v = next
	}
	return line
}

// Part renders a part of a document as a document of its own, in JSON, so that every
// field keeps its line (one that an alias repeats has the line of the alias).
func (v *Value) Part() Part {
	p := Part{Line: v.Line}
	line := v.Line
	var b []byte
	to := func(l int) {
		for ; line < l; line++ {
			b = append(b, '\n')
		}
	}
	var write func(v *Value)
	write = func(v *Value) {
		to(v.Line)
		switch v.Kind {
		case List:
			b = append(b, '[')
			for i, item := range v.Items {
				if i > 0 {
					b = append(b, ',')
				}
				write(item)
			}
			b = append(b, ']')
		case Map:
			b = append(b, '{')
			for i, f := range v.Fields {
				if i > 0 {
					b = append(b, ',')
				}
				to(f.Line)
				b = append(appendString(b, f.Name), ':')
				write(f.Value)
			}
			b = append(b, '}')
		default:
			b = v.AppendJSON(b)
		}
	}
	write(v)
	p.Text = string(b)
	return p
}

// integer reads a number as an integer, also 80.0, 0x50, 0o120 and YAML's 0120.
func (v *Value) integer() (*big.Int, bool) {
	s := strings.ReplaceAll(v.Text, "_", "")
	if n, ok := new(big.Int).SetString(s, 0); ok && len(s) <= 32 {
		return n, true
	}
	f, ok := v.float()
	if !ok || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return nil, false
	}
	return big.NewInt(int64(f)), true
}

func (v *Value) float() (float64, bool) {
	s := strings.ReplaceAll(v.Text, "_", "")
	if n, ok := new(big.Int).SetString(s, 0); ok && len(s) <= 32 {
		f, _ := new(big.Float).SetInt(n).Float64()
		return f, true
	}
	f, err := strconv.ParseFloat(s, 64)
	return f, err == nil && !math.IsNaN(f) && !math.IsInf(f, 0)
}

// AppendJSON appends the value as JSON. Aliases are written out.
func (v *Value) AppendJSON(b []byte) []byte {
	switch v.Kind {
	case Null:
		return append(b, "null"...)
	case Bool:
		return strconv.AppendBool(b, isTrue(v.Text))
	case Number:
		if n, ok := v.integer(); ok {
			return n.Append(b, 10)
		}
		f, _ := v.float()
		return strconv.AppendFloat(b, f, 'g', -1, 64)
	case String:
		return appendString(b, v.Text)
	case List:
		b = append(b, '[')
		for i, item := range v.Items {
			if i > 0 {
				b = append(b, ',')
			}
			b = item.AppendJSON(b)
		}
		return append(b, ']')
	case Map:
		b = append(b, '{')
		for i := range v.Fields {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendString(b, v.Fields[i].Name)
			b = append(b, ':')
			b = v.Fields[i].Value.AppendJSON(b)
		}
		return append(b, '}')
	}
	panic(fmt.Sprintf("document: kind %d", v.Kind))
}

func appendString(b []byte, s string) []byte {
	quoted, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings always marshal
	}
	return append(b, quoted...)
}

func isTrue(text string) bool {
	switch strings.ToLower(text) {
	case "true", "yes", "on":
		return true
	}
	return false
}

// Digest writes what the value says, and with lines also where, into a hash.
func (v *Value) Digest(w hash.Hash, lines bool) {
	var b []byte
	var walk func(v *Value)
	walk = func(v *Value) {
		b = append(b, byte(v.Kind))
		if lines {
			b = binary.AppendUvarint(b, uint64(v.Line))
		}
		put := func(s string) {
			b = binary.AppendUvarint(b, uint64(len(s)))
			b = append(b, s...)
		}
		switch v.Kind {
		case List:
			b = binary.AppendUvarint(b, uint64(len(v.Items)))
			for _, item := range v.Items {
				walk(item)
			}
		case Map:
			b = binary.AppendUvarint(b, uint64(len(v.Fields)))
			for i := range v.Fields {
				put(v.Fields[i].Name)
				walk(v.Fields[i].Value)
			}
		default:
			put(v.Text)
		}
		if len(b) > 4096 {
			w.Write(b)
			b = b[:0]
		}
	}
	walk(v)
	w.Write(b)
}

// Error says why text is no document.
type Error struct {
	Line    int // 0 if it concerns the whole document
	Message string
	Hint    string
	Limit   bool // a limit was exceeded, the text may be well-formed
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.Message
	}
	return fmt.Sprintf("line %d: %s", e.Line, e.Message)
}
