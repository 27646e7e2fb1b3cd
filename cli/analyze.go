package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/spf13/cobra"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/cli/client"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/analyze"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/inject"
	"github.com/weirmesh/weir/local/plan"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/translate"
)

func (a *app) analyze() *cobra.Command {
	var paths []string
	var namespace string
	var listCodes, local, all bool
	var r findingsReport
	cmd := &cobra.Command{
		Use:   "analyze [-f FILE|DIR|-]... [flags]",
		Short: "check configuration: files, or that of a mesh",
		Long: `Check configuration. With files, without a mesh: each object by itself, what the
objects say about each other, and what becomes of them in proxies. The findings
are those that a running mesh reports; with --local also those of "weir up" about
Deployments it cannot run. Without files: what the mesh that runs, here or in a
cluster, says about its objects; in a cluster also annotations of what makes pods,
and (without -n) webhooks of the mesh.

Give everything that belongs together at once: a route to a service whose file
is not given is a route to nowhere. Exit status 1 if there are errors, or what
--failure-threshold says. "weir explain CODE" says more about a finding. What is
meant to be so is left out by --suppress, or for good by an annotation of the
object: galley.istio.io/analyze-suppress: "CODE,CODE" (errors of the object
itself are always told). In -o sarif names of files are relative to the working
directory, or to the one folder that is given.`,
		Example: `  weir analyze -f deploy/
  weir analyze --context staging
  weir analyze -f bookinfo.yaml -f networking/ --severity error
  helm template . | weir analyze -f - -o json
  weir analyze -f deploy/ -o sarif > findings.sarif
  weir analyze -S "IST0118=Service *.legacy" --failure-threshold warning
  weir analyze --list-codes`,
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return []string{"yaml", "yml", "json"}, cobra.ShellCompDirectiveFilterFileExt
		},
	}
	output := outputFlag(cmd, asSARIF)
	severity := choose(cmd, "severity", "", "least severity of the findings shown", "info", "warning", "error")
	threshold := choose(cmd, "failure-threshold", "", "least severity that makes the exit status 1", "error", "warning", "info", "never")
	filesFlag(cmd, &paths)
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "default", "`namespace` of objects that name none")
	_ = cmd.RegisterFlagCompletionFunc("namespace", cobra.NoFileCompletions)
	cmd.Flags().BoolVarP(&all, "all-namespaces", "A", false, "what a mesh says about all namespaces (the default)")
	cmd.MarkFlagsMutuallyExclusive("namespace", "all-namespaces")
	cmd.Flags().StringArrayVarP((*[]string)(&r.without), "suppress", "S", nil, "leave out findings: `CODE, or \"CODE=KIND NAME.NAMESPACE\"` with * for anything (repeatable)")
	_ = cmd.RegisterFlagCompletionFunc("suppress", cobra.NoFileCompletions)
	cmd.Flags().BoolVar(&local, "local", false, "also say which Deployments \"weir up\" cannot run")
	cmd.Flags().BoolVar(&listCodes, "list-codes", false, "list the codes of findings")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if listCodes {
			return a.codes(output.value)
		}
		paths = append(paths, args...)
		r.format, r.severity, r.threshold, r.paths = output.value, severity.value, threshold.value, paths
		if err := r.without.check(); err != nil {
			return err
		}
		if len(paths) == 0 {
			return a.analyzeMesh(cmd, &r, namespace)
		}
		units, err := a.read(paths, namespace)
		if err != nil {
			return err
		}
		u, err := analyzed(units)
		if err != nil {
			return err
		}
		fs := apiFindings(config.Tidy(append(found(u, local), webhooksOf(units)...)))
		if u.Objects.Len() == 0 && len(fs) == 0 {
			return hinted("an object has apiVersion and kind; files are named *.yaml, *.yml or *.json", "there is no object in %s", joined(paths))
		}
		for i := range fs {
			if fs[i].File == "-" {
				fs[i].File = stdinName
			}
		}
		return a.report(&r, fs, fmt.Sprintf("%s of %s", count(u.Objects.Len(), "object"), count(len(units), "file")))
	}
	return cmd
}

