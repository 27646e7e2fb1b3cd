package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/cli/client"
	"github.com/weirmesh/weir/config/document"
)

// services are those that the mesh knows and a command line asks for, of ServiceEntries,
// too. One that is named, by its short or its full name, must exist.
func services(ctx context.Context, c *client.Client, ts []target, everywhere bool) ([]apiv1.Service, error) {
	all, err := c.Services(ctx)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b apiv1.Service) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
	})
	var out []apiv1.Service
	for _, t := range ts {
		found := false
		var names []string
		for _, s := range all {
			if !everywhere && s.Namespace != t.namespace {
				continue
			}
			names = append(names, s.Name)
			if t.name == "" || isCalled(&s, t.name) {
				out, found = append(out, s), true
			}
		}
		if t.name == "" || found {
			continue
		}
		hint := "`weir get services -A` lists those there are"
		if near := document.Suggest(t.name, names); near != "" {
			hint = "did you mean " + near + "?"
		}
		if everywhere {
			return nil, hinted(hint, "there is no service %s", t.name)
		}
		return nil, hinted(hint, "there is no service %s in namespace %s", t.name, t.namespace)
	}
	return out, nil
}

// isCalled reports whether a name is that of a service: its own, its host, or the host's beginning with the namespace.
func isCalled(s *apiv1.Service, name string) bool {
	return name == s.Name || name == s.Hostname || strings.HasPrefix(name+".", s.Name+"."+s.Namespace+".") && strings.HasPrefix(s.Hostname, name+".")
}

// viewServices shows services, or (endpoints) who serves them, as the registry sees it.
func (a *app) viewServices(ctx context.Context, c *client.Client, ts []target, everywhere bool, format string) error {
	list, err := services(ctx, c, ts, everywhere)
	if err != nil {
		return err
	}
	endpoints := ts[0].kind.name == endpointsKind
	switch format {
	case asTable, asWide:
		switch {
		case len(list) == 0 && everywhere:
			a.errs.printf("no %s\n", ts[0].kind.plural)
		case len(list) == 0:
			a.errs.printf("no %s in namespace %s: -A shows all\n", ts[0].kind.plural, ts[0].namespace)
		case endpoints:
			a.out.print(endpointsTable(list, everywhere, format == asWide))
			return nil
		}
		if len(list) > 0 {
			a.out.print(a.servicesTable(list, everywhere, format == asWide))
		}
		return a.notServices(ctx, c, ts, everywhere)
	case asName: // only of endpoints; a Service has the name of its object
		for _, s := range list {
			for _, p := range s.Ports {
				for _, b := range p.Backends {
					a.out.printf("%s\n", clean(b.Address))
				}
			}
		}
		return nil
	case asRaw:
		return usage("`weir get services -o raw` shows what is written", "endpoints are not written anywhere: they are found")
	}
	return a.out.emit(format, append([]apiv1.Service{}, list...))
}

// notServices says what keeps objects from being services as they are written.
func (a *app) notServices(ctx context.Context, c *client.Client, ts []target, everywhere bool) error {
	var fs []apiv1.Finding
	for _, kind := range []string{servicesKind, "ServiceEntry"} {
		objects, err := c.Objects(ctx, kind, "", "")
		if err != nil {
			return err
		}
		for _, o := range objects {
			asked := slices.ContainsFunc(ts, func(t target) bool {
				return (everywhere || o.Namespace == t.namespace) && (t.name == "" || t.name == o.Name)
			})
			if asked && o.State == "quarantined" {
				fs = append(fs, o.Findings...)
			}
		}
	}
	if fs = atLeast("warning", fs); len(fs) > 0 {
		a.out.printf("\n")
		a.out.findings(fs)
	}
	return nil
}

