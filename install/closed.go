package install

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/weirmesh/weir/config/document"
)

// closedSet is a setting that takes certain values only. In its key * is any field of a table, or any element of a list.
type closedSet struct {
	key    string
	values []string // "" is one where nothing need be said
}

// closed are those of the chart. What is true or false is told by the chart's own values, fields of meshConfig by config/istio.
var closed = slices.Concat([]closedSet{
	{"compatibilityVersion", []string{"", "1.0", "1.1", "1.31"}},
	{"mtls.enabled", []string{"", "true", "false"}},
	{"global.imagePullPolicy", []string{"", "Always", "IfNotPresent", "Never"}},
	{"global.proxy.autoInject", []string{"enabled", "disabled"}},
	{"global.proxy.logLevel", []string{"trace", "debug", "info", "warning", "warn", "error", "critical", "fatal", "off", "none"}},
	{"cni.logging.level", []string{"debug", "info", "warn", "error"}},
	{"gateways.*.type", []string{"", "ClusterIP", "NodePort", "LoadBalancer"}},
	{"gateways.*.externalTrafficPolicy", []string{"", "Cluster", "Local"}},
	{"gateways.*.ports.*.protocol", []string{"", "TCP", "UDP", "SCTP"}},
	{"sidecarInjectorWebhook.neverInjectSelector.*.matchExpressions.*.operator", selectorOperators},
	{"sidecarInjectorWebhook.alwaysInjectSelector.*.matchExpressions.*.operator", selectorOperators},
}, tolerated("global.defaultTolerations"), tolerated("pilot.tolerations"), tolerated("cni.tolerations"), tolerated("gateways.*.tolerations"),
	spread("pilot"), spread("gateways.*"))

var selectorOperators = []string{"In", "NotIn", "Exists", "DoesNotExist"}

func tolerated(list string) []closedSet {
	return []closedSet{
		{list + ".*.operator", []string{"", "Equal", "Exists", "Lt", "Gt"}},
		{list + ".*.effect", []string{"", "NoSchedule", "PreferNoSchedule", "NoExecute"}},
	}
}

func spread(component string) []closedSet {
	list := component + ".topologySpreadConstraints.*."
	return []closedSet{
		{list + "whenUnsatisfiable", []string{"DoNotSchedule", "ScheduleAnyway"}},
		{list + "nodeAffinityPolicy", []string{"", "Honor", "Ignore"}},
		{list + "nodeTaintsPolicy", []string{"", "Honor", "Ignore"}},
	}
}

// checkClosed refuses what none of the sets has.
func checkClosed(values map[string]any) error {
	for _, c := range closed {
		if err := c.check("", c.key, values); err != nil {
			return err
		}
	}
	return nil
}

// check looks at what of has at a path, which begins at at.
func (c *closedSet) check(at, path string, of any) error {
	head, rest, deeper := strings.Cut(path, ".")
	if head == "*" {
		switch of := of.(type) {
		case map[string]any:
			for _, k := range slices.Sorted(maps.Keys(of)) {
				if err := c.check(at+"."+k, rest, of[k]); err != nil {
					return err
				}
			}
		case []any:
			for i, v := range of {
				if err := c.check(fmt.Sprintf("%s[%d]", at, i), rest, v); err != nil {
					return err
				}
			}
		}
		return nil
	}
	table, is := of.(map[string]any)
	switch {
	case !is && of != nil:
		return nil // others say what it must be
	case deeper && strings.HasPrefix(rest, "*") && table[head] == nil:
		return nil
	case deeper:
		return c.check(at+"."+head, rest, table[head])
	}
	v := ""
	if x := table[head]; x != nil {
		v = fmt.Sprint(x)
		if number(x) && v == "1" { // 1.0 without quotes
			v = "1.0"
		}
	}
	if slices.Contains(c.values, v) {
		return nil
	}
	allowed := slices.DeleteFunc(slices.Clone(c.values), func(s string) bool { return s == "" })
	hint := "want one of " + strings.Join(allowed, ", ")
	if near := document.Suggest(v, allowed); near != "" {
		hint += "; did you mean " + near + "?"
	}
	return refused(strings.TrimPrefix(at+"."+head, ".")+"="+v, hint)
}

// nowhere says of a key that the chart does not have what it has instead: near it, or of that name in another place.
func nowhere(chart, beside map[string]any, at, key string, asked any) error {
	p := strings.TrimPrefix(at+"."+key, ".")
	siblings := slices.Sorted(maps.Keys(beside))
	if s := document.Suggest(key, siblings); s != "" {
		return fmt.Errorf("--set %s: the chart has no such value; did you mean %s?", p, strings.TrimPrefix(at+"."+s, "."))
	}
	parts := []string{key}
	for m, is := asked.(map[string]any); is && len(m) == 1; {
		for k, v := range m {
			parts = append(parts, k)
			m, is = v.(map[string]any)
		}
	}
	name := strings.Join(parts, ".")
	var found []string
	for _, path := range paths(chart, "") {
		if path == name || strings.HasSuffix(path, "."+name) {
			found = append(found, path)
		}
	}
	if len(found) > 0 {
		return fmt.Errorf("--set %s: the chart has no such value; did you mean %s?", p, strings.Join(found, " or "))
	}
	of := "the chart"
	if at != "" {
		of = strings.TrimPrefix(at, ".")
	}
	return fmt.Errorf("--set %s: the chart has no such value; %s has %s", p, of, strings.Join(siblings, ", "))
}

// paths are the keys of all tables and values.
func paths(of map[string]any, at string) (out []string) {
	for _, k := range slices.Sorted(maps.Keys(of)) {
		out = append(out, at+k)
		if m, is := of[k].(map[string]any); is {
			out = append(out, paths(m, at+k+".")...)
		}
	}
	return out
}
