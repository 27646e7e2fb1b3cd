// Package field finds the field of an object that decided something: that of the rule, subset or port for which a proxy decided.
//
// The text of an object enters, with the field that decides about such things and what the proxy said; the field that is there leaves,
// if one is. Pure functions, for whoever tells who decided (control/why, control/limits).
package field

import (
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/weirmesh/weir/config/document"
)

// For is what a proxy decided for, as far as it is known.
type For struct {
	Host   string // of a cluster, whole
	Subset string
	Port   uint16
	Line   int // where the rule begins; 0: not known
	// Endpoint is the address that was tried.
	Endpoint string
}

// Cluster is For of a cluster, by its name (direction|port|subset|host).
func Cluster(name string) (f For) {
	if p := strings.Split(name, "|"); len(p) == 4 {
		port, _ := strconv.ParseUint(p[1], 10, 16)
		f.Port, f.Subset, f.Host = uint16(port), p[2], p[3]
	}
	return f
}

const (
	rules   = "http[]."
	relayed = "tcp[]."
	servers = "servers[]."
	policy  = "trafficPolicy."
	pool    = "connectionPool."
	budget  = "retryBudget"
	// of a Sidecar
	listeners = "ingress[]."
)

// Find is the path of a field below spec, and its line; "": the object has no such field. Of a path that begins with http[] the rule is
// meant for which a proxy decided (tcp[]: one of tls or tcp), of trafficPolicy what holds of a subset and port. Where it is not clear which of several is meant,
// the path stays as it is.
func Find(root *document.Value, path string, f For) (string, int) {
	spec := root.Get("spec")
	candidates := []string{path} // the last ones are what objects of Istio before 1.5 have
	switch {
	case strings.HasPrefix(path, rules):
		return rule(root, spec, "http", strings.TrimPrefix(path, rules), f)
	case strings.HasPrefix(path, relayed):
		of := f.begins(spec, "tls", "tcp")
		if of == "" {
			return "", 0
		}
		return rule(root, spec, of, strings.TrimPrefix(path, relayed), f)
	case strings.HasPrefix(path, servers):
		return rule(root, spec, "servers", strings.TrimPrefix(path, servers), f)
	case strings.HasPrefix(path, policy+pool) && root.Get("kind").String() == "Sidecar":
		candidates = sidecar(spec, strings.TrimPrefix(path, policy), f.Port)
	case strings.HasPrefix(path, policy):
		candidates = traffic(spec, strings.TrimPrefix(path, policy), f)
	case path == "ports":
		candidates = protocol(root, spec, f.Port)
	case path == "trafficPolicy":
		candidates = append(candidates, "subsets")
	case path == "subsets":
		candidates = append(subsets(spec, f.Subset), path)
	case path == "mtls":
		candidates = []string{"portLevelMtls." + strconv.Itoa(int(f.Port)) + ".mode", "mtls.mode", "peers"}
	case path == "jwtRules":
		for i, r := range items(spec.Get(path)) {
			if len(spec.Get(path).Items) == 1 || r.Line == f.Line {
				candidates = []string{document.Index(path, i)}
				break
			}
		}
		candidates = append(candidates, "origins")
	case path == "endpoints":
		candidates = append(candidates, "workloadSelector")
	case path == "egress":
		if len(items(spec.Get(path))) == 1 {
			candidates = []string{document.Index(path, 0) + ".hosts", path}
		}
	case strings.HasPrefix(path, listeners):
		for i, in := range items(spec.Get("ingress")) {
			if numbered(in, f.Port) {
				candidates = []string{document.Index("ingress", i) + "." + strings.TrimPrefix(path, listeners)}
			}
		}
	case path == "targetPort":
		candidates = target(spec, f)
	case path == "port's targetPort":
		candidates = targetOf(spec, f.Port)
	case path == "endpoint port":
		candidates = endpoint(spec, f)
	case path == "endpoint address":
		candidates = endpointAddress(spec, f)
	case path == "rules":
		candidates = append(candidates, "subjects", "mode", "origins", "peers")
	}
	for _, c := range candidates {
		if at(spec, c) != nil {
			return c, root.LineOf("spec." + c)
		}
	}
	return "", 0
}

