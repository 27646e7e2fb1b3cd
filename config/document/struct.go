package document

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Struct fills the Go struct ptr points to from v by its json tags, as Kubernetes
// decodes its objects under strict field validation: names are case-sensitive, null
// means not given.
func Struct(v *Value, path string, ptr any, report func(Problem)) {
	structDecoder{decoder{report}}.value(v, path, reflect.ValueOf(ptr).Elem())
}

type structDecoder struct{ decoder }

func (d structDecoder) value(v *Value, path string, to reflect.Value) bool {
	if to.Kind() == reflect.Pointer {
		p := reflect.New(to.Type().Elem())
		ok := d.value(v, path, p.Elem())
		to.Set(p)
		return ok
	}
	if u, ok := reflect.TypeAssert[json.Unmarshaler](to.Addr()); ok {
		return d.unmarshal(v, path, u, to.Type())
	}
	switch to.Kind() {
	case reflect.Struct:
		return d.fields(v, path, to)
	case reflect.Map:
		return d.mapping(v, path, to)
	case reflect.Slice:
		if to.Type().Elem().Kind() == reflect.Uint8 {
			b, ok := d.bytes(v, path)
			to.SetBytes(b)
			return ok
		}
		return d.list(v, path, to)
	case reflect.String:
		s, ok := d.string(v, path)
		to.SetString(s)
		return ok
	case reflect.Bool:
		b, ok := d.bool(v, path)
		to.SetBool(b)
		return ok
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		low, high := intRange(to.Type().Bits(), true)
		n, ok := d.integer(v, path, low, high)
		if ok {
			to.SetInt(n.Int64())
		}
		return ok
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		low, high := intRange(to.Type().Bits(), false)
		n, ok := d.integer(v, path, low, high)
		if ok {
			to.SetUint(n.Uint64())
		}
		return ok
	case reflect.Float32, reflect.Float64:
		f, ok := d.float(v, path)
		to.SetFloat(f)
		return ok
	}
	d.fail(v, path, fmt.Sprintf("fields of type %s are not understood", to.Type()), "remove the field")
	return false
}

// unmarshal serves types with their own JSON form: quantities, times, int-or-string.
func (d structDecoder) unmarshal(v *Value, path string, u json.Unmarshaler, t reflect.Type) bool {
	if err := u.UnmarshalJSON(v.AppendJSON(nil)); err != nil {
		hint := ""
		switch t.Name() {
		case "Quantity":
			hint = `a quantity is a number with an optional unit: "100m", "128Mi"`
		case "IntOrString":
			hint = "a port is a number or a name"
		case "Time", "MicroTime":
			hint = `a time looks like "2026-11-20T08:00:00Z"`
		}
		d.fail(v, path, fmt.Sprintf("%s is not a valid %s", v.AppendJSON(nil), t.Name()), hint)
		return false
	}
	return true
}

func (d structDecoder) fields(v *Value, path string, to reflect.Value) bool {
	if v.Kind != Map {
		d.mismatch(v, path, Map, "")
		return false
	}
	ok := true
	for _, f := range v.Fields {
		at := Key(path, f.Name)
		field, found := fieldByTag(to, f.Name)
		if !found {
			names := tagNames(to.Type(), nil)
			d.unknown(f, at, names, func(name string) string { return nestedTag(to.Type(), name) })
			ok = false
			continue
		}
		if f.Value.Kind != Null {
			ok = d.value(f.Value, at, field) && ok
		}
	}
	return ok
}

func (d structDecoder) mapping(v *Value, path string, to reflect.Value) bool {
	if v.Kind != Map {
		d.mismatch(v, path, Map, "")
		return false
	}
	if to.Type().Key().Kind() != reflect.String {
		d.fail(v, path, fmt.Sprintf("fields of type %s are not understood", to.Type()), "remove the field")
		return false
	}
	m, ok := reflect.MakeMapWithSize(to.Type(), len(v.Fields)), true
	for _, f := range v.Fields {
		at := Key(path, f.Name)
		val := reflect.New(to.Type().Elem()).Elem()
		if f.Value.Kind != Null && !d.value(f.Value, at, val) {
			ok = false
			continue
		}
		m.SetMapIndex(reflect.ValueOf(f.Name).Convert(to.Type().Key()), val)
	}
	to.Set(m)
	return ok
}

func (d structDecoder) list(v *Value, path string, to reflect.Value) bool {
	if v.Kind != List {
		d.mismatch(v, path, List, "")
		return false
	}
	s, ok := reflect.MakeSlice(to.Type(), len(v.Items), len(v.Items)), true
	for i, item := range v.Items {
		at := Index(path, i)
		if item.Kind == Null {
			d.fail(item, at, "the list entry is empty", `remove the "-", or write a value after it`)
			ok = false
			continue
		}
		ok = d.value(item, at, s.Index(i)) && ok
	}
	to.Set(s)
	return ok
}

// tag gives the JSON name of a struct field; inline fields have none.
func tag(f reflect.StructField) (name string, inline, skip bool) {
	name, _, _ = strings.Cut(f.Tag.Get("json"), ",")
	switch {
	case name == "-" || !f.IsExported():
		return "", false, true
	case name == "":
		return "", f.Anonymous, !f.Anonymous
	}
	return name, false, false
}

func fieldByTag(to reflect.Value, want string) (reflect.Value, bool) {
	t := to.Type()
	for i := range t.NumField() {
		name, inline, skip := tag(t.Field(i))
		switch {
		case skip:
		case inline:
			if f, ok := fieldByTag(to.Field(i), want); ok {
				return f, true
			}
		case name == want:
			return to.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func tagNames(t reflect.Type, names []string) []string {
	for field := range t.Fields() {
		name, inline, skip := tag(field)
		switch {
		case skip:
		case inline:
			names = tagNames(field.Type, names)
		default:
			names = append(names, name)
		}
	}
	return names
}

// nestedTag finds the struct field one level below that is called want.
func nestedTag(t reflect.Type, want string) string {
	for field := range t.Fields() {
		name, _, skip := tag(field)
		if skip || name == "" || name == "status" || name == "metadata" {
			continue
		}
		inner, suffix := field.Type, ""
		for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Slice {
			if inner.Kind() == reflect.Slice {
				suffix = "[]"
			}
			inner = inner.Elem()
		}
		if inner.Kind() != reflect.Struct {
			continue
		}
		if slices.Contains(tagNames(inner, nil), want) {
			return name + suffix
		}
	}
	return ""
}
