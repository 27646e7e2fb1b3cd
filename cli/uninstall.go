package cli

import (
	"bufio"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/weirmesh/weir/install/cluster"
)

func (a *app) uninstall() *cobra.Command {
	var f installation
	var purge, yes, force bool
	cmd := &cobra.Command{
		Use:   "uninstall [flags]",
		Short: "remove Weir from a Kubernetes cluster",
		Long: `Remove Weir from a Kubernetes cluster, with all that it made. Pods keep their
sidecars, without a control plane, until they are restarted.

The definitions of Istio's kinds stay as long as there are objects of these kinds
that somebody made: with the definitions they would be deleted. --purge does that.
Of several revisions one is removed; what they share (the CA's key, the
definitions) the others keep. While namespaces ask for it this is refused without
--force: pods that start there would get no proxy.`,
		Example: `  weir uninstall
  weir uninstall --purge --yes
  weir uninstall --revision 1-0`,
		Args: cobra.NoArgs,
	}
	f.flags(a, cmd)
	f.revisions(cmd)
	cmd.Flags().BoolVar(&purge, "purge", false, "delete all objects of Istio's kinds, too, with their definitions")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&force, "force", false, "also if namespaces ask for the revision, while another one stays")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return f.visit(a, cmd, func(ctx context.Context, c *cluster.Cluster) error {
			found, err := c.Find(ctx, f.name(), a.meant.Namespace)
			if err != nil {
				return err
			}
			if len(found.Objects) == 0 && len(found.CRDs) == 0 && !found.Namespace {
				a.errs.printf("there is no installation %s in %s: nothing to remove\n", f.name(), c.Context)
				return nil
			}
			if err := unfit(found, force); err != nil {
				return err
			}
			definitions := ""
			if len(found.CRDs) > 0 && (purge || len(found.Others) == 0) {
				definitions = " and " + count(len(found.CRDs), "definition")
			}
			a.errs.printf("removing %s%s from %s\n", count(len(found.Objects), "object"), definitions, c.Context)
			if len(found.Others) > 0 {
				first := found.Others[0]
				switch {
				case purge:
					a.errs.printf("%s %s that people made, %s %s/%s among them\n", a.errs.paint(yellow, "and"), count(len(found.Others), "object"), first.GetKind(), first.GetNamespace(), first.GetName())
				default:
					a.errs.printf("the definitions of Istio's kinds stay, for the sake of %s (%s %s/%s …); --purge deletes them\n", count(len(found.Others), "object"), first.GetKind(), first.GetNamespace(), first.GetName())
				}
			}
			if !yes && term.IsTerminal(int(a.Stdin.Fd())) {
				a.errs.printf("go on? [y/N] ")
				line, _ := bufio.NewReader(a.Stdin).ReadString('\n')
				if word := strings.ToLower(strings.TrimSpace(line)); word != "y" && word != "yes" {
					return fmt.Errorf("nothing was removed")
				}
			}
			if err := c.Uninstall(ctx, f.name(), a.meant.Namespace, found, purge); err != nil {
				return err
			}
			a.errs.printf("Weir is removed.\n")
			if len(found.Asking) > 0 {
				a.errs.printf("%s: pods that start in %s get no proxy any more, though their namespaces ask for one\n", a.errs.paint(yellow, "unprotected"), strings.Join(found.Asking, ", "))
			}
			if n := len(found.Pods); n > 0 {
				a.errs.printf("%s still with a sidecar, %s among them: kubectl rollout restart deployment -n NAMESPACE\n", count(n, "pod"), found.Pods[0])
			}
			return nil
		})
	}
	return cmd
}

// unfit says why a revision must not go while another one stays; nil: it may.
func unfit(found *cluster.Remains, force bool) error {
	switch {
	case found.Heir == "":
	case len(found.Tags) > 0:
		name := found.Tags[0].GetLabels()["istio.io/tag"]
		return hinted("`weir tag set "+name+" --revision OTHER --overwrite` moves it", "tag %s leads to this revision: pods that ask for it could not start", name)
	case len(found.Asking) > 0 && !force:
		return hinted("label them for another revision or tag and restart their pods first (`weir tag list` shows those there are), or say --force",
			"namespaces ask for this revision: %s; pods that start there would get no proxy", strings.Join(found.Asking, ", "))
	}
	return nil
}
