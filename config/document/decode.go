package document

import (
	"encoding/base64"
	"fmt"
	"math"
	"math/big"
	"strings"
	"time"
)

// Problem is one thing wrong with one field.
type Problem struct {
	Path       string
	Line       int
	Message    string
	Hint       string
	Deprecated bool // it works, for now
}

// decoder is what Proto and Struct share.
type decoder struct{ report func(Problem) }

func (d decoder) fail(v *Value, path, message, hint string) {
	d.report(Problem{Path: path, Line: v.Line, Message: message, Hint: hint})
}

// mismatch reports a value of the wrong kind. example is a correct value.
func (d decoder) mismatch(v *Value, path string, want Kind, example string) {
	hint := ""
	switch {
	case want == String && v.Plain && v.Kind != Null:
		hint = fmt.Sprintf("quote it: %q", v.Text)
	case v.Kind == String && (want == Number && looksNumeric(v.Text) || want == Bool && (v.Text == "true" || v.Text == "false")):
		hint = "remove the quotes: " + v.Text
	case want == List && v.Kind == Map:
		hint = `begin each entry with "- "`
	case want == List && v.Kind != Null:
		hint = `write a list: "- ` + v.Text + `"`
	case want == Map && v.Kind == List:
		hint = `remove the "- "`
	case example != "":
		hint = "for example " + example
	case want == Map:
		hint = "write NAME: VALUE lines below it, indented"
	case want == List:
		hint = `write each entry on a line of its own that begins with "- "`
	default:
		hint = "remove the field, or give it a value"
	}
	d.fail(v, path, fmt.Sprintf("must be %s, is %s", want, v.Kind), hint)
}

func looksNumeric(s string) bool {
	_, ok := (&Value{Text: s}).float()
	return ok
}

// unknown reports a field that does not exist. nested finds a place below where it does.
func (d decoder) unknown(f Field, path string, known []string, nested func(name string) string) {
	hint := ""
	if s := Suggest(f.Name, known); s != "" {
		hint = "did you mean " + s + "?"
	} else if place := nested(f.Name); place != "" {
		hint = f.Name + " belongs in " + place
	} else if len(known) > 0 && len(known) <= 12 {
		hint = "known fields are " + strings.Join(known, ", ")
	}
	d.report(Problem{Path: path, Line: f.Line, Message: fmt.Sprintf("unknown field %q", f.Name), Hint: hint})
}

func (d decoder) string(v *Value, path string) (string, bool) {
	if v.Kind != String {
		d.mismatch(v, path, String, "")
		return "", false
	}
	return v.Text, true
}

// bool also takes YAML 1.1's words, as kubectl does.
func (d decoder) bool(v *Value, path string) (val, ok bool) {
	if v.Kind == Bool {
		return isTrue(v.Text), true
	}
	if v.Kind == String && v.Plain {
		switch strings.ToLower(v.Text) {
		case "yes", "on":
			return true, true
		case "no", "off":
			return false, true
		}
	}
	d.mismatch(v, path, Bool, "true")
	return false, false
}

func (d decoder) float(v *Value, path string) (float64, bool) {
	if v.Kind != Number {
		d.mismatch(v, path, Number, "1.5")
		return 0, false
	}
	return v.float()
}

// integer reads a whole number from low to high.
func (d decoder) integer(v *Value, path string, low int64, high uint64) (*big.Int, bool) {
	if v.Kind != Number {
		d.mismatch(v, path, Number, "80")
		return nil, false
	}
	n, ok := v.integer()
	if !ok {
		d.fail(v, path, "must be a whole number, is "+v.Text, "give digits alone, for example 8080")
		return nil, false
	}
	if n.Cmp(big.NewInt(low)) < 0 || n.Cmp(new(big.Int).SetUint64(high)) > 0 {
		d.fail(v, path, fmt.Sprintf("%s is out of range", v.Text), fmt.Sprintf("it must be from %d to %d", low, high))
		return nil, false
	}
	return n, true
}

// intRange gives the limits of an integer of so many bits.
func intRange(bits int, signed bool) (int64, uint64) {
	if signed {
		return math.MinInt64 >> (64 - bits), math.MaxInt64 >> (64 - bits)
	}
	return 0, math.MaxUint64 >> (64 - bits)
}

func (d decoder) bytes(v *Value, path string) ([]byte, bool) {
	s, ok := d.string(v, path)
	if !ok {
		return nil, false
	}
	// Base64 in files is often folded over lines.
	b, err := base64.StdEncoding.DecodeString(strings.Map(func(r rune) rune {
		if r == ' ' {
			return -1
		}
		return r
	}, s))
	if err != nil {
		d.fail(v, path, "is not base64", "encode the value: printf %s VALUE | base64 -w0")
		return nil, false
	}
	return b, true
}

// duration reads Istio's durations: Go's syntax, "1h", "1.5s", "10ms".
func (d decoder) duration(v *Value, path string) (time.Duration, bool) {
	const hint = `a duration is a number with a unit: "1.5s", "200ms", "1h"`
	if v.Kind == Number {
		d.fail(v, path, "has no unit", fmt.Sprintf(`write "%ss" for seconds, "%sms" for milliseconds`, v.Text, v.Text))
		return 0, false
	}
	if v.Kind != String {
		d.mismatch(v, path, String, `"5s"`)
		return 0, false
	}
	t, err := time.ParseDuration(v.Text)
	if err != nil {
		d.fail(v, path, fmt.Sprintf("%q is not a duration", v.Text), hint)
		return 0, false
	}
	return t, true
}
