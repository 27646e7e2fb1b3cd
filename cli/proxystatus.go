package cli

import (
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config/document"
)

func (a *app) proxyStatus() *cobra.Command {
	var namespace string
	var everywhere bool
	cmd := &cobra.Command{
		Use:     "proxy-status [WORKLOAD] [flags]",
		Aliases: []string{"ps"},
		Short:   "show which proxies hold what the control plane sends",
		Long: `Show the proxies that are connected, to whichever replica and revision of the
control plane, and how far each is with what it is sent:

  SYNCED    it has accepted all that it is to hold
  STALE     something is on its way to it, or it has not answered
  ERROR     it refuses something as it is now; the reason stands below
  NOT SENT  there is nothing to send; of a sidecar with configuration on demand:
            nothing was used yet that needs resources of this type
  IGNORED   it has not asked for resources of this type

CDS are clusters, LDS listeners, EDS endpoints, RDS routes, also where they come
as virtual hosts (VHDS), ECDS extensions. With a workload: all types, with the
number of resources. "weir proxy-config diff" shows what exactly differs, "weir
proxy-config ondemand" what was asked for.`,
		Example: `  weir proxy-status
  weir proxy-status reviews-v1-0
  weir proxy-status -n istio-system
  weir proxy-status -o json | jq -r '.[] | select(.rejected) | .name'`,
		Args:              atMostOne,
		ValidArgsFunction: a.completeProxies,
	}
	output := outputFlag(cmd)
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "only those in this `namespace` (default: all)")
	_ = cmd.RegisterFlagCompletionFunc("namespace", a.completeNamespaces)
	cmd.Flags().BoolVarP(&everywhere, "all-namespaces", "A", false, "in all namespaces, which is the default")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.mesh()
		if err != nil {
			return err
		}
		all, silent, err := c.Proxies(cmd.Context())
		if err != nil {
			return err
		}
		for _, s := range silent {
			a.errs.printf("%s did not answer: proxies that are connected to it are not shown\n", clean(s))
		}
		if len(args) > 0 {
			if all, err = a.ofWorkload(all, args[0], namespace); err != nil {
				return err
			}
		} else if namespace != "" && !everywhere {
			all = slices.DeleteFunc(all, func(p apiv1.ProxyStatus) bool { return !strings.HasPrefix(p.Name, namespace+"/") })
		}
		switch {
		case output.value != asTable:
			return a.out.emit(output.value, all)
		case len(all) == 0:
			a.errs.printf("no proxies are connected\n")
		case len(args) > 0:
			a.out.proxyDetails(all)
		default:
			a.out.proxyStatuses(all)
		}
		return nil
	}
	return cmd
}

// ofWorkload are the proxies of a pod or a Deployment.
func (a *app) ofWorkload(all []apiv1.ProxyStatus, workload, namespace string) ([]apiv1.ProxyStatus, error) {
	split(&namespace, &workload)
	if namespace == "" {
		namespace = a.namespace()
	}
	var names []string
	for _, p := range all {
		names = append(names, p.Name)
	}
	pods := podsOf(names, namespace, workload)
	if dot := strings.LastIndexByte(workload, '.'); len(pods) == 0 && dot > 0 {
		namespace, workload = workload[dot+1:], workload[:dot]
		pods = podsOf(names, namespace, workload)
	}
	if len(pods) == 0 {
		hint := "`weir proxy-status` lists those that are"
		if near := document.Suggest(namespace+"/"+workload, names); near != "" {
			hint = "did you mean " + near + "?"
		}
		return nil, hinted(hint, "no proxy of %s/%s is connected", namespace, workload)
	}
	return slices.DeleteFunc(all, func(p apiv1.ProxyStatus) bool {
		ns, pod, _ := strings.Cut(p.Name, "/")
		return ns != namespace || !slices.Contains(pods, pod)
	}), nil
}

var stateColors = map[string]color{apiv1.Synced: green, apiv1.Stale: yellow, apiv1.Erred: red}

// proxyStatuses is the table of all proxies; what they refuse stands below.
func (p *printer) proxyStatuses(all []apiv1.ProxyStatus) {
	columns := []string{"CDS", "LDS", "EDS", "RDS", "ECDS"}
	t := newTable(append(append([]string{"NAME", "TYPE", "CLUSTER"}, columns...), "CONTROL PLANE", "VERSION")...)
	for _, x := range all {
		row := []cell{text(x.Name), text(x.Kind), text(x.Cluster)}
		for _, c := range columns {
			state := apiv1.Ignored
			for _, s := range x.Types {
				if s.Type == c {
					state = s.State
				}
			}
			row = append(row, cell{state, stateColors[state]})
		}
		t.add(append(row, text(x.ControlPlane), text(x.Version))...)
	}
	p.print(t)
	p.refusals(all)
}

// proxyDetails is one proxy after the other.
func (p *printer) proxyDetails(all []apiv1.ProxyStatus) {
	for i, x := range all {
		if i > 0 {
			p.printf("\n")
		}
		p.printf("%s  %s, %s, of %s, connected to %s from %s for %s (%s)\n", p.paint(bold, clean(x.Name)), clean(x.Kind), clean(x.Version), clean(x.Identity),
			clean(x.ControlPlane), clean(x.Address), age(x.Connected), x.Protocol)
		t := newTable("TYPE", "STATE", "RESOURCES")
		for _, s := range x.Types {
			t.add(text(s.Type), cell{s.State, stateColors[s.State]}, text(count(s.Subscribed, "resource")))
		}
		p.print(t)
	}
	p.refusals(all)
}

func (p *printer) refusals(all []apiv1.ProxyStatus) {
	for _, x := range all {
		for _, r := range x.Rejected {
			is := "refused"
			if r.Current {
				is = p.paint(red, "refuses")
			}
			names := r.Resources
			const most = 3
			more := ""
			if len(names) > most {
				names, more = names[:most], ", …"
			}
			p.printf("\n%s %s %s %s%s, %s ago:\n  %s\n", clean(x.Name), is, r.Type, clean(joined(names)), more, span(time.Since(r.Time)),
				strings.ReplaceAll(clean(r.Message), "\n", "\n  "))
		}
	}
}
