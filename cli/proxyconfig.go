package cli

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirmesh/weir/cli/envoy"
	"github.com/weirmesh/weir/xds/dump"
	"github.com/weirmesh/weir/xds/resource"
)

const (
	asShort = "short"
	// dumpTimeout is for the dump of a proxy that holds everything of a large mesh.
	dumpTimeout = time.Minute
)

func (a *app) proxyConfig() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "proxy-config",
		Aliases: []string{"pc"},
		Short:   "show the configuration that a proxy holds: listeners, routes, clusters, …",
		Long: `Show the configuration that a proxy holds, as it came over xDS: with the columns
and flags of istioctl proxy-config. What the proxy has made of it is shown by
"weir proxy WORKLOAD state".

WORKLOAD is a pod, or a Deployment: then its first pod is asked. Instead of a
workload, --file takes what a proxy's /config_dump has answered (for endpoint also
/clusters?format=json): of Envoy, too. In a cluster a port of the pod is
forwarded, which takes the right to do that.`,
		Example: `  weir proxy-config listener productpage-v1 --port 9080
  weir proxy-config route reviews-v1-0 --name 9080 -o json
  weir proxy-config cluster productpage-v1 --fqdn reviews
  weir proxy-config diff reviews-v1`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("use one of: "+joined(children(cmd)), "weir proxy-config does not know %q", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, c := range []*cobra.Command{a.pcListener(), a.pcRoute(), a.pcCluster(), a.pcEndpoint(), a.pcSecret(), a.pcBootstrap(), a.pcOnDemand(), a.pcDiff(), a.pcLog()} {
		c.DisableFlagsInUseLine = true
		cmd.AddCommand(c)
	}
	return cmd
}

func children(cmd *cobra.Command) (names []string) {
	for _, c := range cmd.Commands() {
		names = append(names, c.Name())
	}
	return names
}

// holder says whose configuration is shown: a workload's proxy, or a file.
type holder struct {
	namespace, file string
	output          *choice
}

// viewer makes one of the commands. fetch is called with the way to what is asked for.
func (a *app) viewer(use, about, long, example string, formats []string, show func(ctx context.Context, h *holder, read reader) error) *cobra.Command {
	h := &holder{}
	cmd := &cobra.Command{
		Use: use + " WORKLOAD [flags]", Short: about, Long: long, Example: example,
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return usage("`"+cmd.CommandPath()+" --help`", "%s takes one workload, got %q too", cmd.CommandPath(), args[1])
			case len(args) == 1 && h.file != "":
				return usage("leave one out", "%s takes a workload or --file, not both", cmd.CommandPath())
			case len(args) == 0 && h.file == "":
				return usage("`"+cmd.CommandPath()+" reviews-v1`; `weir proxy-status` lists the proxies", "%s needs a workload", cmd.CommandPath())
			}
			return nil
		},
		ValidArgsFunction: a.completeProxies,
	}
	h.output = choose(cmd, "output", "o", "form of the output", formats...)
	a.namespaceFlag(cmd, &h.namespace)
	cmd.Flags().StringVarP(&h.file, "file", "f", "", "`file` that a dump is in, - for standard input, instead of a proxy")
	_ = cmd.MarkFlagFilename("file", "json")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), dumpTimeout)
		defer cancel()
		read := a.fromFile(h.file)
		if h.file == "" {
			w, err := a.window(ctx, args[0], h.namespace)
			if err != nil {
				return err
			}
			read = w.get
		}
		return show(ctx, h, read)
	}
	return cmd
}

// reader reads the answer to a GET of a proxy's admin interface.
type reader func(ctx context.Context, path string) (io.ReadCloser, error)

func (a *app) fromFile(path string) reader {
	return func(context.Context, string) (io.ReadCloser, error) {
		if path == "-" {
			return io.NopCloser(a.Stdin), nil
		}
		return os.Open(path)
	}
}

// held reads a dump.
func held(ctx context.Context, read reader, query string) (*dump.Held, error) {
	body, err := read(ctx, "/config_dump"+query)
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }()
	return dump.Read(body)
}

