package verdict

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
)

// object is one of a set.
type object struct {
	kind, namespace, name string
	spec                  map[string]any
}

func (o *object) text() string {
	b, err := json.MarshalIndent(map[string]any{"apiVersion": "networking.istio.io/v1", "kind": o.kind,
		"metadata": map[string]any{"name": o.name, "namespace": o.namespace}, "spec": o.spec}, "", " ")
	if err != nil {
		panic(err)
	}
	return string(b)
}

// generator makes sets of objects that get into each other's way: few hosts, few conditions.
type generator struct {
	*rand.Rand
	seed    uint64
	rules   int  // made
	unbound bool // no server has an address of its own
	objects []object
}

func newGenerator(seed uint64) *generator {
	return &generator{Rand: rand.New(rand.NewPCG(seed, 1)), seed: seed}
}

// set is a set of objects, of which about one in six has an error.
func (g *generator) set() []object {
	for range 1 + g.IntN(6) {
		ns := pick(g, "default", "default", "other", "istio-system")
		o := object{namespace: ns, name: fmt.Sprintf("%c%d", 'a'+rune(g.IntN(26)), len(g.objects))}
		switch n := g.IntN(20); {
		case n < 11:
			o.kind, o.spec = "VirtualService", g.virtualService()
		case n < 14:
			o.kind, o.spec = "DestinationRule", g.destinationRule()
		case n < 17:
			o.kind, o.spec = "Gateway", g.gateway()
		case n < 19:
			o.kind, o.spec = "ServiceEntry", g.serviceEntry()
		default:
			o.kind, o.spec = "Sidecar", g.sidecar()
		}
		if g.IntN(6) == 0 {
			g.spoil(&o)
		}
		g.objects = append(g.objects, o)
	}
	return g.objects
}

func pick[T any](g *generator, values ...T) T { return values[g.IntN(len(values))] }

// some is a few of values, each once.
func some[T any](g *generator, most int, values ...T) []T {
	g.Shuffle(len(values), func(i, j int) { values[i], values[j] = values[j], values[i] })
	return values[:1+g.IntN(most)]
}

var (
	meshHosts = []string{"echo.default.svc.cluster.local", "echo.default.svc.cluster.local", "shop.other.svc.cluster.local", "raw.default.svc.cluster.local",
		"*.default.svc.cluster.local", "*.svc.cluster.local", "web.example", "*.example", "a.wild.example", "nobody.default.svc.cluster.local"}
	edgeHosts = []string{"a.example", "b.example", "*.example", "*", "echo.default.svc.cluster.local"}
)

// rule is a name that no other rule has.
func (g *generator) rule() string {
	g.rules++
	return fmt.Sprintf("r%d", g.rules)
}

func (g *generator) gateways() []string {
	return pick(g, nil, nil, nil, []string{"mesh"}, []string{"istio-system/edge"}, []string{"istio-system/edge"}, []string{"mesh", "istio-system/edge"}, []string{"default/none"}, g.known())
}