func (a *app) servicesTable(list []apiv1.Service, everywhere, wide bool) *table {
	head := []string{"NAME", "PORTS", "ADDRESS", "READY", "VERSIONS"}
	if everywhere {
		head = append([]string{"NAMESPACE"}, head...)
	}
	if wide {
		head = append(head, "HOST", "LOCALITIES", "SELECTOR", "FROM")
	}
	t := newTable(head...)
	for _, s := range list {
		var row []cell
		if everywhere {
			row = append(row, text(s.Namespace))
		}
		var ports, versions, localities, selector []string
		ready := map[string]bool{} // by backend, a workload once however many ports it serves
		for _, p := range s.Ports {
			ports = append(ports, portName(p))
			for _, b := range p.Backends {
				who := cmp.Or(b.Workload, b.Address)
				ok, seen := ready[who]
				ready[who] = b.Health == "healthy" && (ok || !seen)
				versions, localities = with(versions, b.Version), with(localities, b.Locality)
			}
		}
		for k, v := range s.Selector {
			selector = with(selector, k+"="+v)
		}
		address := strings.Join(s.Addresses, ",")
		if address == "" && s.Kind == servicesKind {
			address = "headless"
		}
		row = append(row, text(s.Name), text(strings.Join(ports, ",")), text(address), readiness(ready), text(strings.Join(versions, ",")))
		if wide {
			row = append(row, text(s.Hostname), text(strings.Join(localities, ",")), text(strings.Join(selector, ",")), text(a.from(apiv1.Object{File: s.File, Line: s.Line})))
		}
		t.add(row...)
	}
	return t
}

// readiness is "2/3".
func readiness(ready map[string]bool) cell {
	n := 0
	for _, ok := range ready {
		if ok {
			n++
		}
	}
	c := text(fmt.Sprintf("%d/%d", n, len(ready)))
	switch {
	case n == 0:
		c.color = red
	case n < len(ready):
		c.color = yellow
	}
	return c
}

// with adds a word to a sorted list in which each is once.
func with(list []string, word string) []string {
	i, found := slices.BinarySearch(list, word)
	if found || word == "" {
		return list
	}
	return slices.Insert(list, i, word)
}

func portName(p apiv1.ServicePort) string {
	if p.Protocol == "" {
		return fmt.Sprintf("%d", p.Number) // detected on every connection
	}
	return fmt.Sprintf("%d/%s", p.Number, p.Protocol)
}

func endpointsTable(list []apiv1.Service, everywhere, wide bool) *table {
	head := []string{"SERVICE", "PORT", "ADDRESS", "WORKLOAD", "VERSION", "HEALTH", "LOCALITY"}
	if wide {
		head = append(head, "MTLS", "WEIGHT", "IDENTITY")
	}
	t := newTable(head...)
	for _, s := range list {
		name := s.Name
		if everywhere {
			name = s.Namespace + "/" + s.Name
		}
		for _, p := range s.Ports {
			if len(p.Backends) == 0 {
				t.add(text(name), text(portName(p)), cell{"none", red})
			}
			for _, b := range p.Backends {
				// The namespace is the service's unless said.
				workload := strings.TrimPrefix(b.Workload, s.Namespace+"/")
				row := []cell{text(name), text(portName(p)), text(b.Address), text(workload), text(b.Version), {b.Health, healthColor(b.Health)}, text(b.Locality)}
				if wide {
					mtls := "no"
					if b.Proxied {
						mtls = "yes"
					}
					row = append(row, text(mtls), text(fmt.Sprint(b.Weight)), text(b.Identity))
				}
				t.add(row...)
			}
		}
	}
	return t
}

// completeServices completes names of services.
func (a *app) completeServices(ctx context.Context, c *client.Client, namespace string, taken []string) []string {
	list, err := services(ctx, c, []target{{namespace: namespace}}, false)
	if err != nil {
		return nil
	}
	var out []string
	for _, s := range list {
		if !slices.Contains(taken, s.Name) {
			out = append(out, s.Name)
		}
	}
	return out
}
