package config

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// ID is what makes two documents the same object; the version of the API does not.
type ID struct{ Group, Kind, Namespace, Name string }

// String is "group/Kind/namespace/name" and orders IDs.
func (id ID) String() string {
	return id.Group + "/" + id.Kind + "/" + id.Namespace + "/" + id.Name
}

// maxFileName leaves room for what is put before and behind a FileName: names of files
// have at most 255 bytes.
const maxFileName = 180

// FileName names a file about the object, without separators of paths: kinds, groups and
// namespaces have no '_'.
func (id ID) FileName() string {
	name := id.Kind + "." + id.Group + "_" + id.Namespace + "_" + id.Name
	if len(name) > maxFileName {
		sum := sha256.Sum256([]byte(name))
		name = name[:maxFileName-2*len(sum)/2] + hex.EncodeToString(sum[:len(sum)/2])
	}
	return name
}

// ParseFileName is the reverse of FileName; ok is false if name is none, or one of those
// that were too long.
func ParseFileName(name string) (id ID, ok bool) {
	kind, rest, _ := strings.Cut(name, ".")
	p := strings.SplitN(rest, "_", 3)
	if len(p) != 3 {
		return ID{}, false
	}
	id = ID{p[0], kind, p[1], p[2]}
	return id, id.Kind != "" && id.Name != "" && len(name) < maxFileName
}

// refGroups are the API groups of the kinds that a mesh.Ref can name; the others are of the
// core group.
var refGroups = map[string]string{
	"VirtualService": "networking.istio.io", "DestinationRule": "networking.istio.io", "Gateway": "networking.istio.io",
	"ServiceEntry": "networking.istio.io", "WorkloadEntry": "networking.istio.io", "Sidecar": "networking.istio.io", "PeerAuthentication": "security.istio.io",
	"RequestAuthentication": "security.istio.io", "AuthorizationPolicy": "security.istio.io", "Deployment": "apps",
	"ServiceRole": "rbac.istio.io", "ServiceRoleBinding": "rbac.istio.io", "RbacConfig": "rbac.istio.io", "ClusterRbacConfig": "rbac.istio.io",
	"Policy": "authentication.istio.io", "MeshPolicy": "authentication.istio.io",
}

// IDOf is the ID of the object that a part of the plan stands for.
func IDOf(ref mesh.Ref) ID { return ID{refGroups[ref.Kind], ref.Kind, ref.Namespace, ref.Name} }

// ParseID is the reverse of String.
func ParseID(s string) (ID, error) {
	p := strings.Split(s, "/")
	if len(p) != 4 {
		return ID{}, fmt.Errorf("%q is not group/Kind/namespace/name", s)
	}
	return ID{p[0], p[1], p[2], p[3]}, nil
}

// Compare orders IDs.
func (id ID) Compare(o ID) int {
	return cmp.Or(cmp.Compare(id.Group, o.Group), cmp.Compare(id.Kind, o.Kind), cmp.Compare(id.Namespace, o.Namespace), cmp.Compare(id.Name, o.Name))
}

// Object is one object as a source read it.
type Object struct {
	ID         ID
	Ref        mesh.Ref
	APIVersion string
	// Place names content and position: what was lowered from an Object with the same
	// Place is still right, lines included.
	Place string

	root   *document.Value // nil: parse text
	text   document.Part
	astray string
	names  []string
}

