package observe

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/api/substitution"
	"github.com/weirmesh/weir/proxy/http/message"
)

// Format is an access log line or a header value with operators, ready to be evaluated. It is immutable.
type Format struct {
	parts []part
	json  *node // instead of parts
	omit  bool  // what has no value is left out, instead of shown as "-" or null
}

// part is a substitution.Part with what evaluating it needs.
type part struct {
	substitution.Part
	id, alt message.ID
	layout  substitution.Layout
	sound   bool // the value needs no escaping, in whatever it stands
}

// node is a value of a JSON format.
type node struct {
	key      []byte // with its quotes and colon, in a map
	fixed    []byte // a value that does not depend on the record
	parts    []part // a string with operators
	list     bool
	children []node // of a map, in order of keys, or of a list
}

// ParseText reads a format of text. The operators are those of api/substitution. What has no value is "-", or nothing if
// omitEmpty says so (SubstitutionFormatString.omit_empty_values).
func ParseText(s string, omitEmpty bool) (*Format, error) {
	parts, err := compile(s)
	if err != nil {
		return nil, err
	}
	return &Format{parts: parts, omit: omitEmpty}, nil
}

// ParseJSON reads a format of JSON: strings in it are formats of text. A string that is one operator becomes a value of
// the operator's type, null if there is none.
func ParseJSON(s *structpb.Struct, omitEmpty bool) (*Format, error) {
	root, err := object(s, "")
	if err != nil {
		return nil, err
	}
	return &Format{json: &root, omit: omitEmpty}, nil
}

func compile(s string) ([]part, error) {
	parsed, err := substitution.Parse(s)
	if err != nil {
		return nil, err
	}
	out := make([]part, len(parsed))
	for i, p := range parsed {
		out[i] = part{Part: p, sound: p.Op.Number() || sound[p.Op]}
		switch {
		case p.Op == substitution.StartTime:
			if out[i].layout, err = substitution.ParseTime(p.Arg); err != nil {
				return nil, err
			}
		case p.Op.Header():
			out[i].id, out[i].alt = message.IDOf(p.Arg), message.IDOf(p.Alt)
		}
	}
	return out, nil
}

// sound are the operators, besides numbers, whose values are made of letters, digits and harmless punctuation.
var sound = map[substitution.Op]bool{
	substitution.Protocol: true, substitution.ResponseFlags: true, substitution.ResponseFlagsLong: true, substitution.AccessLogType: true, substitution.GRPCStatus: true,
	substitution.DownstreamRemoteAddress: true, substitution.DownstreamRemoteAddressWithoutPort: true, substitution.DownstreamLocalAddress: true, substitution.DownstreamLocalAddressWithoutPort: true,
	substitution.UpstreamLocalAddress: true, substitution.UpstreamLocalAddressWithoutPort: true, substitution.UpstreamProtocol: true,
}

func object(s *structpb.Struct, path string) (node, error) {
	n := node{}
	for _, k := range slices.Sorted(maps.Keys(s.GetFields())) {
		child, err := value(s.GetFields()[k], path+"."+k)
		if err != nil {
			return n, err
		}
		if child.key, err = json.Marshal(k); err != nil {
			return n, err
		}
		child.key = append(child.key, ':')
		n.children = append(n.children, child)
	}
	return n, nil
}

func value(v *structpb.Value, path string) (n node, err error) {
	switch k := v.GetKind().(type) {
	case *structpb.Value_StructValue:
		return object(k.StructValue, path)
	case *structpb.Value_ListValue:
		n.list = true
		for i, e := range k.ListValue.GetValues() {
			child, err := value(e, path+"["+strconv.Itoa(i)+"]")
			if err != nil {
				return n, err
			}
			n.children = append(n.children, child)
		}
		return n, nil
	case *structpb.Value_StringValue:
		if n.parts, err = compile(k.StringValue); err != nil {
			return n, fmt.Errorf("%s: %w", path, err)
		}
		if len(n.parts) == 0 {
			n.fixed = []byte(`""`)
		}
		for i := range n.parts {
			n.parts[i].Literal = string(escapeJSON([]byte(n.parts[i].Literal), 0))
		}
		return n, nil
	}
	n.fixed, err = json.Marshal(v.AsInterface())
	return n, err
}

// Literal is the text of a format without operators; false: it has some.
func (f *Format) Literal() (string, bool) {
	switch {
	case f == nil || f.json == nil && len(f.parts) == 0:
		return "", true
	case len(f.parts) == 1 && f.parts[0].Op == substitution.Literal:
		return f.parts[0].Literal, true
	}
	return "", false
}

// AppendLine appends what the format makes of r for a log: whatever a peer sent, a line of text stays a line with sound
// quoting, and JSON is JSON. JSON ends with a newline, text with what the format ends with.
func (f *Format) AppendLine(b []byte, r *Record) []byte {
	if f.json != nil {
		b, _ = f.appendNode(b, f.json, r)
		return append(b, '\n')
	}
	return f.appendParts(b, f.parts, r, escapeText)
}

