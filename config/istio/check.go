package istio

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// host forms, after Istio: labels of letters, digits and '-', of which the first may be
// "*", "*foo" or "*-foo" where wildcards are allowed.
var (
	hostLabel = regexp.MustCompile(`^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$`)
	wildLabel = regexp.MustCompile(`^\*(-?[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?)?$`)
	digits    = regexp.MustCompile(`^[0-9]+$`)
)

// hostProblem says what is wrong with a host name.
func hostProblem(host string, wildcard bool) (message, hint string) {
	h := strings.TrimSuffix(host, ".")
	switch {
	case h == "":
		return "is empty", "give a host name"
	case len(h) > 255:
		return "is longer than 255 characters", ""
	case strings.Contains(h, "://"):
		return fmt.Sprintf("%q is a URL, not a host", host), "write only the host name"
	case strings.Contains(h, "/"):
		return fmt.Sprintf("%q is not a host name", host), "write only the host name, without a path or namespace"
	case strings.Contains(h, ":"):
		return fmt.Sprintf("%q is not a host name", host), "leave the port out: it has its own field"
	}
	labels := strings.Split(h, ".")
	for i, label := range labels {
		switch {
		case hostLabel.MatchString(label) && len(label) <= 63:
		case strings.Contains(label, "*") && !wildcard:
			return fmt.Sprintf("%q has a wildcard", host), "name one host"
		case i == 0 && wildLabel.MatchString(label):
		case strings.Contains(label, "*"):
			return fmt.Sprintf("%q is not a host name", host), `a wildcard stands first: "*" or "*.example.com"`
		default:
			return fmt.Sprintf("%q is not a host name", host), "use letters, digits and '-' between dots, each part at most 63 long"
		}
	}
	if len(labels) > 1 && digits.MatchString(labels[len(labels)-1]) {
		return fmt.Sprintf("%q is neither a host name nor an IP address", host), ""
	}
	return "", ""
}

// host checks a host name. ip says whether an address will do.
func (l *lowerer) host(path, host string, wildcard, ip bool) bool {
	if _, err := netip.ParseAddr(host); err == nil && ip {
		return true
	}
	message, hint := hostProblem(host, wildcard)
	if message != "" {
		l.Invalid(path, message, hint)
	}
	return message == ""
}

// fqdn resolves a short name in the object's namespace. A name with a dot is complete.
func (l *lowerer) fqdn(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if host == "" || host == "*" || strings.Contains(host, ".") || strings.Contains(host, ":") {
		return host
	}
	return host + "." + l.ns + ".svc." + l.suffix
}

// port checks a port number; zero says that it may be left out.
func (l *lowerer) port(path string, n uint32, zero bool) uint16 {
	if n == 0 && zero {
		return 0
	}
	if n == 0 || n > 65535 {
		l.Invalid(path, fmt.Sprintf("port %d does not exist", n), "a port is a number from 1 to 65535")
		return 0
	}
	return uint16(n)
}

// duration checks a duration of Istio's API: at least 1 ms. nil is 0.
func (l *lowerer) duration(path string, d *durationpb.Duration) time.Duration {
	if d == nil {
		return 0
	}
	t := d.AsDuration()
	if t < time.Millisecond {
		l.Invalid(path, fmt.Sprintf("%v is too short", t), "give at least 1ms, or remove the field")
	}
	return t
}

// name checks a DNS label such as a subset's or namespace's name.
func (l *lowerer) name(path, what, name string) {
	if len(validation.IsDNS1123Label(name)) > 0 {
		l.Invalid(path, fmt.Sprintf("%q is not a valid %s", name, what), "use lower-case letters, digits and '-', at most 63")
	}
}

// regex checks an RE2 expression as Envoy would take it.
func (l *lowerer) regex(path, expr string) {
	// Envoy's default limit of the size of a compiled program guards the proxies; ours
	// is the same kind of machine.
	const maxRegex = 1024
	if len(expr) > maxRegex {
		l.Invalid(path, fmt.Sprintf("the expression has %d characters, at most %d are allowed", len(expr), maxRegex), "match a prefix, or split the rule")
		return
	}
	if _, err := regexp.Compile(expr); err != nil {
		message := err.Error()
		hint := "the syntax is RE2: https://github.com/google/re2/wiki/Syntax"
		if e, ok := errors.AsType[*syntax.Error](err); ok {
			message = fmt.Sprintf("%s: %q", e.Code, e.Expr)
			if e.Code == syntax.ErrInvalidPerlOp {
				hint = "RE2 has no look-ahead, look-behind or back-references"
			}
		}
		l.Invalid(path, "is not a regular expression: "+message, hint)
	}
}

