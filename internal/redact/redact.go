// Package redact holds secrets that do not print themselves.
//
// A key or token enters through New and leaves only through Reveal, so every
// place that can leak one is found by searching for that word. All other ways
// out (fmt with any verb, slog, JSON, text and YAML encoders, a debugger's dump
// of the surrounding struct) give a placeholder. Values are immutable by
// agreement and may be shared between goroutines.
package redact

import (
	"crypto/subtle"
	"fmt"
	"io"
	"log/slog"
)

const (
	hidden = "[redacted]"
	empty  = "[empty]" // that a secret is missing is what people look for in a dump
)

// Secret hides a value of type T. The zero value is the empty secret.
//
// The value sits behind two pointers because fmt does not call the methods of
// unexported fields. It prints a pointer there as an address, except after a
// verb that does not suit pointers (%s), where it follows one, but not two.
type Secret[T string | []byte] struct{ value **T }

// Bytes is a secret key, String a secret token or password.
type (
	Bytes  = Secret[[]byte]
	String = Secret[string]
)

// New hides value. A byte slice is not copied: the caller gives it away.
func New[T string | []byte](value T) Secret[T] {
	if len(value) == 0 {
		return Secret[T]{}
	}
	p := &value
	return Secret[T]{&p}
}

// Reveal returns the secret itself. The caller must not modify a byte slice.
func (s Secret[T]) Reveal() T {
	if s.value == nil {
		var zero T
		return zero
	}
	return **s.value
}

// IsZero reports whether the secret is empty.
func (s Secret[T]) IsZero() bool { return s.value == nil }

// Equal compares in time that depends on the lengths only.
func (s Secret[T]) Equal(o Secret[T]) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(o.Reveal())) == 1
}

func (s Secret[T]) String() string {
	if s.IsZero() {
		return empty
	}
	return hidden
}

// GoString serves %#v.
func (s Secret[T]) GoString() string { return s.String() }

// Format serves every verb of fmt, also %x and %d.
func (s Secret[T]) Format(f fmt.State, _ rune) { io.WriteString(f, s.String()) }

// MarshalText serves text, YAML and XML encoders.
func (s Secret[T]) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON serves encoding/json.
func (s Secret[T]) MarshalJSON() ([]byte, error) { return []byte(`"` + s.String() + `"`), nil }

// LogValue serves log/slog.
func (s Secret[T]) LogValue() slog.Value { return slog.StringValue(s.String()) }
