package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"sync"

	"github.com/spf13/cobra"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/cli/client"
	"github.com/weirmesh/weir/cli/forward"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/install/cluster"
	"github.com/weirmesh/weir/internal/redact"
	"github.com/weirmesh/weir/translate"
	"github.com/weirmesh/weir/xds/dump"
)

func (a *app) upgrade() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "upgrade COMMAND [flags]",
		Short: "go to another version: what would change",
		Long: `Go to another version of the mesh. A new control plane is installed beside the
running one ("weir install --revision"), namespaces go to it by tags ("weir tag"),
and back. This says before what it changes.`,
		Example: `  weir upgrade plan
  weir upgrade plan shop --to 1-1`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("use one of: "+joined(children(cmd)), "weir upgrade does not know %q", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	plan := a.upgradePlan()
	plan.DisableFlagsInUseLine = true
	cmd.AddCommand(plan)
	return cmd
}

// side is a control plane as far as a plan asks it.
type side struct {
	upgradeSide
	findings []apiv1.Finding
	held     func(ctx context.Context, namespace, name string) (*dump.Held, error)
}

func (a *app) upgradePlan() *cobra.Command {
	var f installation
	var s chosen
	var to, toAPI string
	cmd := &cobra.Command{
		Use:   "plan [NAMESPACE...] [flags]",
		Short: "say what would change in behaviour, and change nothing",
		Long: `Say what would change for the workloads of namespaces (default: of all) if they
went from one control plane to another, and change nothing:

  what must be done before   proxies that would be too old, objects that the new
                             one refuses, definitions, settings
  what changes, and for whom policies, listeners, routes, clusters, endpoints:
                             before and after
  what the installation would be: objects made, changed, removed

From the revision of --revision to the one of --to, which is installed beside it;
without --to, to what "weir install" of this program would make of it with the
same flags: nothing needs to be installed for that. For control planes elsewhere:
--api and --to-api.

One pod of each Deployment is looked at. Addresses of pods that come and go, and
certificates, are not what a revision changes. Exit status 1 if anything changes
or must be done.`,
		Example: `  weir upgrade plan                             # this version, same settings
  weir upgrade plan --profile production -f mesh-values.yaml
  weir install --revision 1-1 && weir upgrade plan shop --to 1-1
  weir upgrade plan --to 1-1 -o json | jq '.changes[] | select(.part == "policy")'`,
		ValidArgsFunction: a.completeNamespaces,
	}
	f.flags(a, cmd)
	f.revisions(cmd)
	cmd.Flags().Lookup("revision").Usage = "`revision` that runs (default: the one without a name)"
	cmd.Flags().StringVar(&to, "to", "", "`revision` that is installed beside it")
	cmd.Flags().StringVar(&toAPI, "to-api", "", "`host:port` of the other control plane, where --api is the one that runs")
	noValues(cmd, "to", "to-api")
	s.flags(cmd)
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case to != "" && toAPI != "":
			return usage("leave one out", "--to and --to-api exclude each other")
		case (toAPI != "") != (a.api != ""):
			return usage("for example --api 127.0.0.1:15014 --to-api 127.0.0.1:25014", "--api and --to-api go together")
		case to != "" && to == f.revisionName():
			return usage("--revision names the one that runs", "%s is the revision that runs", to)
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), f.timeout)
		defer cancel()
		p, err := a.planUpgrade(ctx, &f, &s, to, toAPI, args)
		if err != nil {
			return err
		}
		if output.value != asTable {
			err = a.out.emit(output.value, p)
		} else {
			a.out.upgradePlan(p)
		}
		if err == nil && p.any() {
			return silent(exitNo)
		}
		return err
	}
	return cmd
}

// revisionName is the one that is meant.
func (f *installation) revisionName() string {
	if f.revision == "" {
		return "default"
	}
	return f.revision
}