// subnets checks addresses and CIDR blocks.
func (l *lowerer) subnets(path string, in []string) []netip.Prefix {
	var out []netip.Prefix
	for i, s := range in {
		if p, ok := prefix(s); ok {
			out = append(out, p)
		} else {
			l.Invalid(document.Index(path, i), fmt.Sprintf("%q is neither an IP address nor a CIDR block", s), `for example "10.1.0.0/16"`)
		}
	}
	return out
}

func prefix(s string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), true
	}
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err == nil
}

// selector checks a workload selector: no wildcards.
func (l *lowerer) selector(path string, labels map[string]string) mesh.Labels {
	for _, k := range sortedKeys(labels) {
		at := document.Key(path, k)
		switch {
		case k == "":
			l.Invalid(at, "a label has no name", "write NAME: VALUE")
		case strings.Contains(k+labels[k], "*"):
			l.Invalid(at, "a selector has no wildcards", "give the exact value of the label")
		}
	}
	return meshLabels(labels)
}

// labels checks labels that select.
func (l *lowerer) labels(path string, labels map[string]string) mesh.Labels {
	l.Labels(labels, path)
	return meshLabels(labels)
}

func meshLabels(m map[string]string) mesh.Labels {
	if len(m) == 0 {
		return nil
	}
	return m
}

// exportTo lowers visibility. none says whether "~" is allowed.
func (l *lowerer) exportTo(values []string, none bool) mesh.Visibility {
	v, problem, hint := ExportTo(values, l.ns, none)
	if problem != "" {
		l.Invalid("spec.exportTo", problem, hint)
	}
	return v
}

// ExportTo lowers a list of namespaces, "." (own), "*" (all) and, if none is set, "~"
// (nowhere), which Services have in an annotation.
func ExportTo(values []string, own string, none bool) (v mesh.Visibility, problem, hint string) {
	seen := map[string]bool{}
	for _, value := range values {
		ns := value
		if ns == "." {
			ns = own
		}
		switch {
		case seen[ns]:
			return v, fmt.Sprintf("%q is named twice", value), "keep one of the two"
		case ns == "*":
		case ns == "~" && none:
		case ns == "~":
			return v, `"~" is only for services`, `use "." for the own namespace`
		case len(validation.IsDNS1123Label(ns)) > 0:
			return v, fmt.Sprintf("%q is not a namespace", value), `use ".", "*" or names of namespaces`
		}
		seen[ns] = true
	}
	if len(values) > 1 && (seen["*"] || seen["~"]) {
		return v, `"*" and "~" stand alone`, `"*" already means all namespaces, "~" none`
	}
	if len(values) == 0 || seen["*"] {
		return mesh.Visibility{Public: seen["*"]}, "", ""
	}
	delete(seen, "~")
	names := make([]string, 0, len(seen))
	for ns := range seen {
		names = append(names, ns)
	}
	slices.Sort(names)
	return mesh.Visibility{Limited: true, Namespaces: names}, "", ""
}

// gatewayNames resolves names of gateways to "mesh" and "namespace/name".
func (l *lowerer) gatewayNames(path string, names []string) []string {
	var out []string
	for i, n := range names {
		at := document.Index(path, i)
		gw, ok := l.gatewayName(n)
		if !ok {
			l.Invalid(at, fmt.Sprintf("%q is not the name of a Gateway", n), `write "name", "namespace/name" or "mesh"`)
			continue
		}
		if !slices.Contains(out, gw) {
			out = append(out, gw)
		}
	}
	return out
}

func (l *lowerer) gatewayName(n string) (string, bool) {
	if n == mesh.Mesh {
		return n, true
	}
	ns, name, ok := strings.Cut(n, "/")
	switch {
	case !ok && strings.Contains(n, "."):
		// name.namespace.svc.cluster.local, Istio's form before 1.1.
		name, ns, _ = strings.Cut(n, ".")
		ns, _, _ = strings.Cut(ns, ".")
	case !ok:
		ns, name = l.ns, n
	case ns == ".":
		ns = l.ns
	}
	return ns + "/" + name, len(validation.IsDNS1123Label(ns)) == 0 && len(validation.IsDNS1123Label(name)) == 0
}

// percent checks a percentage.
func (l *lowerer) percent(path string, v float64) float64 {
	if !(v >= 0 && v <= 100) { // NaN is neither
		l.Invalid(path, fmt.Sprintf("%v is not a percentage", v), "give a number from 0 to 100")
	}
	return v
}

// atLeast checks a number that must not be negative, as Istio declares many.
func (l *lowerer) atLeast(path string, n int32, low int32) uint32 {
	if n < low {
		l.Invalid(path, fmt.Sprintf("%d is too small", n), fmt.Sprintf("give at least %d", low))
		return 0
	}
	return uint32(n)
}
