package verdict

import (
	"strings"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// rulesOf are the fields that have the rules of an object, by kind.
var rulesOf = map[string][]string{
	"VirtualService":  {"http", "tls", "tcp"},
	"DestinationRule": {"trafficPolicy", "subsets"},
	"Gateway":         {"servers"},
}

// Of judges every rule of an object of the kinds that have rules: by the Snapshot if it is in
// force, else each is Rejected because of what is wrong with the object.
func (v *View) Of(o *config.Object, inForce bool, findings []config.Finding) []Verdict {
	if !inForce {
		return refused(o, findings)
	}
	switch key := mesh.NewKey(o.ID.Namespace, o.ID.Name); o.ID.Kind {
	case "VirtualService":
		return v.VirtualService(key)
	case "DestinationRule":
		return v.DestinationRule(key)
	case "Gateway":
		return v.Gateway(key)
	}
	return nil
}

// refused rejects each rule that is written in an object.
func refused(o *config.Object, findings []config.Finding) []Verdict {
	var out []Verdict
	reject := func(part string) {
		d := pending(&o.Ref, part, "")
		for _, f := range findings {
			if f.Severity != config.Error {
				continue
			}
			why := f.FieldPath + " " + f.Message
			if strings.HasPrefix(f.FieldPath, part) { // its own fault before that of others
				d.Why = strings.TrimSpace(why)
				break
			}
			if d.Why == "" {
				d.Why = strings.TrimSpace("the object is not in force: " + why)
			}
		}
		if d.Why == "" {
			d.Why = "the object is not in force"
		}
		out = append(out, d)
	}
	spec := o.Root().Get("spec")
	for _, name := range rulesOf[o.ID.Kind] {
		at := "spec." + name
		switch list := spec.Get(name); {
		case list == nil:
		case list.Kind == document.List:
			for i := range list.Items {
				reject(document.Index(at, i))
			}
		default:
			reject(at)
		}
	}
	return out
}