// findingsReport is how findings are shown.
type findingsReport struct {
	format, severity, threshold string
	paths                       []string // that were given
	without                     suppressions
}

func (a *app) report(r *findingsReport, fs []apiv1.Finding, of string) error {
	fs, gone := r.without.leave(fs)
	shown := atLeast(r.severity, fs)
	switch r.format {
	case asTable:
		a.out.findings(shown)
		if len(shown) > 0 {
			a.out.printf("\n")
		}
		a.out.printf("%s in %s", summary(fs), of)
		if gone > 0 {
			a.out.printf("; %d suppressed", gone)
		}
		a.out.printf("\n")
	case asSARIF:
		if err := a.out.emit(asJSON, sarif(a.Version, checkedFolder(r.paths), shown)); err != nil {
			return err
		}
	default:
		if err := a.out.emit(r.format, shown); err != nil {
			return err
		}
	}
	if r.threshold != "never" && len(atLeast(r.threshold, fs)) > 0 {
		return silent(exitNo)
	}
	return nil
}

// analyzeMesh shows what a mesh that runs says about its objects, those of one namespace if
// one is given.
func (a *app) analyzeMesh(cmd *cobra.Command, r *findingsReport, namespace string) error {
	c, err := a.mesh()
	if errors.Is(err, client.ErrNoMesh) {
		return usage("`weir analyze -f deploy/`, or --context for the mesh of a cluster", "weir analyze needs to know what to check")
	}
	if err != nil {
		return err
	}
	s, err := c.Status(cmd.Context())
	if err != nil {
		return err
	}
	fs := s.Findings
	if !cmd.Flags().Changed("namespace") {
		namespace = ""
	} else {
		fs = slices.DeleteFunc(fs, func(f apiv1.Finding) bool { return f.Namespace != namespace })
	}
	looked := s.Counts.Objects + s.Counts.Services
	if a.cluster != nil {
		more, n, err := annotated(cmd.Context(), a.cluster.Client(), namespace)
		if err != nil {
			a.errs.printf("not all annotations of Deployments, StatefulSets, DaemonSets, Jobs and CronJobs were looked at, only those of running pods: %s\n", clean(err.Error()))
		}
		for _, f := range more {
			if !slices.Contains(fs, f) { // else a pod of it says so
				fs = append(fs, f)
			}
		}
		looked += n
		if namespace == "" {
			hooks, n, err := webhooksIn(cmd.Context(), a.cluster.Client())
			if err != nil {
				a.errs.printf("not all configurations of webhooks were looked at: %s\n", clean(err.Error()))
			}
			fs = append(fs, apiFindings(hooks)...)
			looked += n
		}
	}
	return a.report(r, fs, count(looked, "object"))
}

// annotated finds what is wrong with Istio's annotations of what makes pods in a namespace, or all. A control plane does not watch
// them; of what it sees of their pods, what is written in the wrong place is not there, and what the injector refuses has no pods.
func annotated(ctx context.Context, k kubernetes.Interface, namespace string) (out []apiv1.Finding, looked int, err error) {
	examine := func(kind string, own *metav1.ObjectMeta, path string, pods *metav1.ObjectMeta) {
		looked++
		ref := mesh.Ref{Kind: kind, Namespace: own.Namespace, Name: own.Name}
		fs := inject.Examine(inject.Examined{Object: ref, Kind: kind, Meta: own})
		fs = append(fs, inject.Examine(inject.Examined{Object: ref, Kind: "Pod", Path: path, Meta: pods, Owner: own})...)
		out = append(out, apiFindings(config.Tidy(fs))...)
	}
	const template = "spec.template"
	apps, batch := k.AppsV1(), k.BatchV1()
	err = errors.Join(
		pages(ctx, apps.Deployments(namespace).List, func(l *appsv1.DeploymentList) {
			for i := range l.Items {
				examine("Deployment", &l.Items[i].ObjectMeta, template, &l.Items[i].Spec.Template.ObjectMeta)
			}
		}),
		pages(ctx, apps.StatefulSets(namespace).List, func(l *appsv1.StatefulSetList) {
			for i := range l.Items {
				examine("StatefulSet", &l.Items[i].ObjectMeta, template, &l.Items[i].Spec.Template.ObjectMeta)
			}
		}),
		pages(ctx, apps.DaemonSets(namespace).List, func(l *appsv1.DaemonSetList) {
			for i := range l.Items {
				examine("DaemonSet", &l.Items[i].ObjectMeta, template, &l.Items[i].Spec.Template.ObjectMeta)
			}
		}),
		pages(ctx, batch.Jobs(namespace).List, func(l *batchv1.JobList) {
			for i := range l.Items {
				if j := &l.Items[i]; metav1.GetControllerOf(j) == nil { // else its CronJob says so
					examine("Job", &j.ObjectMeta, template, &j.Spec.Template.ObjectMeta)
				}
			}
		}),
		pages(ctx, batch.CronJobs(namespace).List, func(l *batchv1.CronJobList) {
			for i := range l.Items {
				examine("CronJob", &l.Items[i].ObjectMeta, "spec.jobTemplate."+template, &l.Items[i].Spec.JobTemplate.Spec.Template.ObjectMeta)
			}
		}))
	return out, looked, err
}