// planUpgrade finds both sides and compares them.
func (a *app) planUpgrade(ctx context.Context, f *installation, s *chosen, to, toAPI string, namespaces []string) (*upgradePlan, error) {
	wanted := func(ns string) bool { return len(namespaces) == 0 || slices.Contains(namespaces, ns) }
	way := func(revision, api string) (*client.Client, func(), error) {
		if api != "" {
			token, err := client.Token(a.state)
			return client.New(api, token), func() {}, err
		}
		o := a.meant
		o.Revision = revision
		c, err := forward.Open(o)
		if err != nil {
			return nil, nil, err
		}
		return client.NewVia(c.Dial, "localhost:15014", redact.String{}), func() { _ = c.Close() }, nil
	}
	running, end, err := way(f.revisionName(), a.api)
	if err != nil {
		return nil, err
	}
	defer end()
	name := f.revisionName()
	if a.api != "" {
		name = ""
	}
	from, err := answering(ctx, running, name)
	if err != nil {
		return nil, err
	}
	p := &upgradePlan{From: from.upgradeSide, Before: []upgradeStep{}, Objects: []cluster.Change{}}
	var other *side
	aside := []string{string(config.ProxyVersion)} // said by tooFar
	if to != "" || toAPI != "" {
		c, end, err := way(to, toAPI)
		if err != nil {
			return nil, err
		}
		defer end()
		if other, err = answering(ctx, c, to); err != nil {
			return nil, err
		}
	} else {
		aside = append(aside, string(config.KeysUnreachable)) // fetched by control planes that run
		if other, err = a.foreseen(ctx, f, s, p); err != nil {
			return nil, err
		}
	}
	p.To = other.upgradeSide
	workloads, err := running.Workloads(ctx)
	if err != nil {
		return nil, err
	}
	proxies, silent, err := running.Proxies(ctx)
	if err != nil {
		return nil, err
	}
	for _, x := range silent {
		p.Unknown = append(p.Unknown, x+" did not answer: versions of proxies that are connected to it are not known")
	}
	apart, steps := findingsApart(from.findings, other.findings, wanted, aside...)
	p.Findings, p.Before = apart, slices.Concat(p.Before, tooFar(proxies, wanted, other.Version), steps)
	return p, p.compare(ctx, subjects(workloads, proxies, wanted), from, other)
}

// answering is a control plane that runs.
func answering(ctx context.Context, c *client.Client, revision string) (*side, error) {
	status, err := c.Status(ctx)
	if err != nil {
		return nil, err
	}
	return &side{upgradeSide: upgradeSide{Revision: revision, Version: status.Version}, findings: status.Findings, held: func(ctx context.Context, namespace, name string) (*dump.Held, error) {
		text, err := c.WorkloadConfig(ctx, namespace, name, "")
		if err != nil {
			return nil, err
		}
		return dump.Read(bytes.NewReader(text))
	}}, nil
}

// foreseen is the control plane that `weir install` of this program would make.
func (a *app) foreseen(ctx context.Context, f *installation, s *chosen, p *upgradePlan) (*side, error) {
	c, err := a.connect()
	if err != nil {
		return nil, err
	}
	named := *f
	if named.revision == "default" {
		named.revision = ""
	}
	r, err := s.render(a, &named, c.Version)
	if err != nil {
		return nil, err
	}
	problems, err := c.Check(ctx, r)
	if err != nil {
		return nil, c.Plain(ctx, err)
	}
	changes, refused, err := c.Changes(ctx, r)
	if err != nil {
		return nil, c.Plain(ctx, err)
	}
	p.Objects = changes
	for _, x := range append(problems, refused...) {
		step := upgradeStep{What: x.Message, Hint: x.Hint}
		if !slices.ContainsFunc(p.Before, func(had upgradeStep) bool { return reflect.DeepEqual(had, step) }) {
			p.Before = append(p.Before, step)
		}
	}
	for _, n := range r.Notices {
		p.Before = append(p.Before, upgradeStep{What: "setting " + n, Hint: "leave it out, or say what is meant by what there is now"})
	}
	latest, err := here(ctx, c.Config(), r)
	if err != nil {
		return nil, c.Plain(ctx, err)
	}
	var one sync.Mutex
	cache := translate.New()
	return &side{upgradeSide: upgradeSide{Revision: f.revisionName(), Version: a.Version, Program: true}, findings: apiFindings(latest().Findings), held: func(_ context.Context, namespace, name string) (*dump.Held, error) {
		one.Lock()
		defer one.Unlock()
		return shown(latest(), cache, namespace, name)
	}}, nil
}

// compare fills in what changes for workloads.
func (p *upgradePlan) compare(ctx context.Context, all map[string]apiv1.Workload, from, to *side) error {
	c := comparison{keysLeft: p.To.Program}
	var mu sync.Mutex
	var wait sync.WaitGroup
	var failed error
	const atOnce = 4
	places := make(chan struct{}, atOnce)
	p.Compared, p.Unchanged = []string{}, []string{}
	for name, w := range all {
		places <- struct{}{}
		wait.Go(func() {
			defer func() { <-places }()
			differ, err := c.both(ctx, w, from, to)
			mu.Lock()
			defer mu.Unlock()
			var gone *client.Error
			switch {
			case errors.As(err, &gone): // it ended meanwhile, or the other does not know it
				p.Unknown = append(p.Unknown, name+": "+gone.Message)
			case err != nil:
				failed = err
			default:
				if p.Compared = append(p.Compared, name); len(differ) == 0 {
					p.Unchanged = append(p.Unchanged, name)
				}
				c.add(name, differ)
			}
		})
	}
	wait.Wait()
	slices.Sort(p.Compared)
	slices.Sort(p.Unchanged)
	slices.Sort(p.Unknown)
	p.Changes = c.list()
	return failed
}

