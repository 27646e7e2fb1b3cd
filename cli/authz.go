package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	apiv1 "github.com/weirmesh/weir/api/v1"
)

func (a *app) authz() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "authz COMMAND [flags]",
		Short: "authorization policies made of what was seen",
		Long: `Authorization policies made of what was seen. "weir can" says what those in force
allow.`,
		Example: `  weir authz suggest shop`,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.authzSuggest())
	return cmd
}

func (a *app) authzSuggest() *cobra.Command {
	var window time.Duration
	cmd := &cobra.Command{
		Use:   "suggest [NAMESPACE[/WORKLOAD]] [flags]",
		Short: "write policies that allow who called, and nobody else",
		Long: `Write AuthorizationPolicies that allow who called within the window, and nobody
else: one for each workload with a proxy that somebody called, by the identities
that its callers proved and the ports that they called.

The policies are for a dry run (annotation istio.io/dry-run): applied, they deny
nothing, and proxies count what they would have denied. Remove the annotation to
enforce them. Proxies report who calls whom, not methods and paths: narrow these
by hand. Who calls in plaintext has no identity and cannot be allowed; that,
callers that were refused every time, and what nobody could see, stand in
comments.`,
		Example: `  weir authz suggest shop > policies.yaml
  weir authz suggest shop/cart | weir apply -f -
  weir authz suggest --window 2h | kubectl apply -f -`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	windowFlag(cmd, &window)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		namespace, workload, err := scopeOf(args)
		if err != nil {
			return err
		}
		c, err := a.mesh()
		if err != nil {
			return err
		}
		served, err := c.MTLS(cmd.Context(), namespace, workload, window, false)
		if err != nil {
			return err
		}
		edges, err := c.Edges(cmd.Context(), namespace, workload, window)
		if err != nil {
			return err
		}
		a.silent(edges.Silent)
		all := suggestions(served, edges)
		if len(all) == 0 {
			return hinted("--window looks further back, up to 25h; `weir mtls status` lists what is served", "nobody with an identity called anything%s within %s", within(args), window)
		}
		all = slices.DeleteFunc(all, func(s *suggestion) bool {
			if len(s.labels) == 0 {
				a.errs.printf("%s/%s is left out: its pods have no labels in common that could select them\n", clean(s.namespace), clean(s.workload))
			}
			return len(s.labels) == 0
		})
		for i, s := range all {
			text, err := s.yaml()
			if err != nil {
				return err
			}
			if i > 0 {
				a.out.printf("---\n")
			}
			a.out.printf("%s", text)
		}
		if edges.Lost+edges.Dropped > 0 {
			a.errs.printf("%d calls were counted without their caller: this may not be everybody\n", edges.Lost+edges.Dropped)
		}
		a.errs.printf("%s for a dry run; `weir authz suggest --help` says what then\n", count(len(all), "policy"))
		return nil
	}
	return cmd
}

func within(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return " in " + args[0]
}

// suggestion is a policy for one workload.
type suggestion struct {
	namespace, workload string
	labels              map[string]string
	callers             map[string][]uint16 // ports by principal
	notes               []string
}

// suggestions are the policies that allow what was seen, in order of namespace and workload.
func suggestions(served *apiv1.MTLS, edges *apiv1.Edges) []*suggestion {
	byName := map[string]*suggestion{}
	for _, p := range served.Ports {
		key := p.Namespace + "/" + p.Workload
		s := byName[key]
		if s == nil {
			s = &suggestion{namespace: p.Namespace, workload: p.Workload, labels: p.Labels, callers: map[string][]uint16{}}
			byName[key] = s
		}
		for _, b := range p.Blockers { // plaintext, and what nobody could see
			s.note(fmt.Sprintf("port %d: %s", p.Port, b))
		}
	}
	for _, e := range edges.Edges {
		s := byName[e.Destination.Namespace+"/"+e.Destination.Workload]
		who, ok := strings.CutPrefix(e.Source.Identity, "spiffe://")
		switch {
		case s == nil, e.Reporter != "destination", !ok:
		case e.Requests > 0 && e.ProxyErrors == e.Requests:
			s.note(fmt.Sprintf("port %d: %s was refused every time, and is not allowed here", e.Port, who))
		case !slices.Contains(s.callers[who], uint16(e.Port)):
			s.callers[who] = append(s.callers[who], uint16(e.Port))
		}
	}
	var out []*suggestion
	for _, key := range slices.Sorted(maps.Keys(byName)) {
		if s := byName[key]; len(s.callers) > 0 {
			out = append(out, s)
		}
	}
	return out
}

func (s *suggestion) note(text string) {
	if !slices.Contains(s.notes, text) {
		s.notes = append(s.notes, text)
	}
}

// yaml writes the policy, with what is to be known about it in front.
func (s *suggestion) yaml() (string, error) {
	byPorts := map[string][]string{} // principals that called the same ports
	for who, ports := range s.callers {
		slices.Sort(ports)
		key := strings.Trim(fmt.Sprint(ports), "[]")
		byPorts[key] = append(byPorts[key], who)
	}
	rules := []any{}
	for _, key := range slices.SortedFunc(maps.Keys(byPorts), func(a, b string) int { return cmp.Compare(slices.Min(byPorts[a]), slices.Min(byPorts[b])) }) {
		slices.Sort(byPorts[key])
		rules = append(rules, map[string]any{
			"from": []any{map[string]any{"source": map[string]any{"principals": byPorts[key]}}},
			"to":   []any{map[string]any{"operation": map[string]any{"ports": strings.Fields(key)}}},
		})
	}
	spec := map[string]any{"action": "ALLOW", "rules": rules, "selector": map[string]any{"matchLabels": s.labels}}
	text, err := yaml.Marshal(map[string]any{
		"apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
		"metadata": map[string]any{"name": "callers-of-" + s.workload, "namespace": s.namespace, "annotations": map[string]string{"istio.io/dry-run": "true"}},
		"spec":     spec,
	})
	var out strings.Builder
	for _, n := range s.notes {
		fmt.Fprintf(&out, "# %s\n", clean(n))
	}
	out.Write(text)
	return out.String(), err
}
