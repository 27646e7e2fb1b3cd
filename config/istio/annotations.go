package istio

import (
	"strconv"
	"strings"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// Annotations of a DestinationRule that say what Istio's API has no fields for. They are read as strictly as fields.
const (
	annotationDomain   = "weir.dev/"
	annotationHalfOpen = annotationDomain + "half-open-probes"
	annotationCheck    = annotationDomain + "health-check"
)

// maxProbes is what proxies take.
const maxProbes = 1000

var ruleAnnotations = []string{annotationHalfOpen, annotationCheck}

// beyond reads them into a rule.
func (l *lowerer) beyond(dr *mesh.DestinationRule) {
	for _, name := range sortedKeys(l.meta.Annotations) {
		at, value := document.Key("metadata.annotations", name), l.meta.Annotations[name]
		switch {
		case name == annotationHalfOpen:
			l.halfOpen(at, value, dr)
		case name == annotationCheck:
			dr.HealthCheck = l.healthCheck(at, value)
		case strings.HasPrefix(name, annotationDomain):
			hint := "there are " + strings.Join(ruleAnnotations, ", ")
			if s := document.Suggest(name, ruleAnnotations); s != "" {
				hint = "did you mean " + s + "?"
			}
			l.Add(config.SchemaWarning, at, "a DestinationRule has no such annotation", hint)
		}
	}
}

// halfOpen lets ejected endpoints return by trial, wherever the rule ejects some.
func (l *lowerer) halfOpen(at, value string, dr *mesh.DestinationRule) {
	n, err := strconv.ParseUint(value, 10, 32)
	if err != nil || n == 0 || n > maxProbes {
		l.Invalid(at, strconv.Quote(value)+" is not 1 to "+strconv.Itoa(maxProbes), `say how many requests at once may try an endpoint that returns, for example "1"`)
		return
	}
	found := false
	for p := range policiesOf(dr) {
		if p.Outlier != nil {
			p.Outlier.Probes, found = uint32(n), true
		}
	}
	if !found {
		l.Add(config.SchemaWarning, at, "has no effect: the rule has no outlierDetection, so nobody is ejected who could return", "add outlierDetection")
	}
}

// policiesOf visits all traffic policies of a rule. What their pointers lead to may be changed.
func policiesOf(dr *mesh.DestinationRule) func(func(*mesh.TrafficPolicy) bool) {
	return func(yield func(*mesh.TrafficPolicy) bool) {
		each := func(p *mesh.TrafficPolicy, ports map[uint16]mesh.TrafficPolicy) bool {
			if p != nil && !yield(p) {
				return false
			}
			for _, p := range ports {
				if !yield(&p) {
					return false
				}
			}
			return true
		}
		if !each(&dr.Policy, dr.PortPolicies) {
			return
		}
		for i := range dr.Subsets {
			if !each(dr.Subsets[i].Policy, dr.Subsets[i].PortPolicies) {
				return
			}
		}
	}
}