// both are the differences for one workload. What is not there at a second look came of a change between two questions.
func (c *comparison) both(ctx context.Context, w apiv1.Workload, from, to *side) (all []dump.Difference, err error) {
	for look := range 2 {
		a, err := from.held(ctx, w.Namespace, w.Name)
		if err != nil {
			return nil, err
		}
		b, err := to.held(ctx, w.Namespace, w.Name)
		if err != nil {
			return nil, err
		}
		now, err := c.differences(a, b)
		if err != nil {
			return nil, err
		}
		if look > 0 {
			all = slices.DeleteFunc(all, func(d dump.Difference) bool {
				return !slices.ContainsFunc(now, func(still dump.Difference) bool { return reflect.DeepEqual(d, still) })
			})
		} else {
			all = now
		}
		if len(all) == 0 {
			break
		}
	}
	return all, nil
}

// any reports whether something changes, or must be done.
func (p *upgradePlan) any() bool {
	return len(p.Before)+len(p.Changes)+len(p.Findings)+len(p.Objects)+len(p.Unknown) > 0
}

// few are names, the first ones.
func few(names []string) string {
	const most = 4
	if len(names) <= most+1 {
		return joined(names)
	}
	return joined(names[:most]) + fmt.Sprintf(" and %d others", len(names)-most)
}

// upgradePlan prints a plan.
func (p *printer) upgradePlan(u *upgradePlan) {
	p.printf("%s → %s: %s compared\n", clean(u.From.String()), clean(u.To.String()), count(len(u.Compared), "workload"))
	if len(u.Before) > 0 {
		p.printf("\n%s\n", p.paint(bold, "To be done before"))
		for _, s := range u.Before {
			p.printf("  %s\n", p.paint(red, clean(s.What)))
			if len(s.Names) > 0 {
				p.printf("      %s\n", clean(few(s.Names)))
			}
			p.printf("      %s %s\n", p.paint(dim, "->"), clean(s.Hint))
		}
	}
	if len(u.Changes) > 0 {
		p.printf("\n%s\n", p.paint(bold, "What changes"))
		for _, c := range u.Changes {
			what := "no longer there"
			switch {
			case c.Path != "":
				before, after := c.Before, c.After
				if before == "" {
					before = "nothing"
				}
				if after == "" {
					after = "nothing"
				}
				what = clean(c.Path) + ": " + p.paint(red, clean(before)) + " → " + p.paint(green, clean(after))
			case c.After != "":
				what = "new"
			}
			p.printf("  %-9s  %s\n", c.Part, what)
			p.printf("      in %s\n      for %s\n", clean(few(c.Resources)), clean(few(c.Workloads)))
		}
	}
	if len(u.Findings) > 0 {
		p.printf("\n%s\n", p.paint(bold, "What is said about objects"))
		for _, f := range u.Findings {
			word := "gone"
			if f.New {
				word = "new"
			}
			p.printf("  %-4s  %s  %s  %s\n", word, p.paint(severityColor(f.Severity), f.Severity), f.Code, clean(sentence(f.Finding)))
			if f.New && f.Hint != "" {
				p.printf("      %s %s\n", p.paint(dim, "->"), clean(f.Hint))
			}
		}
	}
	if len(u.Objects) > 0 {
		p.printf("\n%s\n", p.paint(bold, "What `weir install` would do"))
		made := []string{}
		for _, o := range u.Objects {
			if o.What == "made" {
				made = append(made, o.Object)
				continue
			}
			p.printf("  %-7s  %s\n", o.What, clean(o.Object))
			for _, f := range o.Fields {
				p.printf("      %s\n", clean(f))
			}
		}
		if len(made) > 0 {
			p.printf("  %-7s  %s\n", "made", clean(few(made)))
		}
	}
	if len(u.Unknown) > 0 {
		p.printf("\n%s\n", p.paint(bold, "What could not be compared"))
		for _, s := range u.Unknown {
			p.printf("  %s\n", clean(s))
		}
	}
	switch {
	case len(u.Compared) == 0:
		p.printf("\nthere is no workload with a proxy\n")
	case len(u.Unchanged) == len(u.Compared):
		p.printf("\nnothing changes for any of them\n")
	case len(u.Unchanged) > 0:
		p.printf("\nnothing changes for %d of them: %s\n", len(u.Unchanged), clean(few(u.Unchanged)))
	}
}
