package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/cli/client"
)

func (a *app) get() *cobra.Command {
	var namespace string
	var everywhere, watch bool
	cmd := &cobra.Command{
		Use:   "get KIND [NAME]... [flags]",
		Short: "show objects, services and endpoints: what is in force, and where it comes from",
		Long: `Show objects, whether they are in force and where they come from; of services and
endpoints, what the mesh knows.

STATE is compiled (in force), quarantined (it has errors; its last good version
stays in force, if there was one), unenforced (this version of Weir does not do
what it asks for) or ignored (not the mesh's business). ACTIVE counts the
proxies that work with the version in force, of the connected ones that need it
("weir status KIND/NAME" says more).

"weir get services" shows every service that can be called, of ServiceEntries,
too: its ports and protocols, its virtual address, how many of its workloads take
requests, and their versions. "weir get endpoints" shows each address behind
them. -o wide shows more of both, -o json and yaml all there is.

"weir get events" shows what happened to objects lately: compiled, quarantined,
removed; active, when every proxy that needs the object has it; rejected, when a
proxy refuses what was made of it. With -w it goes on with what happens.

Kinds may be given in any case, in plural or by their short names, several with
commas, and "all" for every kind. -o raw is the object as it was written.`,
		Example: `  weir get virtualservices
  weir get services -o wide
  weir get endpoints reviews
  weir get vs,dr -A
  weir get vs reviews -o raw
  weir get all -o name
  weir get events -A -w`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("for example `weir get virtualservices`, or `weir get all`", "weir get needs a kind")
			}
			return nil
		},
		ValidArgsFunction: a.completeObjects(&namespace, allKinds),
	}
	output := outputFlag(cmd, asWide, asName, asRaw)
	a.namespaceFlag(cmd, &namespace)
	cmd.Flags().BoolVarP(&everywhere, "all-namespaces", "A", false, "in all namespaces")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "of events: go on with what happens")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if namespace == "" {
			namespace = a.namespace()
		}
		ts, err := targets(args, namespace)
		if err != nil {
			return err
		}
		c, err := a.mesh()
		if err != nil {
			return err
		}
		switch events := ts[0].kind.name == eventsKind; {
		case events && len(ts) > 1:
			return usage("`weir get events NAME` shows those of objects of one name", "events are shown alone")
		case events && !slices.Contains([]string{asTable, asJSON, asYAML}, output.value):
			return usage("leave out -o, or use json or yaml", "events have no form %q", output.value)
		case events:
			return a.events(cmd.Context(), c, ts[0], everywhere, watch, output.value)
		case watch:
			return usage("`weir get events -w`, or `weir status --watch`", "--watch is for events")
		}
		registry, err := asRegistry(ts, output.value)
		if err != nil {
			return err
		}
		if registry {
			return a.viewServices(cmd.Context(), c, ts, everywhere, output.value)
		}
		objects := []apiv1.Object{}
		for _, t := range ts {
			found, err := a.find(cmd.Context(), c, t, everywhere)
			if err != nil {
				return err
			}
			objects = append(objects, found...)
		}
		switch output.value {
		case asTable, asWide:
			a.objects(objects, everywhere, len(ts) > 1 || ts[0].kind.name == "")
		case asName:
			for _, o := range objects {
				a.out.printf("%s\n", clean(strings.ToLower(o.Kind)+"/"+qualified(o.Namespace, o.Name)))
			}
		case asRaw:
			for i, o := range objects {
				text, err := c.Raw(cmd.Context(), o.Kind, o.Namespace, o.Name)
				if err != nil {
					return err
				}
				if i > 0 {
					a.out.printf("---\n")
				}
				a.out.printf("%s\n", strings.TrimRight(string(text), "\n"))
			}
		default:
			return a.out.emit(output.value, objects)
		}
		return nil
	}
	return cmd
}

// asRegistry reports whether what is asked for is shown as the registry sees it: services
// and endpoints, each alone. Names and texts of Services are those of the objects.
func asRegistry(ts []target, format string) (bool, error) {
	mixed := slices.ContainsFunc(ts, func(t target) bool { return t.kind != ts[0].kind })
	endpoints := slices.ContainsFunc(ts, func(t target) bool { return t.kind.name == endpointsKind })
	switch {
	case mixed && endpoints:
		return false, usage("`weir get endpoints`", "endpoints are shown alone")
	case mixed:
		return false, nil
	}
	return endpoints || ts[0].kind.name == servicesKind && format != asName && format != asRaw, nil
}