// NewObject identifies a document, root, whose text is text. The findings say why there
// is no object.
func NewObject(root *document.Value, text document.Part, file, defaultNamespace string) (*Object, []Finding) {
	at := mesh.Ref{File: file, Line: root.Line}
	fail := func(code Code, line int, message, hint string) (*Object, []Finding) {
		return nil, []Finding{New(code, at, "", line, message, hint)}
	}
	if root.Kind != document.Map {
		return fail(NotAnObject, root.Line, "the document is "+root.Kind.String()+", not an object", "an object begins with apiVersion and kind")
	}
	switch {
	case file == "":
		at.Line = 0 // an object of an API server has fields, not lines
	case len(root.Fields) > 0:
		at.Line = root.Fields[0].Line
	}
	apiVersion, kind := root.Get("apiVersion").String(), root.Get("kind").String()
	for _, f := range []struct{ name, value string }{{"apiVersion", apiVersion}, {"kind", kind}} {
		if f.value == "" {
			hint := "add " + f.name
			for _, have := range root.Fields {
				if document.Suggest(have.Name, []string{f.name}) != "" && have.Name != f.name {
					hint = "write " + f.name + " instead of " + have.Name
				}
			}
			return fail(NotAnObject, root.LineOf(f.name), "the document has no "+f.name, hint)
		}
	}
	group, version := splitAPIVersion(apiVersion)
	switch {
	case group != "" && len(validation.IsDNS1123Subdomain(group)) > 0 || len(validation.IsDNS1035Label(version)) > 0:
		return fail(NotAnObject, root.LineOf("apiVersion"), fmt.Sprintf("%q is not an apiVersion", apiVersion), "it looks like networking.istio.io/v1")
	case len(validation.IsDNS1035Label(strings.ToLower(kind))) > 0:
		return fail(NotAnObject, root.LineOf("kind"), fmt.Sprintf("%q is not a kind", kind), "a kind is a word: letters and digits, at most 63, beginning with a letter")
	}
	o := &Object{ID: ID{Group: group, Kind: kind}, APIVersion: apiVersion, root: root, text: text}
	at.Kind = kind
	meta := root.Get("metadata")
	o.ID.Name = meta.Get("name").String()
	o.ID.Namespace = meta.Get("namespace").String()
	at.Name, at.Namespace = o.ID.Name, o.ID.Namespace
	var out []Finding
	bad := func(path, message, hint string) {
		out = append(out, New(BadMetadata, at, path, root.LineOf(path), message, hint))
	}
	if g := meta.Get("generateName"); g != nil {
		bad("metadata.generateName", "a name would be made up on every reading", "give metadata.name")
	}
	switch name := meta.Get("name"); {
	case name != nil && name.Kind != document.String && name.Kind != document.Null:
		bad("metadata.name", "must be a string, is "+name.Kind.String(), fmt.Sprintf("quote it: %q", name.Text))
	case o.ID.Name == "" && meta.Get("generateName") == nil:
		bad("metadata.name", "the object has no name", "add metadata.name")
	case o.ID.Name != "":
		if why := nameProblem(apiVersion, kind, o.ID.Name); why != "" {
			bad("metadata.name", fmt.Sprintf("%q is not a valid name", o.ID.Name), why)
		}
	}
	ns := meta.Get("namespace")
	switch {
	case slices.Contains(clusterScoped, kind):
		o.ID.Namespace = ""
	case ns != nil && ns.Kind != document.String && ns.Kind != document.Null:
		bad("metadata.namespace", "must be a string, is "+ns.Kind.String(), fmt.Sprintf("quote it: %q", ns.Text))
	case o.ID.Namespace == "":
		o.ID.Namespace = defaultNamespace
	case len(validation.IsDNS1123Label(o.ID.Namespace)) > 0:
		bad("metadata.namespace", fmt.Sprintf("%q is not a valid namespace", o.ID.Namespace), labelRule)
	}
	if len(out) > 0 {
		return nil, out
	}
	at.Namespace = o.ID.Namespace
	o.Ref = at
	o.Ref.Created = created(meta.Get("creationTimestamp").String())
	content, place := sha256.New(), sha256.New()
	fmt.Fprintf(content, "%s\x00", o.ID)
	fmt.Fprintf(place, "%s\x00%s\x00", o.ID, file)
	root.Digest(content, false)
	root.Digest(place, true)
	o.Ref.Hash = hex.EncodeToString(content.Sum(nil)[:8])
	o.Place = hex.EncodeToString(place.Sum(nil)[:16])
	return o, nil
}

const labelRule = "use at most 63 lower-case letters, digits and '-', beginning and ending with a letter or digit"

