package cli

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/cli/client"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/config/source/file"
)

// description is what is known about a pod or a service.
type description struct {
	Pod      *apiv1.Workload     `json:"pod,omitempty"`
	Proxies  []apiv1.ProxyStatus `json:"proxies,omitempty"`
	Services []apiv1.Service     `json:"services"`
	Rules    []rule              `json:"rules"`
	Findings []apiv1.Finding     `json:"findings"`
}

// rule is an object that says how services are called.
type rule struct {
	Kind      string   `json:"kind"`
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Hosts     []string `json:"hosts"` // of those asked about
}

func (a *app) describe() *cobra.Command {
	var namespace string
	cmd := &cobra.Command{
		Use:   "describe pod|service NAME [flags]",
		Short: "show what the mesh knows about a pod or a service",
		Long: `Show what the mesh knows about a pod or a service: who it is, whether its proxy
holds what it is sent, which services lead to it, which VirtualServices and
DestinationRules say how they are called, and what is wrong with any of these.`,
		Example: `  weir describe pod reviews-v1-0
  weir describe service reviews -n default
  weir describe service productpage --context staging`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 2 || describedKind(args[0]) == "" {
				return usage("`weir describe pod reviews-v1-0` or `weir describe service reviews`", "weir describe needs pod or service, and a name")
			}
			return nil
		},
		ValidArgs: []string{"pod", "service"},
	}
	output := outputFlag(cmd)
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "`namespace` of it (default: that of the mesh, or of the context)")
	_ = cmd.RegisterFlagCompletionFunc("namespace", a.completeNamespaces)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.mesh()
		if err != nil {
			return err
		}
		name := args[1]
		split(&namespace, &name)
		if namespace == "" {
			namespace = a.namespace()
		}
		d, err := describe(cmd.Context(), c, describedKind(args[0]), namespace, name)
		if err != nil {
			return err
		}
		if output.value != asTable {
			return a.out.emit(output.value, d)
		}
		a.out.description(d)
		return nil
	}
	return cmd
}

// describedKind is the kind a word stands for, "" for none.
func describedKind(word string) string {
	switch strings.ToLower(word) {
	case "pod", "pods", "po":
		return "Pod"
	case "service", "services", "svc":
		return "Service"
	}
	return ""
}

func describe(ctx context.Context, c *client.Client, kind, namespace, name string) (*description, error) {
	status, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	services, err := c.Services(ctx)
	if err != nil {
		return nil, err
	}
	d := &description{Services: []apiv1.Service{}, Rules: []rule{}, Findings: []apiv1.Finding{}}
	key := namespace + "/" + name
	if kind == "Pod" {
		i := slices.IndexFunc(status.Workloads, func(w apiv1.Workload) bool { return w.Namespace == namespace && w.Name == name })
		if i < 0 {
			return nil, missing("pod", key, status.Workloads, func(w apiv1.Workload) string { return w.Namespace + "/" + w.Name })
		}
		d.Pod = &status.Workloads[i]
		all, _, err := c.Proxies(ctx)
		if err != nil {
			return nil, err
		}
		d.Proxies = slices.DeleteFunc(all, func(p apiv1.ProxyStatus) bool { return p.Name != key })
	}
	for _, s := range services {
		leads := slices.ContainsFunc(s.Ports, func(p apiv1.ServicePort) bool {
			return slices.ContainsFunc(p.Backends, func(b apiv1.Backend) bool { return b.Workload == key })
		})
		if kind == "Pod" && leads || kind == "Service" && s.Namespace == namespace && (s.Name == name || s.Hostname == name) {
			d.Services = append(d.Services, s)
		}
	}
	if kind == "Service" && len(d.Services) == 0 {
		return nil, missing("service", key, services, func(s apiv1.Service) string { return s.Namespace + "/" + s.Name })
	}
	if d.Rules, err = rules(ctx, c, d.Services); err != nil {
		return nil, err
	}
	about := map[[3]string]bool{{kind, namespace, name}: true}
	for _, s := range d.Services {
		about[[3]string{s.Kind, s.Namespace, s.Name}] = true
	}
	for _, r := range d.Rules {
		about[[3]string{r.Kind, r.Namespace, r.Name}] = true
	}
	for _, f := range status.Findings {
		if about[[3]string{f.Kind, f.Namespace, f.Name}] {
			d.Findings = append(d.Findings, f)
		}
	}
	return d, nil
}