// view prints a table, or the resources that it is about.
func (a *app) view(h *holder, raw []json.RawMessage, t envoy.Table, err error) error {
	switch {
	case err != nil:
		return err
	case h.output.value != asShort:
		return a.out.emit(h.output.value, raw)
	case len(t.Rows) == 0:
		a.errs.printf("nothing matches\n")
		return nil
	}
	out := newTable(t.Head...)
	for _, row := range t.Rows {
		var cells []cell
		for _, s := range row {
			cells = append(cells, text(s))
		}
		out.add(cells...)
	}
	a.out.print(out)
	return nil
}

var resourceFormats = []string{asShort, asJSON, asYAML}

func (a *app) pcListener() *cobra.Command {
	var f envoy.ListenerFilter
	cmd := a.viewer("listener", "show listeners",
		`Show listeners: a row is a filter chain. MATCH is what connections it takes (Addr:
the address they were going to, Trans: tls or raw_buffer, App: what they speak,
SNI: the server name), DESTINATION where they go: to a cluster, or through a route
table.`,
		`  weir proxy-config listener productpage-v1 --port 9080
  weir proxy-config listener reviews-v1-0 --type HTTP -o yaml`,
		resourceFormats, func(ctx context.Context, h *holder, read reader) error {
			d, err := held(ctx, read, "")
			if err != nil {
				return err
			}
			raw, t, err := envoy.Listeners(d, f)
			return a.view(h, raw, t, err)
		})
	cmd.Flags().StringVar(&f.Address, "address", "", "only those on this `address`")
	cmd.Flags().Uint32Var(&f.Port, "port", 0, "only those on this `port`")
	cmd.Flags().StringVar(&f.Type, "type", "", "only those of this `type`: HTTP, TCP or HTTP+TCP")
	_ = cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions([]string{"HTTP", "TCP", "HTTP+TCP"}, cobra.ShellCompDirectiveNoFileComp))
	noValues(cmd, "address", "port")
	return cmd
}

// noValues says that a shell has nothing to offer for the flags.
func noValues(cmd *cobra.Command, flags ...string) {
	for _, f := range flags {
		_ = cmd.RegisterFlagCompletionFunc(f, cobra.NoFileCompletions)
	}
}

func (a *app) pcRoute() *cobra.Command {
	var name string
	cmd := a.viewer("route", "show routes",
		`Show routes, in the order in which they are tried within a virtual host. VIRTUAL
SERVICE is the object that a route was made of, as name.namespace.`,
		`  weir proxy-config route productpage-v1 --name 9080
  weir proxy-config route istio-system/istio-ingressgateway -o json`,
		resourceFormats, func(ctx context.Context, h *holder, read reader) error {
			d, err := held(ctx, read, "")
			if err != nil {
				return err
			}
			raw, t, err := envoy.Routes(d, name)
			return a.view(h, raw, t, err)
		})
	cmd.Flags().StringVar(&name, "name", "", "only the route configuration of this `name`")
	noValues(cmd, "name")
	return cmd
}

func (a *app) pcCluster() *cobra.Command {
	var f envoy.ClusterFilter
	cmd := a.viewer("cluster", "show clusters",
		`Show clusters: what the proxy can send to. TYPE is how endpoints are found: EDS by
the control plane, STRICT_DNS and LOGICAL_DNS by name, ORIGINAL_DST where the
client was going, STATIC in the cluster itself.`,
		`  weir proxy-config cluster productpage-v1 --fqdn reviews.default
  weir proxy-config cluster productpage-v1 --direction inbound`,
		resourceFormats, func(ctx context.Context, h *holder, read reader) error {
			d, err := held(ctx, read, "")
			if err != nil {
				return err
			}
			raw, t, err := envoy.Clusters(d, f)
			return a.view(h, raw, t, err)
		})
	cmd.Flags().StringVar(&f.FQDN, "fqdn", "", "only those whose service's `name` contains this")
	cmd.Flags().Uint32Var(&f.Port, "port", 0, "only those of this `port`")
	cmd.Flags().StringVar(&f.Subset, "subset", "", "only those of this `subset`")
	cmd.Flags().StringVar(&f.Direction, "direction", "", "only inbound or outbound ones (`direction`)")
	_ = cmd.RegisterFlagCompletionFunc("direction", cobra.FixedCompletions([]string{"inbound", "outbound"}, cobra.ShellCompDirectiveNoFileComp))
	noValues(cmd, "fqdn", "port", "subset")
	return cmd
}

