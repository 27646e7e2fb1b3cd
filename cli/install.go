package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/install"
	"github.com/weirmesh/weir/install/cluster"
)

func (a *app) install() *cobra.Command {
	var f installation
	var s chosen
	var dryRun, force, replace bool
	cmd := &cobra.Command{
		Use:   "install [flags]",
		Short: "install Weir into a Kubernetes cluster, or change an installation",
		Long: `Install Weir into a Kubernetes cluster: check first, say what is made, make it,
and wait until it is ready. Called again it changes what is there to what is
asked for now.

Profiles: minimal (control plane), default (and an ingress gateway), demo (both
gateways, access logs), production (two of everything, on different nodes,
autoscaled). --set and --values take the values of the Helm chart, names of
Istio's charts included.`,
		Example: `  weir install
  weir install --profile demo --hub registry.example/weir --tag 0.1.0
  weir install --profile production --set pilot.autoscaleMax=10
  weir install --revision 1-1   # beside the one there is; see weir tag
  weir install --set meshConfig.accessLogFile=/dev/stdout
  weir install --set global.mtls.enabled=true --timeout 2m
  weir install --dry-run > weir.yaml`,
		Args: cobra.NoArgs,
	}
	f.flags(a, cmd)
	f.revisions(cmd)
	s.flags(cmd)
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "print what would be made, and ask no cluster")
	cmd.Flags().BoolVar(&force, "force", false, "go on in spite of what was found")
	cmd.Flags().BoolVar(&replace, "replace", false, "make anew what Kubernetes does not let change: a Deployment of an older version with another selector")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if dryRun {
			r, err := s.render(a, &f, "")
			if err != nil {
				return err
			}
			if err := a.notices(r); err != nil {
				return err
			}
			return a.manifest(r)
		}
		began := time.Now()
		return s.visit(a, &f, cmd, func(ctx context.Context, c *cluster.Cluster, r *install.Release) error {
			c.Replace = replace
			found, err := c.Check(ctx, r)
			if err != nil {
				return err
			}
			if a.problems(found) && !force {
				return silent(exitNo)
			}
			if err := a.notices(r); err != nil {
				return err
			}
			a.errs.printf("installing into %s (Kubernetes %s), namespace %s: %s\n", c.Context, c.Version, r.Namespace, contents(r))
			if err := c.Install(ctx, r); err != nil {
				return err
			}
			a.errs.printf("Weir is installed, after %s.\n", span(time.Since(began)))
			for _, o := range r.Objects {
				if name := o.GetName(); o.GetKind() == "Service" && o.GetLabels()["istio"] == "ingressgateway" {
					if at, err := c.Ingress(ctx, r.Namespace, name); err == nil {
						a.reach(at)
					}
				}
			}
			label := "istio-injection=enabled"
			if r.Revision != "" {
				label = "istio.io/rev=" + r.Revision + " istio-injection-"
			}
			a.errs.printf("next: kubectl label namespace default %s, and apply your manifests (or `weir demo install`)\n", label)
			return nil
		})
	}
	return cmd
}

// notices says which settings mean something else here, or nothing.
func (a *app) notices(r *install.Release) error {
	for _, n := range r.Notices {
		a.errs.printf("%s %s\n", a.errs.paint(yellow, "note:"), clean(n))
	}
	return a.settings(r)
}

// contents says what is made, in a line.
func contents(r *install.Release) string {
	var programs []string
	for _, o := range r.Objects {
		if o.GetKind() == "Deployment" || o.GetKind() == "DaemonSet" {
			programs = append(programs, o.GetName())
		}
	}
	crds := "Istio's definitions"
	if on, _ := r.Values["crds"].(bool); !on {
		crds = "no definitions"
	}
	return fmt.Sprintf("%s, %s (%s)", crds, count(len(r.Objects), "object"), strings.Join(programs, ", "))
}

// reach prints how an ingress gateway is reached.
func (a *app) reach(at cluster.Address) {
	if at.Pending != "" {
		a.errs.printf("%s; until then:\n", at.Pending)
	}
	if at.URL != "" {
		a.out.printf("%s\n", at.URL)
		return
	}
	a.errs.printf("the ingress gateway: %s, then http://localhost:8080\n", at.Forward)
}

// manifest prints all objects as YAML.
func (a *app) manifest(r *install.Release) error {
	crds, err := r.CRDs()
	if err != nil {
		return err
	}
	return a.print(slices.Concat(crds, r.Objects))
}

// print prints objects as YAML.
func (a *app) print(list []*unstructured.Unstructured) error {
	for _, o := range list {
		b, err := yaml.Marshal(o.Object)
		if err != nil {
			return err
		}
		a.out.printf("---\n%s", b)
	}
	return nil
}

func (a *app) verify() *cobra.Command {
	var f installation
	var s chosen
	cmd := &cobra.Command{
		Use:   "verify [flags]",
		Short: "check that an installation in a cluster is whole",
		Long:  "Check that an installation in a Kubernetes cluster is whole and works: all\nobjects there, all programs ready, webhooks able to answer.",
		Example: `  weir verify
  weir verify --profile demo -o json`,
		Args: cobra.NoArgs,
	}
	f.flags(a, cmd)
	f.revisions(cmd)
	s.flags(cmd)
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return s.visit(a, &f, cmd, func(ctx context.Context, c *cluster.Cluster, r *install.Release) error {
			ps, err := c.Verify(ctx, r)
			if err != nil {
				return err
			}
			if output.value != asTable {
				if ps == nil {
					ps = []cluster.Problem{}
				}
				err = a.out.emit(output.value, map[string]any{"problems": ps})
			} else if !a.problems(ps) {
				a.out.printf("Weir is whole in namespace %s: %s\n", r.Namespace, contents(r))
			}
			if err == nil && len(ps) > 0 {
				return silent(exitNo)
			}
			return err
		})
	}
	return cmd
}
