package istio

import (
	"strings"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
)

// gap is a field that Istio has and this version does not enforce.
type gap struct {
	path string // "[]" stands for every entry, "{}" for every key
	// unsafe: without the field traffic would go elsewhere, or be less protected, than
	// the object says. Such an object is quarantined.
	unsafe bool
	hint   string
}

// atAddress is what becomes of an endpoint in another network.
const atAddress = oneNet + ", and this one is called at its address, as by Istio where MeshNetworks has no gateway of its network"

// byLabels is what to say in place of targetRefs, which are for gateways of the Gateway API and waypoints.
const byLabels = "select workloads by selector.matchLabels: those of a Service by the labels of its spec.selector, a gateway by those of its pods, for example istio: ingressgateway"

// gaps is the whole list, by kind: what an object may say and the data plane of this
// version does not do (as of 2026-11).
var gaps = map[string][]gap{
	"VirtualService": {
		{"spec.tcp[].match[].sourceSubnet", true, "Istio ignores it, too: remove it, or match on sourceLabels"},
	},
	"Gateway": {
		{"spec.servers[].defaultEndpoint", true, "bind a VirtualService instead"},
	},
	"RequestAuthentication": {
		{"spec.targetRefs", true, byLabels},
		{"spec.targetRef", true, byLabels},
	},
	"AuthorizationPolicy": {
		{"spec.targetRefs", true, byLabels},
		{"spec.targetRef", true, byLabels},
	},
	"WorkloadEntry": {{"spec.network", false, atAddress}},
	"ServiceEntry":  {{"spec.endpoints[].network", false, atAddress}},
}

// unenforced reports the gaps that the object asks for.
func (l *lowerer) unenforced(spec *document.Value) {
	for _, g := range gaps[l.o.ID.Kind] {
		l.gap(spec, "spec", strings.TrimPrefix(g.path, "spec."), g)
	}
}

func (l *lowerer) gap(v *document.Value, at, rest string, g gap) {
	name, rest, more := strings.Cut(rest, ".")
	name, list := strings.CutSuffix(name, "[]")
	next := v.Get(name)
	at = document.Key(at, name)
	switch {
	case next == nil || next.Kind == document.Null:
	case list:
		for i, item := range next.Items {
			if more {
				l.gap(item, document.Index(at, i), rest, g)
			}
		}
	case more:
		l.gap(next, at, rest, g)
	default:
		code := config.FieldNotEnforced
		if g.unsafe {
			code = config.FieldNotEnforcedUnsafe
		}
		l.Add(code, at, "is not enforced in this version", g.hint)
	}
}

// successor names what replaces a deprecated field.
func successor(path string) string {
	last := path[strings.LastIndexByte(path, '.')+1:]
	switch last {
	case "mirrorPercent":
		return "use mirrorPercentage"
	case "percent":
		return "use percentage.value"
	case "allowOrigin":
		return "use allowOrigins"
	case "consecutiveErrors":
		return "use consecutiveGatewayErrors or consecutive5xxErrors"
	case "warmupDurationSecs":
		return "use warmup.duration"
	case "minimumRingSize":
		return "use ringHash.minimumRingSize"
	case "targetPort":
		return "remove it: a gateway's listener is its port number"
	case "simple":
		return "use LEAST_REQUEST"
	}
	return ""
}