func (a *app) pcEndpoint() *cobra.Command {
	var f envoy.EndpointFilter
	cmd := a.viewer("endpoint", "show endpoints",
		`Show the endpoints of clusters, as the proxy sees them now. STATUS is what the
control plane says, OUTLIER CHECK what the proxy found out by itself.`,
		`  weir proxy-config endpoint productpage-v1 --port 9080
  weir proxy-config endpoint reviews-v1 --cluster "inbound|9080||"
  weir proxy-config endpoint productpage-v1 --status unhealthy`,
		resourceFormats, func(ctx context.Context, h *holder, read reader) error {
			body, err := read(ctx, "/clusters?format=json")
			if err != nil {
				return err
			}
			defer func() { _ = body.Close() }()
			data, err := io.ReadAll(body)
			if err != nil {
				return fmt.Errorf("reading endpoints: %w", err)
			}
			var all envoy.ClusterStatuses
			if err := json.Unmarshal(data, &all); err != nil {
				return fmt.Errorf("reading endpoints: %w", err)
			}
			if all.Statuses == nil { // a file may be a dump
				d, err := dump.Read(bytes.NewReader(data))
				if err != nil {
					return err
				}
				raw, t, err := envoy.EndpointsOf(d, f)
				return a.view(h, raw, t, err)
			}
			raw, t, err := envoy.Endpoints(&all, f)
			return a.view(h, raw, t, err)
		})
	cmd.Flags().StringVar(&f.Address, "address", "", "only those at this `address`")
	cmd.Flags().Uint32Var(&f.Port, "port", 0, "only those on this `port`")
	cmd.Flags().StringVar(&f.Cluster, "cluster", "", "only those of this `cluster`")
	cmd.Flags().StringVar(&f.Status, "status", "", "only those of this `status`: healthy or unhealthy")
	_ = cmd.RegisterFlagCompletionFunc("status", cobra.FixedCompletions([]string{"healthy", "unhealthy"}, cobra.ShellCompDirectiveNoFileComp))
	noValues(cmd, "address", "port", "cluster")
	return cmd
}

func (a *app) pcSecret() *cobra.Command {
	return a.viewer("secret", "show certificates and roots",
		`Show the certificates that the proxy shows and the roots that it trusts. "default"
and "ROOTCA" are the workload's own identity. Private keys never leave the proxy.`,
		`  weir proxy-config secret productpage-v1
  weir proxy-config secret istio-system/istio-ingressgateway -o json`,
		resourceFormats, func(ctx context.Context, h *holder, read reader) error {
			d, err := held(ctx, read, "")
			if err != nil {
				return err
			}
			raw, t, err := envoy.Secrets(d, time.Now())
			return a.view(h, raw, t, err)
		})
}

func (a *app) pcBootstrap() *cobra.Command {
	return a.viewer("bootstrap", "show what the proxy began with",
		`Show what the proxy began with: its node as the control plane knows it, and its
static configuration.`,
		`  weir proxy-config bootstrap productpage-v1
  weir proxy-config bootstrap productpage-v1 -o yaml`,
		[]string{asJSON, asYAML}, func(ctx context.Context, h *holder, read reader) error {
			d, err := held(ctx, read, "")
			if err != nil {
				return err
			}
			if d.Bootstrap == nil {
				return hinted("a dump by ?resource= or ?name_regex= has none", "the dump says nothing about the bootstrap")
			}
			return a.out.emit(h.output.value, d.Bootstrap)
		})
}

