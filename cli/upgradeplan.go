package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/install/cluster"
	"github.com/weirmesh/weir/internal/skew"
	"github.com/weirmesh/weir/xds/dump"
	"github.com/weirmesh/weir/xds/resource"
)

// upgradePlan is what becomes of a mesh that goes from one revision to another.
type upgradePlan struct {
	From      upgradeSide      `json:"from"`
	To        upgradeSide      `json:"to"`
	Compared  []string         `json:"compared"`          // workloads, as NAMESPACE/OWNER
	Unchanged []string         `json:"unchanged"`         // those of them for which nothing changes
	Unknown   []string         `json:"unknown,omitempty"` // those that could not be compared, and why
	Before    []upgradeStep    `json:"before"`            // what is to be done first
	Changes   []upgradeChange  `json:"changes"`           // of behaviour
	Findings  []upgradeFinding `json:"findings"`          // what only one of the two says about objects
	Objects   []cluster.Change `json:"installation"`      // what the installation consists of
}

type upgradeSide struct {
	Revision string `json:"revision,omitempty"` // "" where it was named by its address
	Version  string `json:"version"`
	Program  bool   `json:"program,omitempty"` // not installed: what this program makes of the cluster
}

func (s *upgradeSide) String() string {
	if s.Revision == "" {
		return s.Version
	}
	if s.Program {
		return fmt.Sprintf("revision %s made anew by this program (%s)", s.Revision, s.Version)
	}
	return fmt.Sprintf("revision %s (%s)", s.Revision, s.Version)
}

// upgradeStep is something that must be done before.
type upgradeStep struct {
	What  string   `json:"what"`
	Hint  string   `json:"hint"`
	Names []string `json:"names,omitempty"`
}

// upgradeChange is one difference, with everything and everybody it is about.
type upgradeChange struct {
	Part      string   `json:"part"` // policy, listener, route, cluster, endpoints, extension
	Path      string   `json:"path,omitempty"`
	Before    string   `json:"before"` // JSON; "" where there is nothing
	After     string   `json:"after"`
	Resources []string `json:"resources"`
	Workloads []string `json:"workloads"`
}

// upgradeFinding is a finding of one of the two control planes.
type upgradeFinding struct {
	New bool `json:"new"` // or gone
	apiv1.Finding
}

// parts are the types that are compared, in the order in which they are shown: names, addresses and certificates are not behaviour of a revision.
var parts = []struct{ name, typeURL string }{
	{"policy", ""}, {"listener", resource.ListenerType}, {"route", resource.RouteType}, {"cluster", resource.ClusterType}, {"endpoints", resource.EndpointType}, {"extension", resource.ExtensionConfigType},
}

// protecting are words in paths of what decides who may call, and how it is protected.
var protecting = []string{"rbac", "jwt_authn", "ext_authz", "transport_socket", "tls_context", "require_client_certificate"}

func partOf(typeURL, path string) string {
	if slices.ContainsFunc(protecting, func(word string) bool { return strings.Contains(path, word) }) {
		return "policy"
	}
	for _, p := range parts {
		if p.typeURL == typeURL {
			return p.name
		}
	}
	return ""
}

// comparison gathers differences over workloads: what is the same for many is one change.
type comparison struct {
	keysLeft bool // one side has not fetched the keys of token issuers
	changes  map[upgradeKey]*upgradeSets
}

type upgradeKey struct{ part, path, before, after string }

type upgradeSets struct{ resources, workloads map[string]bool }

// differences are those of two configurations of one workload that mean something.
func (c *comparison) differences(from, to *dump.Held) ([]dump.Difference, error) {
	all, err := dump.Diff(from, to)
	if err != nil {
		return nil, err
	}
	// What one side has no resource of at all is no difference to dump.Diff.
	back, err := dump.Diff(to, from)
	if err != nil {
		return nil, err
	}
	sent := map[string]bool{}
	for _, r := range from.Resources {
		sent[r.TypeURL] = true
	}
	for _, d := range back {
		if d.Missing == "held" && !sent[d.TypeURL] {
			d.Missing = "sent"
			all = append(all, d)
		}
	}
	for i := range all {
		if c.keysLeft {
			all[i].Fields = slices.DeleteFunc(all[i].Fields, func(f dump.Field) bool { return strings.Contains(f.Path, "local_jwks") })
		}
	}
	return slices.DeleteFunc(all, func(d dump.Difference) bool {
		return partOf(d.TypeURL, "") == "" || d.Missing == "" && len(d.Fields) == 0
	}), nil
}

// add takes what differs for a workload.
func (c *comparison) add(workload string, all []dump.Difference) {
	if c.changes == nil {
		c.changes = map[upgradeKey]*upgradeSets{}
	}
	note := func(k upgradeKey, name string) {
		s := c.changes[k]
		if s == nil {
			s = &upgradeSets{map[string]bool{}, map[string]bool{}}
			c.changes[k] = s
		}
		s.resources[name], s.workloads[workload] = true, true
	}
	for _, d := range all {
		switch d.Missing {
		case "held":
			note(upgradeKey{partOf(d.TypeURL, ""), "", `"there"`, ""}, d.Name)
		case "sent":
			note(upgradeKey{partOf(d.TypeURL, ""), "", "", `"there"`}, d.Name)
		}
		for _, f := range d.Fields {
			path, in := f.Path, d.Name
			if host, rest, ok := ofHost(f.Path); ok { // what is the same for all hosts is one change
				path, in = "virtual_hosts[]."+rest, host
			}
			note(upgradeKey{partOf(d.TypeURL, path), path, f.Sent, f.Held}, in)
		}
	}
}