// rule finds a field of a rule of a VirtualService, or of a server of a Gateway.
func rule(root, spec *document.Value, of, name string, f For) (path string, found int) {
	line := f.Line
	if !f.in(spec.Get(of)) {
		line = 0 // it stood elsewhere then
	}
	for i, r := range items(spec.Get(of)) {
		if line != 0 && r.Line != line {
			continue
		}
		c := document.Index(of, i) + "." + name
		if list, in, ok := strings.Cut(c, "[]"); ok {
			all := items(at(spec, list))
			one, several := f.among(all, line != 0 || len(items(spec.Get(of))) == 1)
			switch {
			case len(all) == 0:
				continue
			case one >= 0:
				c = document.Index(list, one) + in
			case line == 0 && !several && f.Host != "": // it is another rule's
				continue
			default: // whose it is nobody says
				if c = list; line == 0 {
					return of + "[]." + name, 0
				}
			}
		}
		switch {
		case at(spec, c) == nil:
		case path != "": // of which rule it is nobody says
			return of + "[]." + name, 0
		default:
			path, found = c, root.LineOf("spec."+c)
		}
	}
	return path, found
}

// in reports whether the rule is one of a list.
func (f For) in(list *document.Value) bool {
	return slices.ContainsFunc(items(list), func(r *document.Value) bool { return r.Line == f.Line })
}

// begins is which of some lists has the rule: the one where it begins, or the only one that there is; "": nobody knows.
func (f For) begins(spec *document.Value, lists ...string) (only string) {
	for _, name := range lists {
		if f.in(spec.Get(name)) {
			return name
		}
	}
	for _, name := range lists {
		switch {
		case len(items(spec.Get(name))) == 0:
		case only != "":
			return ""
		default:
			only = name
		}
	}
	return only
}

// among is which of several destinations of a rule a cluster was made for: the only one there is, if it is of that rule, or the only one
// that it can be of; -1: none, or of several nobody knows which.
func (f For) among(routes []*document.Value, ofRule bool) (one int, several bool) {
	if len(routes) == 1 && ofRule {
		return 0, false
	}
	one = -1
	for i, r := range routes {
		d := r.Get("destination")
		host, port := d.Get("host").String(), d.Get("port").Get("number")
		if f.Host == "" || host != f.Host && !strings.HasPrefix(f.Host, host+".") || d.Get("subset").String() != f.Subset || port != nil && !numbered(d, f.Port) {
			continue
		}
		if one >= 0 {
			return -1, true
		}
		one = i
	}
	return one, false
}

// protocol are where it is said what a port speaks, of a Service or ServiceEntry; the workload's port, or the service's.
func protocol(root, spec *document.Value, port uint16) (out []string) {
	ports, number := items(spec.Get("ports")), strconv.Itoa(int(port))
	for i, p := range ports {
		if len(ports) > 1 && !slices.ContainsFunc([]string{"port", "number", "targetPort"}, func(name string) bool { v := p.Get(name); return v != nil && v.Text == number }) {
			continue
		}
		at := document.Index("ports", i)
		if out = append(out, at+".appProtocol"); root.Get("kind").String() == "ServiceEntry" {
			out = append(out, at+".protocol")
		}
		out = append(out, at+".name", at+".port")
	}
	return out
}

// target are where it is said which port of its workloads a Service leads to, by that port.
func target(spec *document.Value, f For) (out []string) {
	_, number, err := net.SplitHostPort(f.Endpoint)
	if err != nil {
		number = strconv.Itoa(int(f.Port))
	}
	for i, p := range items(spec.Get("ports")) {
		at := document.Index("ports", i)
		switch to := p.Get("targetPort"); {
		case to != nil && to.Text == number:
			out = append(out, at+".targetPort")
		case to == nil && p.Get("port") != nil && p.Get("port").Text == number:
			out = append(out, at+".port")
		}
	}
	return out
}

// targetOf is where it is said which port of its workloads a port of a Service leads to.
func targetOf(spec *document.Value, port uint16) (out []string) {
	for i, p := range items(spec.Get("ports")) {
		if n := p.Get("port"); n != nil && n.Text == strconv.Itoa(int(port)) {
			out = append(out, document.Index("ports", i)+".targetPort")
		}
	}
	return out
}

// endpointAddress is where a ServiceEntry or WorkloadEntry says where somebody is reached.
func endpointAddress(spec *document.Value, f For) (out []string) {
	host, _, _ := net.SplitHostPort(f.Endpoint)
	if spec.Get("address").String() == host {
		out = append(out, "address")
	}
	for i, e := range items(spec.Get("endpoints")) {
		if e.Get("address").String() == host {
			out = append(out, document.Index("endpoints", i)+".address")
		}
	}
	return out
}