func (a *app) namespaceFlag(cmd *cobra.Command, namespace *string) {
	cmd.Flags().StringVarP(namespace, "namespace", "n", "", "in this `namespace` (default: that of the mesh, usually \"default\")")
	_ = cmd.RegisterFlagCompletionFunc("namespace", a.completeNamespaces)
}

// inState is a path in the state folder, as the control plane names it.
func (a *app) inState(path ...string) string {
	state, err := filepath.Abs(a.state)
	if err != nil {
		state = a.state
	}
	return filepath.Join(append([]string{state}, path...)...)
}

// find asks for the objects of a target. One that is named must exist.
func (a *app) find(ctx context.Context, c *client.Client, t target, everywhere bool) ([]apiv1.Object, error) {
	if t.name != "" {
		return c.Objects(ctx, t.kind.name, t.namespace, t.name)
	}
	all, err := c.Objects(ctx, t.kind.name, "", "")
	if err != nil || everywhere {
		return all, err
	}
	var here []apiv1.Object
	for _, o := range all {
		if o.Namespace == t.namespace || o.Namespace == "" {
			here = append(here, o)
		}
	}
	what := t.kind.plural
	if what == "" {
		what = "objects"
	}
	switch {
	case len(here) > 0:
	case len(all) > 0:
		a.errs.printf("no %s in namespace %s, but %d in others: add -A\n", what, t.namespace, len(all))
	case t.kind.name != "" && !t.known:
		if near := nearKind(t.kind.name); near != "" {
			return nil, hinted("did you mean "+near+"?", "there is nothing of kind %q", t.kind.name)
		}
		var known []string
		for _, k := range kinds {
			known = append(known, k.plural)
		}
		return nil, hinted("kinds of the mesh: "+joined(known), "there is nothing of kind %q", t.kind.name)
	default:
		a.errs.printf("no %s\n", what)
	}
	return here, nil
}

func (a *app) objects(objects []apiv1.Object, everywhere, mixed bool) {
	if len(objects) == 0 {
		return
	}
	var head []string
	if everywhere {
		head = append(head, "NAMESPACE")
	}
	if mixed {
		head = append(head, "KIND")
	}
	t := newTable(append(head, "NAME", "STATE", "SINCE", "ACTIVE", "FROM")...)
	var fs []apiv1.Finding
	for _, o := range objects {
		var row []cell
		if everywhere {
			row = append(row, text(o.Namespace))
		}
		if mixed {
			row = append(row, text(o.Kind))
		}
		state, active := objectState(o)
		t.add(append(row, text(o.Name), state, text(age(o.Since)), active, text(a.from(o)))...)
		fs = append(fs, o.Findings...)
	}
	a.out.print(t)
	if fs = atLeast("warning", fs); len(fs) > 0 {
		a.out.printf("\n")
		a.out.findings(fs)
	}
}

// from says where an object stands: a file and line, or who keeps it.
func (a *app) from(o apiv1.Object) string {
	switch filepath.Dir(o.File) {
	case a.inState("applied"):
		return "weir apply"
	case a.inState("run", "config"), a.inState("run", "pods"):
		return "weir up"
	case a.inState("run", "fallback"):
		if demo, ok := strings.CutPrefix(filepath.Base(o.File), "demo-"); ok {
			return "demo " + strings.TrimSuffix(demo, ".yaml")
		}
		return "weir up"
	}
	if o.Line == 0 {
		return o.File
	}
	return fmt.Sprintf("%s:%d", o.File, o.Line)
}

func objectState(o apiv1.Object) (state, active cell) {
	active = text(fmt.Sprintf("%d/%d", o.Active, o.Proxies))
	if o.Proxies == 0 { // nothing of it gets to proxies, or nobody needs it
		active = cell{"-", dim}
	}
	switch o.State {
	case "compiled":
		if o.Active < o.Proxies {
			active.color = yellow
		}
		return cell{o.State, green}, active
	case "quarantined":
		if o.LastGood {
			return cell{"quarantined, last good in force", red}, active
		}
		return cell{o.State, red}, cell{}
	case "unenforced":
		return cell{o.State, red}, cell{}
	}
	return cell{o.State, dim}, cell{}
}