// ofHost parts a path within a virtual host from the host's name.
func ofHost(path string) (host, rest string, ok bool) {
	after, ok := strings.CutPrefix(path, `virtual_hosts["`)
	if !ok {
		return "", "", false
	}
	return strings.Cut(after, `"].`)
}

// list are the changes: what protects first, then as configuration is read.
func (c *comparison) list() []upgradeChange {
	out := []upgradeChange{}
	for k, s := range c.changes {
		out = append(out, upgradeChange{k.part, k.path, k.before, k.after, slices.Sorted(maps.Keys(s.resources)), slices.Sorted(maps.Keys(s.workloads))})
	}
	at := func(part string) int {
		for i := range parts {
			if parts[i].name == part {
				return i
			}
		}
		return len(parts)
	}
	slices.SortFunc(out, func(a, b upgradeChange) int {
		return cmp.Or(at(a.Part)-at(b.Part), strings.Compare(a.Path, b.Path), strings.Compare(a.Resources[0], b.Resources[0]), strings.Compare(a.Before, b.Before), strings.Compare(a.After, b.After))
	})
	return out
}

// subjects are the workloads that are compared, those with a proxy: of pods that are alike one, by NAMESPACE/OWNER. Gateways have none
// beside them, and are connected.
func subjects(all []apiv1.Workload, proxies []apiv1.ProxyStatus, wanted func(namespace string) bool) map[string]apiv1.Workload {
	connected := map[string]bool{}
	for _, p := range proxies {
		connected[p.Name] = true
	}
	out := map[string]apiv1.Workload{}
	for _, w := range all {
		if !w.Proxied && !connected[w.Namespace+"/"+w.Name] || !wanted(w.Namespace) {
			continue
		}
		name := w.Namespace + "/" + cmp.Or(w.Owner, w.Name)
		if had, ok := out[name]; !ok || w.Name < had.Name {
			out[name] = w
		}
	}
	return out
}

// tooFar are steps about proxies that the new control plane would not support.
func tooFar(all []apiv1.ProxyStatus, wanted func(namespace string) bool, plane string) (out []upgradeStep) {
	by := map[string][]string{}
	for _, p := range all {
		ns, _, _ := strings.Cut(p.Name, "/")
		if program, version, _ := strings.Cut(p.Version, " "); program == "weir-proxy" && wanted(ns) && skew.Unsupported(version, plane) != "" {
			by[version] = append(by[version], p.Name)
		}
	}
	for _, version := range slices.Sorted(maps.Keys(by)) {
		names := slices.Compact(slices.Sorted(slices.Values(by[version])))
		why := skew.Unsupported(version, plane)
		step := upgradeStep{What: fmt.Sprintf("%s of version %s, which is %s (%s)", count(len(names), "proxy"), version, why, plane), Names: names,
			Hint: "restart these workloads, so that they get the proxies of the revision they have; a further jump is made in several steps, restarting after each"}
		if strings.HasPrefix(why, "newer") {
			step.Hint = "restart these workloads at the older revision as soon as their namespaces lead to it: a newer proxy may ask for what it does not know"
		}
		out = append(out, step)
	}
	return out
}

// findingsApart are what only one of the two says about objects of the namespaces, and steps about objects that the new one does not take;
// findings with codes of aside are not about configuration.
func findingsApart(from, to []apiv1.Finding, wanted func(namespace string) bool, aside ...string) (apart []upgradeFinding, steps []upgradeStep) {
	type key struct{ code, kind, namespace, name, field string }
	keys := func(all []apiv1.Finding) map[key]apiv1.Finding {
		out := map[key]apiv1.Finding{}
		for _, f := range all {
			if (f.Namespace == "" || wanted(f.Namespace)) && !slices.Contains(aside, f.Code) {
				out[key{f.Code, f.Kind, f.Namespace, f.Name, f.Field}] = f
			}
		}
		return out
	}
	old, now := keys(from), keys(to)
	apart = []upgradeFinding{}
	for k, f := range old {
		if _, still := now[k]; !still {
			apart = append(apart, upgradeFinding{false, f})
		}
	}
	refused := map[string]bool{}
	for k, f := range now {
		if had, already := old[k]; already && had.Severity == f.Severity {
			continue
		}
		apart = append(apart, upgradeFinding{true, f})
		if f.Severity == "error" {
			refused[subject(f)] = true
		}
	}
	slices.SortFunc(apart, func(a, b upgradeFinding) int {
		if a.New != b.New {
			return map[bool]int{true: -1, false: 1}[a.New]
		}
		return cmp.Or(strings.Compare(subject(a.Finding), subject(b.Finding)), strings.Compare(a.Code, b.Code), strings.Compare(a.Field, b.Field))
	})
	if len(refused) > 0 {
		steps = append(steps, upgradeStep{What: count(len(refused), "object") + " that the new control plane refuses", Names: slices.Sorted(maps.Keys(refused)),
			Hint: "mend them; what is wrong with each is said below. Their last good versions stay in force until then"})
	}
	return apart, steps
}

func subject(f apiv1.Finding) string { return object(f.Kind, f.Namespace, f.Name) }