// pages lists all there is, in pieces.
func pages[L metav1.ListInterface](ctx context.Context, list func(context.Context, metav1.ListOptions) (L, error), each func(L)) error {
	for o := (metav1.ListOptions{Limit: 500}); ; {
		l, err := list(ctx, o)
		if err != nil {
			return err
		}
		each(l)
		if o.Continue = l.GetContinue(); o.Continue == "" {
			return nil
		}
	}
}

// analyzed is what a control plane would make of units.
func analyzed(units []config.Unit) (*store.Update, error) {
	s, err := store.New(store.Options{
		Settings: mesh.Settings{TrustDomain: "cluster.local", ClusterID: "Kubernetes", DomainSuffix: "cluster.local", RootNamespace: "istio-system"},
		// `weir up` runs an ingress gateway that stands in no file.
		Assume: []*mesh.Workload{analyze.LocalGateway()},
	})
	if err != nil {
		return nil, err
	}
	s.Step(units...)
	return s.Analyze(), nil
}

// found are the findings of all stages that look at configuration.
func found(u *store.Update, local bool) []config.Finding {
	fs := slices.Clone(u.Findings)
	cache := translate.New()
	for _, n := range nodes(u) {
		cache.View(u.Snapshot, n)
	}
	for _, p := range cache.Problems() {
		fs = append(fs, config.New(config.SetAside, p.Ref, "", p.Line, p.Text, ""))
	}
	if local {
		in, _ := plan.From(u, nil)
		fs = append(fs, plan.Make(in).Findings...)
	}
	return config.Tidy(fs)
}

// nodes are the proxies there would be: the gateway's and one for each Deployment.
func nodes(u *store.Update) []*translate.Node {
	node := func(t translate.NodeType, namespace, name, account string, labels mesh.Labels) *translate.Node {
		return &translate.Node{Type: t, Namespace: namespace, Name: name, ServiceAccount: account, Labels: labels,
			Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, 1})}, Interception: translate.Redirect, DNS: true}
	}
	g := analyze.LocalGateway()
	out := []*translate.Node{node(translate.Router, g.Namespace, g.Name, g.ServiceAccount, g.Labels)}
	for _, d := range store.Lowered[*appsv1.Deployment](u) {
		t := d.Spec.Template
		out = append(out, node(translate.Sidecar, d.Namespace, d.Name+"-0", t.Spec.ServiceAccountName, t.Labels))
	}
	return out
}

func (a *app) codes(format string) error {
	var list []code
	t := newTable("CODE", "SEVERITY", "TITLE")
	for _, c := range config.Codes() {
		i := codeInfo(c)
		list = append(list, i)
		t.add(text(i.Code), cell{i.Severity, severityColor(i.Severity)}, text(i.Title))
	}
	if format != asTable {
		return a.out.emit(format, list)
	}
	a.out.print(t)
	return nil
}
