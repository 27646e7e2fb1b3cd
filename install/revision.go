package install

import (
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// ReleaseOf is the name of the installation of a revision, unless people give it another.
func ReleaseOf(revision string) string {
	if revision == "" {
		return "weir"
	}
	return "weir-" + revision
}

// revise reads which revision is meant, and what follows from that.
func (r *Release) revise(s Settings, asked map[string]any) error {
	if v := r.Values["revision"]; v != nil && v != "default" {
		r.Revision = fmt.Sprint(v) // 7, and not only "7"
	}
	if err := revisionName("revision", r.Revision); err != nil && r.Revision != "" {
		return err
	}
	tags, _ := r.Values["revisionTags"].([]any)
	for i, v := range tags {
		tags[i] = fmt.Sprint(v)
		if err := revisionName("revisionTags", fmt.Sprint(v)); err != nil {
			return err
		}
		if v == "default" && r.Revision == "" || fmt.Sprint(v) == r.Revision {
			return fmt.Errorf("--set revisionTags: %v is the name of the revision itself", v)
		}
	}
	r.Values["revision"] = r.Revision
	if r.Name = s.Release; r.Name == "" {
		r.Name = ReleaseOf(r.Revision)
	}
	if r.Revision == "" {
		return nil
	}
	// A gateway has one name, whatever the revision: the one who asks for it has it.
	gateways, _ := r.Values["gateways"].(map[string]any)
	var left []string
	for name, v := range gateways {
		g, _ := v.(map[string]any)
		if _, said := take(asked, "gateways."+name+".enabled"); !said && truth(g["enabled"]) {
			g["enabled"] = false
			left = append(left, name)
		}
	}
	if slices.Sort(left); len(left) > 0 {
		r.Notices = append(r.Notices, fmt.Sprintf("%s stays as it is: --set gateways.%s.enabled=true moves it to revision %s", strings.Join(left, ", "), left[0], r.Revision))
	}
	return nil
}

func revisionName(key, name string) error {
	if bad := validation.IsDNS1123Label(name); len(bad) > 0 || len(name) > 40 {
		return fmt.Errorf("--set %s: %q is no name: at most 40 lower-case letters, digits and -, as in 1-31-0", key, name)
	}
	return nil
}
