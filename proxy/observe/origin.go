package observe

import (
	"strconv"
	"unique"
)

// Object is the configuration object that something was made from, which version of it, and where its text is.
type Object struct {
	Config string // "/apis/networking.istio.io/v1/namespaces/default/virtual-service/reviews"
	Hash   string // of its content; "": not known
	File   string
	Line   int
}

// Origin is an Object in a word: one that everything made from the object shares. The zero value is no object.
type Origin struct{ object unique.Handle[Object] }

// OriginOf is the Origin of an object.
func OriginOf(o Object) Origin {
	if o == (Object{}) {
		return Origin{}
	}
	return Origin{unique.Make(o)}
}

// Object is the object; an empty one if there is none.
func (o Origin) Object() Object {
	if o == (Origin{}) {
		return Object{}
	}
	return o.object.Value()
}

// append appends the object as one word: its path, then its file and line where they are known; false: there is none.
func (o Origin) append(b []byte) ([]byte, bool) {
	x := o.Object()
	if x.Config == "" {
		return b, false
	}
	b = append(b, x.Config...)
	if x.File != "" {
		b = append(append(b, '@'), x.File...)
		b = strconv.AppendInt(append(b, ':'), int64(x.Line), 10)
	}
	return b, true
}
