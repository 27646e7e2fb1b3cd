package store

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
)

// lost is what stands for an object that was applied, when its file is damaged and no other
// version of it is left: the name of the file says which it was. It cannot be lowered, so
// nothing of it is in force but what must stay closed without it.
func (s *Store) lost(u config.Unit) *config.Object {
	name, yaml := strings.CutSuffix(filepath.Base(u.Name), ".yaml")
	if !u.Incomplete || len(u.Objects) > 0 || !yaml || s.o.Applied == "" || filepath.Dir(u.Name) != filepath.Clean(s.o.Applied) {
		return nil
	}
	id, ok := config.ParseFileName(name)
	if !ok || s.saved[id] != nil || s.objects.At(id.String()) != nil {
		return nil
	}
	part := document.Part{Text: fmt.Sprintf("{apiVersion: %q, kind: %q, metadata: {name: %q, namespace: %q}, spec: is lost}", id.Group+"/v1", id.Kind, id.Name, id.Namespace), Line: 1}
	root, err := document.Parse(part)
	if err != nil {
		return nil // not a name that we wrote
	}
	o, _ := config.NewObject(root, part, u.Name, id.Namespace)
	if o == nil || o.ID != id {
		return nil
	}
	return o.Compact()
}