// AppendValue appends what the format makes of r for a header's value.
func (f *Format) AppendValue(b []byte, r *Record) []byte {
	return f.appendParts(b, f.parts, r, dropControls)
}

// appendParts appends the parts one after the other; every value passes clean, which is given where it begins.
func (f *Format) appendParts(b []byte, parts []part, r *Record, clean func([]byte, int) []byte) []byte {
	for i := range parts {
		p := &parts[i]
		if p.Op == substitution.Literal {
			b = append(b, p.Literal...)
			continue
		}
		start := len(b)
		var ok bool
		if b, ok = r.append(b, p); !ok {
			if !f.omit {
				b = append(b, '-')
			}
			continue
		}
		if b = cut(b, start, p.Max); !p.sound {
			b = clean(b, start)
		}
	}
	return b
}

// cut bounds the value that begins at start.
func cut(b []byte, start, most int) []byte {
	if most > 0 && len(b)-start > most {
		return b[:start+most]
	}
	return b
}

// appendNode appends a value of JSON; false: it is to be left out, and nothing was appended.
func (f *Format) appendNode(b []byte, n *node, r *Record) ([]byte, bool) {
	start := len(b)
	switch {
	case n.fixed != nil:
		return append(b, n.fixed...), true
	case len(n.parts) == 1 && n.parts[0].Op != substitution.Literal:
		p := &n.parts[0]
		number := p.Op.Number() || p.Op == substitution.GRPCStatus && p.Arg == "NUMBER"
		if !number {
			b = append(b, '"')
		}
		inside := len(b)
		var ok bool
		if b, ok = r.append(b, p); !ok {
			return append(b[:start], "null"...), !f.omit
		}
		if number {
			return b, true
		}
		return append(escapeJSON(cut(b, inside, p.Max), inside), '"'), true
	case n.parts != nil:
		return append(f.appendParts(append(b, '"'), n.parts, r, escapeJSON), '"'), true
	}
	open, shut := byte('{'), byte('}')
	if n.list {
		open, shut = '[', ']'
	}
	b = append(b, open)
	some := false
	for i := range n.children {
		c := &n.children[i]
		before := len(b)
		if some {
			b = append(b, ',')
		}
		b = append(b, c.key...)
		var keep bool
		if b, keep = f.appendNode(b, c, r); !keep && !n.list {
			b = b[:before]
			continue
		}
		some = true
	}
	return append(b, shut), some || !f.omit || n == f.json
}

// dropControls takes what no header's value may have out of the one that begins at start.
func dropControls(b []byte, start int) []byte {
	return append(b[:start], slices.DeleteFunc(b[start:], func(c byte) bool { return c < ' ' && c != '\t' || c == 0x7f })...)
}

// What must be escaped: in text and JSON, in JSON.
const (
	oddText = 1 << iota
	oddJSON
)

var oddBytes = func() (t [256]uint8) {
	for c := range t {
		switch {
		case c == '"' || c == '\\' || c < ' ' || c == 0x7f:
			t[c] = oddText
		case c > 0x7f: // it may not be UTF-8
			t[c] = oddJSON
		}
	}
	return t
}()

func odd(v []byte, kinds uint8) bool {
	for _, c := range v {
		if oddBytes[c]&kinds != 0 {
			return true
		}
	}
	return false
}

const hexDigits = "0123456789abcdef"

// escapeText keeps a line a line and its quoting sound, whatever a peer sent: control bytes, quotes and backslashes are
// escaped.
func escapeText(b []byte, start int) []byte {
	if !odd(b[start:], oddText) {
		return b
	}
	v := string(b[start:])
	b = b[:start]
	for i := range len(v) {
		switch c := v[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c == 0x7f:
			b = append(b, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
		default:
			b = append(b, c)
		}
	}
	return b
}

// escapeJSON makes the value that begins at start the inside of a string of JSON (RFC 8259 section 7).
func escapeJSON(b []byte, start int) []byte {
	if !odd(b[start:], oddText|oddJSON) {
		return b
	}
	v := string(b[start:])
	b = b[:start]
	for _, c := range v {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', byte(c))
		case c < ' ' || c == 0x7f:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		default: // what is not UTF-8 has become U+FFFD
			b = utf8.AppendRune(b, c)
		}
	}
	return b
}

// AccessLog is one access log of a listener: how its lines look, and which there are.
type AccessLog struct {
	Format *Format
	// Only are flags of which a record must have one; 0: every record is logged (AccessLogFilter.response_flag_filter).
	Only causes.Flags
	// Audited says that only what a policy wants logged is.
	Audited bool
}

// Wants reports whether r is logged.
func (a *AccessLog) Wants(r *Record) bool {
	return (a.Only == 0 || a.Only&r.Flags != 0) && (!a.Audited || r.Audit != nil)
}