func missing[T any](what, key string, all []T, name func(T) string) error {
	var names []string
	for _, x := range all {
		names = append(names, name(x))
	}
	hint := "`weir get " + what + "s` lists those that are there"
	if what == "pod" {
		hint = "`weir status` lists those that are there"
	}
	if near := document.Suggest(key, names); near != "" {
		hint = "did you mean " + near + "?"
	}
	return hinted(hint, "the mesh knows no %s %s", what, key)
}

// rules are the objects that say how services are called.
func rules(ctx context.Context, c *client.Client, services []apiv1.Service) ([]rule, error) {
	out := []rule{}
	for _, kind := range []string{"VirtualService", "DestinationRule"} {
		text, err := c.Raw(ctx, kind, "", "")
		if e, ok := errors.AsType[*client.Error](err); ok && e.Status == http.StatusNotFound {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, o := range file.Parse("", text, "default").Objects {
			r := rule{Kind: kind, Namespace: o.ID.Namespace, Name: o.ID.Name}
			spec := o.Root().Get("spec")
			named := hostsOf(spec, nil)
			for _, s := range services {
				if slices.ContainsFunc(named, func(h string) bool { return means(h, o.ID.Namespace, s) }) {
					r.Hosts = append(r.Hosts, s.Hostname)
				}
			}
			if len(r.Hosts) > 0 {
				out = append(out, r)
			}
		}
	}
	return out, nil
}

// hostsOf are all hosts that a spec names: of its own, and of destinations.
func hostsOf(v *document.Value, out []string) []string {
	for _, f := range v.Fields {
		switch {
		case f.Name == "host" && f.Value.Kind == document.String:
			out = append(out, f.Value.Text)
		case f.Name == "hosts":
			for _, h := range f.Value.Items {
				out = append(out, h.Text)
			}
		default:
			out = hostsOf(f.Value, out)
		}
	}
	for _, item := range v.Items {
		out = hostsOf(item, out)
	}
	return out
}

// means reports whether a host, as an object in a namespace writes it, is a service.
func means(host, namespace string, s apiv1.Service) bool {
	if suffix, wild := strings.CutPrefix(host, "*"); wild {
		return suffix != "" && strings.HasSuffix(s.Hostname, suffix)
	}
	return host == s.Hostname || host == s.Name && namespace == s.Namespace
}

func (p *printer) description(d *description) {
	if w := d.Pod; w != nil {
		p.printf("%s  %s, at %s\n", p.paint(bold, clean("pod "+w.Namespace+"/"+w.Name)), w.Health, clean(joined(w.Addresses)))
		p.printf("  identity %s\n", clean(w.Identity))
		if len(d.Proxies) == 0 {
			p.printf("  no proxy of it is connected\n")
		}
		if len(d.Proxies) > 0 {
			p.printf("\n")
			p.proxyDetails(d.Proxies)
			p.printf("\n")
		}
		if len(d.Services) == 0 {
			p.printf("  no service leads to it\n")
		}
	}
	for _, s := range d.Services {
		p.printf("%s  %s\n", p.paint(bold, clean(strings.ToLower(s.Kind)+" "+s.Namespace+"/"+s.Name)), clean(strings.TrimSpace(s.Hostname+" "+joined(s.Addresses))))
		for _, port := range s.Ports {
			protocol := port.Protocol
			if protocol == "" {
				protocol = "detected"
			}
			ready := "no endpoints"
			if n := len(port.Backends); n > 0 {
				ready = fmt.Sprintf("%d of %s ready", len(port.Endpoints), count(n, "endpoint"))
			}
			p.printf("  port %d %s: %s\n", port.Number, clean(protocol), ready)
		}
	}
	for _, r := range d.Rules {
		p.printf("%s  for %s\n", p.paint(bold, clean(object(r.Kind, r.Namespace, r.Name))), clean(joined(r.Hosts)))
	}
	if len(d.Findings) > 0 {
		p.printf("\n")
		p.findings(d.Findings)
	}
}