func (a *app) pcDiff() *cobra.Command {
	var namespace string
	cmd := &cobra.Command{
		Use:   "diff WORKLOAD [flags]",
		Short: "compare what the control plane sends with what a proxy holds",
		Long: `Compare what the control plane is sending to a proxy with what the proxy holds,
resource by resource and field by field. In "path: A → B", A is sent and B held.
A difference that stays means that the proxy has refused something, or does not
answer. Exit status 1 if there is any.`,
		Example: `  weir proxy-config diff reviews-v1
  weir proxy-config diff reviews-v1-0 -o json | jq '.[].name'`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usage("`weir proxy-config diff reviews-v1`", "weir proxy-config diff takes one workload")
			}
			return nil
		},
		ValidArgsFunction: a.completeProxies,
	}
	output := choose(cmd, "output", "o", "form of the output", asShort, asJSON, asYAML)
	a.namespaceFlag(cmd, &namespace)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), dumpTimeout)
		defer cancel()
		w, err := a.window(ctx, args[0], namespace)
		if err != nil {
			return err
		}
		c, err := a.mesh()
		if err != nil {
			return err
		}
		sentText, err := c.ProxyConfig(ctx, w.name)
		if err != nil {
			return err
		}
		sent, err := dump.Read(bytes.NewReader(sentText))
		if err != nil {
			return err
		}
		have, err := held(ctx, w.get, "?include_eds")
		if err != nil {
			return err
		}
		differences, err := dump.Diff(sent, have)
		if err != nil {
			return err
		}
		if output.value != asShort {
			if differences == nil {
				differences = []dump.Difference{}
			}
			if err := a.out.emit(output.value, differences); err != nil {
				return err
			}
		} else {
			a.out.differences(w.name, sent, differences)
		}
		if len(differences) > 0 {
			return silent(exitNo)
		}
		return nil
	}
	return cmd
}

// differences prints how many resources of each type agree, and those that do not.
func (p *printer) differences(name string, sent *dump.Held, all []dump.Difference) {
	counts := map[string]int{}
	for _, r := range sent.Resources {
		counts[r.TypeURL]++
	}
	for _, typ := range []string{resource.ClusterType, resource.EndpointType, resource.ListenerType, resource.RouteType, resource.SecretType, resource.ExtensionConfigType} {
		n := 0
		for _, d := range all {
			if d.TypeURL == typ && d.Missing != "sent" {
				n++
			}
		}
		switch {
		case counts[typ] == 0:
		case n == 0:
			p.printf("%-4s  %d sent, all held\n", resource.Short(typ), counts[typ])
		default:
			p.printf("%-4s  %d sent, %s\n", resource.Short(typ), counts[typ], p.paint(red, fmt.Sprintf("%d not held as sent", n)))
		}
	}
	for _, d := range all {
		p.printf("\n%s %s\n", p.paint(bold, resource.Short(d.TypeURL)), p.paint(bold, clean(d.Name)))
		switch d.Missing {
		case "held":
			p.printf("  sent as version %s, not held\n", clean(d.Sent))
		case "sent":
			p.printf("  held in version %s, not sent\n", clean(d.Held))
		default:
			p.printf("  sent as version %s, held in version %s\n", clean(d.Sent), clean(d.Held))
		}
		if r := d.Refused; r != nil {
			p.printf("  %s %s: %s\n", p.paint(red, "refused"), age(r.Time)+" ago", strings.ReplaceAll(clean(r.Details), "\n", "\n    "))
		}
		for _, f := range d.Fields {
			p.printf("  %s: %s → %s\n", clean(f.Path), p.paint(green, clean(cmp.Or(f.Sent, "nothing"))), p.paint(red, clean(cmp.Or(f.Held, "nothing"))))
		}
	}
	if len(all) == 0 {
		p.printf("%s holds what it is sent\n", name)
	}
}

// completeProxies offers the workloads that have a proxy.
func (a *app) completeProxies(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	namespace := ""
	if f := cmd.Flags().Lookup("namespace"); f != nil {
		namespace = f.Value.String()
	}
	if namespace == "" {
		namespace = a.namespace()
	}
	var out []string
	known := a.proxyNames()
	if in, err := a.inCluster(); err == nil && in {
		for _, w := range a.workloads(cmd.Context()) {
			known = append(known, w[0]+"/"+w[1])
		}
		slices.Sort(known)
		known = slices.Compact(known)
	}
	for _, name := range known {
		if pod, ok := strings.CutPrefix(name, namespace+"/"); ok {
			name = pod
		}
		out = append(out, name)
	}
	slices.Sort(out)
	return out, cobra.ShellCompDirectiveNoFileComp
}
