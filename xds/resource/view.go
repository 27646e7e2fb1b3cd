package resource

import (
	"reflect"

	"github.com/weirmesh/weir/internal/persist"
)

// Set holds the resources of one type by name. Being persistent, a set that differs in a
// few resources from another is cheap to make and cheap to compare with it (Diff with
// Same), and a set that many clients share is held once.
type Set = persist.Map[string, *Resource]

// View is everything one client may hold, as of one version of the configuration. Views
// and the map in them are never changed after they were handed on.
type View struct {
	// Version counts configurations. It grows; two Views of one client with the same
	// Version have the same content.
	Version uint64
	// Sets are the resources by type URL. A type that is missing has no resources.
	Sets map[string]Set
	// Wild, for a type that is in it, is what a subscription to everything means to this
	// client: a part of the Set, from which it gets by name what else it asks for. (What
	// the site makes of a wildcard is its affair: xDS protocol, "How the client specifies
	// what resources to return".) All Views of one client have the same types in Wild.
	Wild map[string]Set
}

// Alike reports whether two Views hold the very same maps, and differ in Version at most: a
// cheap "nothing changed". Views that are not alike may still have the same content.
func (v *View) Alike(o *View) bool {
	same := func(a, b map[string]Set) bool {
		return reflect.ValueOf(a).UnsafePointer() == reflect.ValueOf(b).UnsafePointer()
	}
	return v == o || v != nil && o != nil && same(v.Sets, o.Sets) && same(v.Wild, o.Wild)
}

// NewView sorts resources into a View. Of two with the same type and name the last stays.
func NewView(version uint64, resources ...*Resource) *View {
	v := &View{Version: version, Sets: map[string]Set{}}
	for _, r := range resources {
		v.Sets[r.typeURL] = v.Sets[r.typeURL].Set(r.name, r)
	}
	return v
}

// Wildcard is what a subscription to everything of one type means; limited says that there
// may be more.
func (v *View) Wildcard(typeURL string) (set Set, limited bool) {
	if v == nil {
		return Set{}, false
	}
	if set, limited = v.Wild[typeURL]; limited {
		return set, true
	}
	return v.Sets[typeURL], false
}

// Set is the set of one type. A nil View is empty.
func (v *View) Set(typeURL string) Set {
	if v == nil {
		return Set{}
	}
	return v.Sets[typeURL]
}
