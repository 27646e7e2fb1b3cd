package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const (
	asText = "text"
	asDOT  = "dot"
)

// graph is who calls whom, as -o json has it.
type graph struct {
	Nodes []string `json:"nodes"`
	Edges []call   `json:"edges"`
}

func (a *app) graph() *cobra.Command {
	var namespace string
	var since time.Duration
	cmd := &cobra.Command{
		Use:   "graph [flags]",
		Short: "show who calls whom, with rate and errors",
		Long: `Show who calls whom: each workload with those that it called within --since, with
requests a second, errors and latency of the last minute, as the proxies count
them. No Prometheus is needed.

-o dot is for Graphviz; edges with errors are red, those that nothing happened on
in the last minute are dashed.`,
		Example: `  weir graph
  weir graph -n shop --since 24h
  weir graph -o dot | dot -Tsvg > mesh.svg`,
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	output := choose(cmd, "output", "o", "form of the output", asText, asDOT, asJSON, asYAML)
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "edges from or to this `namespace` (default: all)")
	_ = cmd.RegisterFlagCompletionFunc("namespace", a.completeNamespaces)
	cmd.Flags().DurationVar(&since, "since", 10*time.Minute, "calls within this time, up to 25h")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if since <= 0 {
			return usage("for example --since 1h", "--since must be a time before now")
		}
		c, err := a.mesh()
		if err != nil {
			return err
		}
		list, err := a.busiest(cmd.Context(), c, namespace, since)
		if err != nil {
			return err
		}
		g := graphOf(list)
		switch output.value {
		case asText:
			if len(list) == 0 {
				a.noCalls(namespace, "within "+since.String()+"; proxies report every 5 seconds")
			}
			a.out.graphText(g)
		case asDOT:
			a.out.printf("%s", dot(g))
		default:
			return a.out.emit(output.value, g)
		}
		return nil
	}
	return cmd
}

// graphOf orders calls by who calls; who is not called itself comes first.
func graphOf(list []call) *graph {
	g := &graph{Nodes: []string{}, Edges: append([]call{}, list...)}
	called := map[string]bool{}
	for i := range list {
		g.Nodes = with(with(g.Nodes, list[i].Source), list[i].Destination)
		called[list[i].Destination] = true
	}
	first := func(n string) int {
		if called[n] {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(g.Edges, func(a, b call) int {
		return cmp.Or(first(a.Source)-first(b.Source), cmp.Compare(a.Source, b.Source), cmp.Compare(a.Destination, b.Destination))
	})
	return g
}

func (p *printer) graphText(g *graph) {
	source := ""
	for i := range g.Edges {
		c := &g.Edges[i]
		if c.Source != source || i == 0 {
			source = c.Source
			p.printf("%s\n", p.paint(bold, clean(source)))
		}
		to := c.Destination
		if c.Service != "" && c.Service != to {
			to += " (" + c.Service + ")"
		}
		p.printf("  -> %s  %s\n", clean(to), p.paint(edgeColor(c), clean(edgeText(c))))
	}
}

// edgeText is "12.3/s, 1.2 % errors, p99 40 ms, http over mtls".
func edgeText(c *call) string {
	parts := []string{rateText(c.Rate)}
	if c.Failures > 0 {
		parts = append(parts, errorText(c).text+" errors")
	}
	if l := latencyText(c.P99); l != "" {
		parts = append(parts, "p99 "+l)
	}
	how := c.Protocol
	if c.Transport != "" {
		how += " over " + c.Transport
	}
	return strings.Join(append(parts, how), ", ")
}

func edgeColor(c *call) color {
	switch {
	case c.Failures > 0:
		return red
	case c.Requests == 0:
		return dim
	}
	return plain
}

// dot is the graph for Graphviz.
func dot(g *graph) string {
	var b strings.Builder
	b.WriteString("digraph mesh {\n  rankdir=LR;\n  node [shape=box];\n")
	for _, n := range g.Nodes {
		fmt.Fprintf(&b, "  %s;\n", dotText(n))
	}
	for i := range g.Edges {
		c := &g.Edges[i]
		style := ""
		switch edgeColor(c) {
		case red:
			style = ", color=red"
		case dim:
			style = ", style=dashed"
		}
		fmt.Fprintf(&b, "  %s -> %s [label=%s%s];\n", dotText(c.Source), dotText(c.Destination), dotText(edgeText(c)), style)
	}
	b.WriteString("}\n")
	return b.String()
}

// dotText quotes a name: in DOT's strings only quotes and backslashes are special.
func dotText(s string) string {
	return `"` + strings.NewReplacer(`"`, `\"`, `\`, `\\`).Replace(clean(s)) + `"`
}