// nameProblem says what is wrong with the name of an object, as the API server would.
func nameProblem(apiVersion, kind, name string) string {
	if strings.ContainsAny(name, "/%") || name == "." || name == ".." {
		return "a name is one path segment: no '/' and no '%'"
	}
	if use, _, _ := Classify(apiVersion, kind); use == NotUsed {
		return "" // each kind has its own rule, and none is our business
	}
	switch {
	case kind == "Service":
		if len(validation.IsDNS1035Label(name)) > 0 {
			return labelRule + "; it begins with a letter"
		}
	case kind == "Namespace" || kind == "Gateway":
		if len(validation.IsDNS1123Label(name)) > 0 {
			return labelRule
		}
	case len(validation.IsDNS1123Subdomain(name)) > 0:
		return "use at most 253 lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit"
	}
	return ""
}

func created(timestamp string) int64 {
	t, err := time.Parse(time.RFC3339, timestamp)
	if err != nil {
		return 0
	}
	return t.Unix()
}

// Root is the object's document. It is parsed again when it was dropped by Compact, so
// keep it only as long as needed.
func (o *Object) Root() *document.Value {
	if o.root != nil {
		return o.root
	}
	root, err := document.Parse(o.text)
	if err != nil || root == nil {
		panic(fmt.Sprintf("config: %v was parsed before and cannot be parsed again: %v", o.ID, err))
	}
	return root
}

// LineOf is the line of a field, or of the nearest one above it.
func (o *Object) LineOf(path string) int {
	if path == "" {
		return o.Ref.Line
	}
	return o.Root().LineOf(path)
}

// Compact is the object without its parsed document, which is several times the size of
// its text.
func (o *Object) Compact() *Object {
	if o.root == nil {
		return o
	}
	c := *o
	c.root = nil
	return &c
}

// Text is the object as it was written, comments included; an entry of a list is JSON.
func (o *Object) Text() string { return o.text.Text }

// TextLine is the line of Ref.File in which Text begins.
func (o *Object) TextLine() int { return o.text.Line }

// saved is the form of an Object in a file of ours.
type saved struct {
	File      string `json:"file"`
	Line      int    `json:"line"`
	Namespace string `json:"namespace"`
	Text      string `json:"text"`
}

// MarshalJSON keeps the object's text and place.
func (o *Object) MarshalJSON() ([]byte, error) {
	return json.Marshal(saved{File: o.Ref.File, Line: o.text.Line, Namespace: o.ID.Namespace, Text: o.text.Text})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (o *Object) UnmarshalJSON(data []byte) error {
	var s saved
	if err := json.Unmarshal(data, &s); err != nil {
		return err
	}
	part := document.Part{Text: s.Text, Line: s.Line}
	root, err := document.Parse(part)
	if err != nil {
		return err
	}
	if root == nil {
		return errors.New("no object in it")
	}
	n, findings := NewObject(root, part, s.File, s.Namespace)
	if n == nil {
		return fmt.Errorf("%v", findings)
	}
	*o = *n
	return nil
}

// Fallback is the Rank from which on Units give way: what they define is in force as long
// as nothing of a lower Rank defines it, and that is no mistake of anybody's.
const Fallback = 1 << 20

// Unit is everything one place (a file) says now: what sources publish, always whole.
type Unit struct {
	Name     string // unique; for a file its path as the user named it
	Rank     int    // of two Units that define one object the lower (Rank, Name) wins
	Objects  []*Object
	Findings []Finding
	// Incomplete: something in it could not be read. What it defined before and does
	// not now may still be meant.
	Incomplete bool
	Gone       bool
}

// Fact is what a source that watches what is really there says of one thing: lowered
// already, and never broken, because somebody runs it.
type Fact struct {
	ID ID
	// Lowered is []*registry.Service (of a Service), *registry.Slice (of an EndpointSlice),
	// *mesh.Workload (of a Pod) or *kube.Secret; nil if the thing is gone.
	Lowered  any
	Findings []Finding
}
