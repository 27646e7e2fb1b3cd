package translate

import (
	"fmt"
	"maps"
	"strings"
	"unicode"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weirmesh/weir/mesh"
)

// deciders are the objects by which a filter chain decides, for a proxy's records (metadata weir.deciders): policies by the names that
// details have, providers of tokens by theirs, and together those that allow something ("allow"), that say whose tokens are good ("tokens"),
// and what is served ("server").
type deciders map[string][]*structpb.Value

func (d deciders) add(name string, r *mesh.Ref, line int) {
	m := origin(hyphens(r.Kind), r, line)
	f := map[string]*structpb.Value{"config": m.FilterMetadata["istio"].Fields["config"]}
	maps.Copy(f, ours(m))
	d[name] = append(d[name], structpb.NewStructValue(fields(f)))
}

// hyphens is a kind as paths have it: authorization-policy.
func hyphens(kind string) string {
	var b strings.Builder
	for i, r := range kind {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('-')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// put gives a chain its deciders.
func (d deciders) put(c *listenerv3.FilterChain) {
	if len(d) == 0 {
		return
	}
	if c.Metadata == nil {
		c.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{}}
	}
	all := map[string]*structpb.Value{}
	for name, list := range d {
		all[name] = structpb.NewListValue(&structpb.ListValue{Values: list})
	}
	ours(c.Metadata)["deciders"] = structpb.NewStructValue(fields(all))
}

// deciders are the policies for a workload.
func (a *authorization) deciders() deciders {
	d := deciders{}
	for _, p := range a.policies {
		if p.DryRun {
			continue
		}
		d.add(fmt.Sprintf("ns[%s]-policy[%s]", p.Home(), p.Title()), &p.Ref, 0)
		if p.Action == mesh.AuthorizationAllow {
			d.add("allow", &p.Ref, 0)
		}
	}
	for _, p := range a.identify {
		d.add("tokens", &p.Ref, 0)
	}
	for i := range a.rules {
		d.add(tokenName(i), a.rules[i].ref, a.rules[i].Line)
	}
	return d
}
