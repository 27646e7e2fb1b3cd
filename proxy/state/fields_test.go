package state

import (
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"os"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// What the table says of fields: they exist, have one fate each with a reason that is one, and those that are said to be honoured
// are read somewhere in this package.
func TestFieldsAreWhatTheTableSays(t *testing.T) {
	read := selectors(t)
	for name, k := range fields {
		d, err := protoregistry.GlobalTypes.FindMessageByName(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		of := d.Descriptor().Fields()
		for _, f := range k.acts {
			fd := of.ByName(protoreflect.Name(f))
			if fd == nil {
				t.Errorf("%s has no field %s", name, f)
				continue
			}
			if _, both := k.inert[f]; both {
				t.Errorf("%s.%s is honoured and left alone", name, f)
			}
			if m := fd.Message(); m != nil && len(fields[m.FullName()].acts) == 0 && !fields[m.FullName()].all || readElsewhere[name+"."+protoreflect.FullName(f)] {
				continue
			}
			if !isRead(read, name, fd) {
				t.Errorf("%s.%s is said to be honoured, and nothing reads it", name, f)
			}
		}
		for f, why := range k.refused {
			if of.ByName(protoreflect.Name(f)) == nil || slices.Contains(k.acts, f) || k.inert[f] != "" {
				t.Errorf("%s has no field %s, or it has another fate, too", name, f)
			}
			if len(why) < 10 {
				t.Errorf("%s.%s: %q is no reason", name, f, why)
			}
		}
		for f, why := range k.inert {
			if of.ByName(protoreflect.Name(f)) == nil {
				t.Errorf("%s has no field %s", name, f)
			}
			if len(why) < 10 {
				t.Errorf("%s.%s: %q is no reason", name, f, why)
			}
		}
	}
}

// What is refused with a reason is in the profile, by its name; the walk over all fields sees that the refusal names the path and the reason.
func TestProfileNamesWhatIsRefused(t *testing.T) {
	page, err := os.ReadFile("../../docs/design/xds-profile.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, k := range fields {
		for f := range k.refused {
			if !strings.Contains(string(page), "`"+f+"`") {
				t.Errorf("%s.%s is refused, and docs/design/xds-profile.md does not say so", name, f)
			}
		}
	}
}

// isRead reports whether a field is, or, of a choice (oneof), its wrapper's type: RouteAction_Cluster.
func isRead(read map[string]bool, message protoreflect.FullName, fd protoreflect.FieldDescriptor) bool {
	goName := camel(string(fd.Name()))
	_, in, _ := strings.Cut(string(message), ".v3.")
	wrapper := strings.ReplaceAll(in, ".", "_") + "_" + goName
	return read["Get"+goName] || read[goName] || read[wrapper] || read[wrapper+"_"]
}

// selectors are the names that are selected from something anywhere in this package.
func selectors(t *testing.T) map[string]bool {
	t.Helper()
	read := map[string]bool{}
	dir, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range dir {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		f, err := parser.ParseFile(gotoken.NewFileSet(), e.Name(), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				read[s.Sel.Name] = true
			}
			return true
		})
	}
	return read
}

// readElsewhere are fields whose message, once it is checked, says all there is.
var readElsewhere = map[protoreflect.FullName]bool{
	"envoy.config.cluster.v3.Cluster.EdsClusterConfig.eds_config": true, // endpoints come by the stream that clusters came by
}

// camel is the Go name of a field.
func camel(name string) string {
	var b strings.Builder
	for part := range strings.SplitSeq(name, "_") {
		if part[0] >= '0' && part[0] <= '9' {
			b.WriteString("_" + part[:1])
			part = part[1:]
		}
		if part != "" {
			b.WriteString(strings.ToUpper(part[:1]) + part[1:])
		}
	}
	return b.String()
}