// endpoint are where a ServiceEntry or WorkloadEntry says at which port somebody is reached: of an endpoint, or if that says nothing, of all.
func endpoint(spec *document.Value, f For) (out []string) {
	host, number, _ := net.SplitHostPort(f.Endpoint)
	for _, p := range fieldsOf(spec.Get("ports")) { // a WorkloadEntry's; those of others are a list
		if p.Value.Text == number {
			out = append(out, document.Key("ports", p.Name))
		}
	}
	for i, e := range items(spec.Get("endpoints")) {
		if e.Get("address").String() != host {
			continue
		}
		for _, p := range fieldsOf(e.Get("ports")) {
			if p.Value.Text == number {
				out = append(out, document.Key(document.Index("endpoints", i)+".ports", p.Name))
			}
		}
	}
	for i, p := range items(spec.Get("ports")) {
		for _, name := range []string{"targetPort", "number"} {
			if v := p.Get(name); v != nil && v.Text == number {
				out = append(out, document.Index("ports", i)+"."+name)
			}
		}
	}
	return out
}

// sidecar are where a field of a connection pool may stand: of a port, or if that has none, of all.
func sidecar(spec *document.Value, name string, port uint16) []string {
	for i, in := range items(spec.Get("ingress")) {
		if p := document.Index("ingress", i) + "." + pool; numbered(in, port) && at(spec, strings.TrimSuffix(p, ".")) != nil {
			return []string{p + strings.TrimPrefix(name, pool)}
		}
	}
	return []string{"inboundConnectionPool." + strings.TrimPrefix(name, pool)}
}

// traffic are where a field of a traffic policy may stand, as translate resolves it: settings of a port take the place of all above them
// but the budget; a subset's, block by block.
func traffic(spec *document.Value, name string, f For) []string {
	block, _, _ := strings.Cut(name, ".")
	for _, p := range append(withPolicy(subsets(spec, f.Subset)), strings.TrimSuffix(policy, ".")) {
		if block != budget {
			for i, s := range items(at(spec, p).Get("portLevelSettings")) {
				if numbered(s, f.Port) {
					return []string{document.Index(p+".portLevelSettings", i) + "." + name}
				}
			}
		}
		if at(spec, p+"."+block) != nil {
			out := []string{p + "." + name}
			if block == budget { // its presence is what matters
				out = append(out, p+"."+block)
			}
			return out
		}
	}
	return nil
}

func withPolicy(all []string) []string {
	for i := range all {
		all[i] += "." + strings.TrimSuffix(policy, ".")
	}
	return all
}

// subsets are the paths of those of a name.
func subsets(spec *document.Value, name string) (out []string) {
	for i, s := range items(spec.Get("subsets")) {
		if name != "" && s.Get("name").String() == name {
			out = append(out, document.Index("subsets", i))
		}
	}
	return out
}

// numbered reports whether a setting is of a port.
func numbered(v *document.Value, port uint16) bool {
	n := v.Get("port").Get("number")
	return n != nil && n.Text == strconv.Itoa(int(port))
}

// at is what a path leads to, nil if nothing.
func at(v *document.Value, path string) *document.Value {
	for step := range strings.SplitSeq(path, ".") {
		name, index, indexed := strings.Cut(strings.TrimSuffix(step, "]"), "[")
		if v = v.Get(name); !indexed {
			continue
		}
		i, err := strconv.Atoi(index)
		if all := items(v); err == nil && i >= 0 && i < len(all) {
			v = all[i]
		} else {
			return nil
		}
	}
	return v
}

// leastMentioned is the shortest text that is taken to be meant by one that has it.
const leastMentioned = 4

// Mentioned is the field below one of an object whose text stands in what somebody says of it, the longest of them; the field itself, if
// there is none.
func Mentioned(root *document.Value, path, said string) string {
	best, longest := path, leastMentioned-1
	var look func(v *document.Value, path string)
	look = func(v *document.Value, path string) {
		if len(v.Text) > longest && strings.Contains(said, v.Text) {
			best, longest = path, len(v.Text)
		}
		for i, item := range v.Items {
			look(item, document.Index(path, i))
		}
		for _, f := range v.Fields {
			if f.Value != nil {
				look(f.Value, document.Key(path, f.Name))
			}
		}
	}
	if v := At(root, path); v != nil {
		look(v, path)
	}
	return best
}

// At is what the path of a field below spec leads to, nil if nothing.
func At(root *document.Value, path string) *document.Value { return at(root.Get("spec"), path) }

// In is what a path below a field leads to, nil if nothing.
func In(v *document.Value, path string) *document.Value { return at(v, path) }

func fieldsOf(v *document.Value) []document.Field {
	if v == nil {
		return nil
	}
	return v.Fields
}

func items(v *document.Value) []*document.Value {
	if v == nil {
		return nil
	}
	return v.Items
}
