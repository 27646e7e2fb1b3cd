// Package hpack is the header compression of HTTP/2 (RFC 7541): header blocks in, fields out (Decoder); fields in, blocks out
// (Encoder). Names come with the IDs of package message, so that nobody looks at a name twice, and every field says what is wrong
// with it for HTTP/2 (RFC 9113 section 8.2.1), found once when it entered the table.
//
// Both are one direction of one connection and belong to one loop. They allocate until their tables have their working size, then
// never again. An idle connection has no table: memory comes with the first entry and is bounded by twice the table's size.
package hpack

import "github.com/weirmesh/weir/proxy/http/message"

// Kind is what a field's name is: a message.ID, or one of the pseudo-headers of RFC 9113 section 8.3.
type Kind uint8

const (
	Authority Kind = 0x80 + iota
	Method
	Path
	Protocol
	Scheme
	Status
	UnknownPseudo // any other name that begins with a colon
)

// Pseudo reports whether the name begins with a colon.
func (k Kind) Pseudo() bool { return k >= 0x80 }

// ID is the name's ID; pseudo-headers have none.
func (k Kind) ID() message.ID {
	if k.Pseudo() {
		return message.OtherHeader
	}
	return message.ID(k)
}

// Fault is why a field must not be in an HTTP/2 message.
type Fault uint8

const (
	NoFault Fault = iota
	UpperCase
	InvalidName
	InvalidValue
	PaddedValue // white space before or behind the value
)

// Field is one decoded field. Name and Value are constants or in the arena given to Next.
type Field struct {
	Name, Value []byte
	Size        uint32 // as RFC 7541 section 4.1 counts it
	Kind        Kind
	Fault       Fault
	Never       bool // came as a literal never indexed (RFC 7541 section 6.2.3)
}

// overhead is what an entry counts beyond its bytes (RFC 7541 section 4.1).
const overhead = 32

// DefaultTableSize is the table's size before any setting (RFC 9113 section 6.5.2).
const DefaultTableSize = 4096

// MaxTableSize is the largest table we let anybody have: entries note their lengths in 16 bits, and more has no use.
const MaxTableSize = 64 << 10

func kindOf(name []byte) Kind {
	if len(name) == 0 || name[0] != ':' {
		return Kind(message.IDOf(name))
	}
	switch string(name) {
	case ":authority":
		return Authority
	case ":method":
		return Method
	case ":path":
		return Path
	case ":protocol":
		return Protocol
	case ":scheme":
		return Scheme
	case ":status":
		return Status
	}
	return UnknownPseudo
}

// constant is the name that follows from k, nil where it does not.
func (k Kind) constant() []byte {
	switch {
	case k.Pseudo():
		return pseudoNames[k-Authority]
	case k == Kind(message.OtherHeader):
		return nil
	}
	return message.ID(k).Bytes()
}

var pseudoNames = [...][]byte{[]byte(":authority"), []byte(":method"), []byte(":path"), []byte(":protocol"), []byte(":scheme"), []byte(":status"), nil}

func checkName(name []byte) Fault {
	if len(name) == 0 {
		return InvalidName
	}
	for _, c := range name {
		if l := message.LowerToken(c); l != c {
			if l != 0 {
				return UpperCase
			}
			return InvalidName
		}
		if c == 0 {
			return InvalidName
		}
	}
	return NoFault
}

func checkValue(v []byte) Fault {
	if len(v) == 0 {
		return NoFault
	}
	if _, bad := message.BadValueByte(v); bad {
		return InvalidValue
	}
	if a, z := v[0], v[len(v)-1]; a == ' ' || a == '\t' || z == ' ' || z == '\t' {
		return PaddedValue
	}
	return NoFault
}