// known are Gateways of the set.
func (g *generator) known() []string {
	var out []string
	for _, o := range g.objects {
		if o.kind == "Gateway" {
			out = append(out, o.namespace+"/"+o.name)
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}

func (g *generator) virtualService() map[string]any {
	spec := map[string]any{}
	gateways := g.gateways()
	if gateways != nil {
		spec["gateways"] = gateways
	}
	hosts := meshHosts
	if len(gateways) > 0 && (gateways[0] != "mesh" || len(gateways) > 1) {
		hosts = append(append([]string{}, edgeHosts...), meshHosts...)
		if gateways[0] == "mesh" {
			hosts = hosts[5:]
		}
	}
	leaf := gateways == nil && g.IntN(8) == 0
	if !leaf {
		spec["hosts"] = some(g, 3, append([]string{}, hosts...)...)
	}
	if g.IntN(5) == 0 {
		spec["exportTo"] = pick(g, []string{"."}, []string{"other"}, []string{"default", "other"}, []string{"*"}, []string{"istio-system"})
	}
	if leaf || g.IntN(5) > 0 {
		var rules []any
		for range 1 + g.IntN(5) {
			rules = append(rules, g.httpRule(leaf))
		}
		spec["http"] = rules
	}
	if !leaf && g.IntN(4) == 0 || spec["http"] == nil {
		kind := pick(g, "tls", "tcp")
		var rules []any
		for range 1 + g.IntN(3) {
			rules = append(rules, g.l4Rule(kind, spec))
		}
		spec[kind] = rules
	}
	return spec
}

func (g *generator) httpRule(leaf bool) map[string]any {
	name := g.rule()
	if !leaf && g.IntN(8) == 0 {
		r := map[string]any{"delegate": g.delegate()}
		if g.IntN(3) > 0 {
			r["match"] = []any{g.httpMatch()}
		}
		return r
	}
	r := map[string]any{"name": name, "directResponse": map[string]any{"status": 200, "body": map[string]any{"string": name}}}
	n := g.IntN(4)
	var matches []any
	for range n {
		matches = append(matches, g.httpMatch())
	}
	if n > 0 {
		r["match"] = matches
	}
	return r
}

func (g *generator) delegate() map[string]any {
	for _, o := range g.objects {
		if o.kind == "VirtualService" && o.spec["hosts"] == nil && g.IntN(2) == 0 {
			return map[string]any{"name": o.name, "namespace": o.namespace}
		}
	}
	return map[string]any{"name": pick(g, "a0", "b1", "c2", "d3"), "namespace": "default"}
}

func (g *generator) httpMatch() map[string]any {
	m := map[string]any{}
	for range 1 + g.IntN(2)*g.IntN(3) {
		switch g.IntN(20) {
		default:
			m["uri"] = pick(g, exact("/a"), exact("/a/b"), exact("/"), prefix("/"), prefix("/a"), prefix("/a/"), prefix("/b"), prefix(""), regex("/a.*"), regex("/[ab]"), regex(".*"),
				regex("/a(/b)?"), regex(`/\w+`), regex(`/[^/]*`), exact("/a/../b"), exact("/A"), regex("(?i)/a"), regex(`/a\b.*`), regex("b"))
			if g.IntN(6) == 0 {
				m["ignoreUriCase"] = true
			}
		case 10, 11:
			m["method"] = pick(g, exact("GET"), exact("POST"), regex("GET|POST"), prefix("P"))
		case 12, 13, 14:
			m["headers"] = g.headers()
		case 15:
			m["withoutHeaders"] = g.headers()
		case 16:
			m["queryParams"] = map[string]any{"q": pick(g, exact("1"), prefix("1"), regex("[12]"), regex(".*"), map[string]any{})}
		case 17:
			m["authority"] = pick(g, exact("echo"), exact("echo.default.svc.cluster.local"), exact("echo.default:8080"), prefix("echo"), regex(".*:.*"), exact("a.example"), regex("[ab].example"), regex(".*example"), exact("zzz"))
		case 18:
			switch g.IntN(5) {
			case 0:
				m["scheme"] = pick(g, exact("http"), exact("https"))
			case 1:
				m["port"] = pick(g, 8080, 80, 9000, 443)
			case 2:
				m["sourceNamespace"] = pick(g, "default", "other", "nowhere")
			case 3:
				m["gateways"] = pick(g, []string{"mesh"}, []string{"istio-system/edge"})
			default:
				m["sourceLabels"] = g.labels()
			}
		case 19:
			m["sourceLabels"] = g.labels()
		}
	}
	return m
}

func (g *generator) labels() map[string]any {
	return pick(g, map[string]any{"app": "client"}, map[string]any{"app": "client", "version": "v1"}, map[string]any{"version": "v1"}, map[string]any{"version": "v2"}, map[string]any{"app": "other"})
}

func (g *generator) headers() map[string]any {
	out := map[string]any{}
	for _, name := range some(g, 2, "x-a", "x-b") {
		out[name] = pick(g, exact("1"), exact("2"), prefix("1"), regex("[0-9]+"), regex("1.*"), regex(".*"), map[string]any{}, regex(`\S+`), exact("1 2"))
	}
	return out
}

func exact(s string) map[string]any  { return map[string]any{"exact": s} }
func prefix(s string) map[string]any { return map[string]any{"prefix": s} }
func regex(s string) map[string]any  { return map[string]any{"regex": s} }

func (g *generator) l4Rule(kind string, spec map[string]any) map[string]any {
	r := map[string]any{"route": []any{map[string]any{"destination": map[string]any{"host": g.rule() + ".target", "port": map[string]any{"number": 9000}}}}} // told by where it leads
	var matches []any
	for range g.IntN(3) {
		m := map[string]any{}
		if kind == "tls" {
			var hosts []string
			all, _ := spec["hosts"].([]string)
			for _, h := range all {
				hosts = append(hosts, h)
				if rest, ok := strings.CutPrefix(h, "*."); ok {
					hosts = append(hosts, "b."+rest, "*.b."+rest)
				}
			}
			if len(hosts) == 0 {
				hosts = []string{"a.example"}
			}
			m["sniHosts"] = some(g, min(2, len(hosts)), hosts...)
		}
		if g.IntN(3) == 0 || kind == "tcp" {
			switch g.IntN(4) {
			case 0:
				m["port"] = pick(g, 9000, 9443, 80)
			case 1:
				m["sourceLabels"] = g.labels()
			case 2:
				m["destinationSubnets"] = pick(g, []string{"10.96.0.0/24"}, []string{"10.96.0.10/32"}, []string{"192.0.2.0/24"}, []string{"0.0.0.0/0"}, []string{"10.96.0.10", "192.0.2.1"})
			default:
				m["gateways"] = pick(g, []string{"mesh"}, []string{"istio-system/edge"})
			}
		}
		matches = append(matches, m)
	}
	if kind == "tls" && len(matches) == 0 {
		matches = append(matches, map[string]any{"sniHosts": spec["hosts"]})
	}
	if len(matches) > 0 {
		r["match"] = matches
	}
	return r
}

func (g *generator) destinationRule() map[string]any {
	policy := func() map[string]any { // told by its time-out, which is nobody else's
		g.rules++
		return map[string]any{"connectionPool": map[string]any{"tcp": map[string]any{"connectTimeout": fmt.Sprintf("%dms", 1000+g.rules)}}}
	}
	spec := map[string]any{"host": pick(g, "echo.default.svc.cluster.local", "echo.default.svc.cluster.local", "shop.other.svc.cluster.local", "*.default.svc.cluster.local", "*.svc.cluster.local", "web.example", "nobody.default.svc.cluster.local")}
	if g.IntN(3) > 0 {
		spec["trafficPolicy"] = policy()
	}
	var subsets []any
	for _, name := range some(g, 3, "v1", "v2", "v3")[g.IntN(2):] {
		subsets = append(subsets, map[string]any{"name": name, "labels": map[string]any{"version": name}, "trafficPolicy": policy()})
	}
	if subsets != nil {
		spec["subsets"] = subsets
	}
	if g.IntN(4) == 0 {
		spec["exportTo"] = pick(g, []string{"."}, []string{"other"}, []string{"*"})
	}
	if g.IntN(4) == 0 {
		spec["workloadSelector"] = map[string]any{"matchLabels": g.labels()}
	}
	return spec
}

func (g *generator) gateway() map[string]any {
	var servers []any
	for i := range 1 + g.IntN(3) {
		port := map[string]any{"number": pick(g, 80, 80, 443, 443, 9999), "name": fmt.Sprintf("p%d", i)}
		s := map[string]any{"port": port, "hosts": some(g, 2, "a.example", "b.example", "*.example", "*", "default/*", "./*.example", "other/a.example", "*.default.svc.cluster.local")}
		switch port["protocol"] = pick(g, "HTTP", "HTTP", "HTTPS", "TLS", "TCP"); port["protocol"] {
		case "HTTPS":
			s["tls"] = pick(g, map[string]any{"mode": "SIMPLE", "serverCertificate": "/certs/c.pem", "privateKey": "/certs/c.key"}, map[string]any{"mode": "PASSTHROUGH"})
		case "TLS":
			s["tls"] = pick(g, map[string]any{"mode": "SIMPLE", "serverCertificate": "/certs/c.pem", "privateKey": "/certs/c.key"}, map[string]any{"mode": "PASSTHROUGH"}, map[string]any{"mode": "AUTO_PASSTHROUGH"})
		case "HTTP":
			if g.IntN(6) == 0 {
				s["tls"] = map[string]any{"httpsRedirect": true}
			}
		}
		if g.IntN(10) == 0 && !g.unbound {
			s["bind"] = "10.1.0.99"
		}
		servers = append(servers, s)
	}
	return map[string]any{"selector": pick(g, map[string]any{"istio": "ingressgateway"}, map[string]any{"istio": "ingressgateway"}, map[string]any{"istio": "ingressgateway"}, map[string]any{"app": "nobody"}), "servers": servers}
}

func (g *generator) serviceEntry() map[string]any {
	spec := map[string]any{"hosts": some(g, 2, "web.example", "db.example", "a.wild.example"), "resolution": pick(g, "STATIC", "DNS", "NONE"),
		"ports": some(g, 2, any(map[string]any{"number": 80, "name": "http", "protocol": "HTTP"}), any(map[string]any{"number": 9000, "name": "tcp", "protocol": "TCP"}),
			any(map[string]any{"number": 443, "name": "tls", "protocol": "TLS"}), any(map[string]any{"number": 9443, "name": "https", "protocol": "HTTPS"}))}
	switch spec["resolution"] {
	case "STATIC":
		spec["endpoints"] = []any{map[string]any{"address": "192.0.2.10"}}
	case "NONE":
		spec["addresses"] = pick(g, []string{"192.0.2.0/24"}, []string{"192.0.2.1"})
		if g.IntN(3) == 0 {
			spec["hosts"] = []string{"*.wild.example"}
		}
	}
	if g.IntN(5) == 0 {
		spec["exportTo"] = []string{"."}
	}
	return spec
}

func (g *generator) sidecar() map[string]any {
	spec := map[string]any{"egress": pick(g, []any{map[string]any{"hosts": []string{"./*"}}}, []any{map[string]any{"hosts": []string{"default/*", "istio-system/*"}}},
		[]any{map[string]any{"hosts": []string{"*/echo.default.svc.cluster.local"}}}, []any{map[string]any{"hosts": []string{"*/*"}, "port": map[string]any{"number": 8080, "name": "http", "protocol": "HTTP"}}})}
	if g.IntN(2) == 0 {
		spec["workloadSelector"] = map[string]any{"labels": g.labels()}
	}
	return spec
}

// spoil makes an object wrong somewhere.
func (g *generator) spoil(o *object) {
	rules, _ := o.spec["http"].([]any)
	switch n := g.IntN(8); {
	case n == 0:
		o.spec["nonsense"] = 1
	case n == 1 && len(rules) > 0:
		r := rules[g.IntN(len(rules))].(map[string]any)
		r["match"] = []any{map[string]any{"uri": regex("(")}}
	case n == 2 && len(rules) > 0:
		delete(rules[g.IntN(len(rules))].(map[string]any), "directResponse")
	case n == 3:
		o.spec["hosts"] = []string{"not a host"}
	case n == 4 && len(rules) > 0:
		rules[g.IntN(len(rules))].(map[string]any)["timeout"] = "soon"
	case n == 5:
		o.spec["gateways"] = []string{"Not/a/gateway"}
	case n == 6:
		o.spec["exportTo"] = []string{"Nowhere!"}
	default:
		o.spec["servers"], o.spec["subsets"] = "none", []any{map[string]any{"name": ""}}
	}
}
