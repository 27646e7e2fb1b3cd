package cli

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/weirmesh/weir/install"
	"github.com/weirmesh/weir/install/cluster"
)

func (a *app) tag() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "tag COMMAND [flags]",
		Short: "names for revisions: which control plane pods of a namespace get",
		Long: `Names for revisions. A namespace with the label istio.io/rev=TAG gets its proxies
from the revision the tag leads to. Moving the tag moves all of these namespaces,
each pod when it is restarted; moving it back takes them back.

The tag "default" stands for namespaces with istio-injection=enabled, and for pods
that ask without naming a revision.`,
		Example: `  weir install --revision 1-1
  weir tag set prod --revision 1-1
  kubectl label namespace shop istio.io/rev=prod istio-injection-
  weir tag list`,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.tagSet(), a.tagGenerate(), a.tagList(), a.tagRemove())
	return cmd
}

// tagging completes a command that makes a tag: flags, and what becomes of the objects that make it.
func (a *app) tagging(cmd *cobra.Command, do func(ctx context.Context, c *cluster.Cluster, tag, revision string, objects []*unstructured.Unstructured) error) *cobra.Command {
	var f installation
	var revision string
	var overwrite bool
	f.flags(a, cmd)
	cmd.Flags().StringVarP(&revision, "revision", "r", "", "`revision` the tag is to lead to; \"default\" is the one installed without a name")
	_ = cmd.RegisterFlagCompletionFunc("revision", cobra.NoFileCompletions)
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "also if the tag leads to another revision now")
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		example := cmd.CommandPath() + " prod --revision 1-1"
		if err := one("the name of one tag", example)(cmd, args); err != nil {
			return err
		}
		if revision == "" {
			return usage("for example `"+example+"`; `weir tag list` shows the revisions there are", "%s needs the revision that the tag is to lead to", cmd.CommandPath())
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return f.visit(a, cmd, func(ctx context.Context, c *cluster.Cluster) error {
			s := install.Settings{Namespace: a.meant.Namespace, Version: a.Version, Set: []string{"managedBy=weir"}}
			objects, err := c.Tagging(ctx, s, args[0], revision, overwrite)
			if err != nil {
				return err
			}
			return do(ctx, c, args[0], revision, objects)
		})
	}
	return cmd
}

func (a *app) tagSet() *cobra.Command {
	return a.tagging(&cobra.Command{
		Use:   "set TAG --revision REVISION [flags]",
		Short: "make a tag, or move it to another revision",
		Long:  "Make a tag, or move it to another revision with --overwrite. Pods that run keep\ntheir proxies until they are restarted.",
		Example: `  weir tag set prod --revision 1-1
  weir tag set prod --revision 1-0 --overwrite   # back`,
	}, func(ctx context.Context, c *cluster.Cluster, tag, revision string, objects []*unstructured.Unstructured) error {
		if err := c.SetTag(ctx, objects); err != nil {
			return err
		}
		a.out.printf("tag %s leads to revision %s\n", tag, revision)
		tags, err := c.Tags(ctx)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(tags, func(t cluster.Tag) bool { return t.Tag == tag })
		if i < 0 || len(tags[i].Namespaces) == 0 {
			a.errs.printf("next: kubectl label namespace NAMESPACE istio.io/rev=%s istio-injection-\n", tag)
			return nil
		}
		a.errs.printf("pods of %s get their proxies from it when they are restarted: kubectl rollout restart deployment -n %s\n", strings.Join(tags[i].Namespaces, ", "), tags[i].Namespaces[0])
		return nil
	})
}

func (a *app) tagGenerate() *cobra.Command {
	return a.tagging(&cobra.Command{
		Use:     "generate TAG --revision REVISION [flags]",
		Short:   "print what makes a tag, and change nothing",
		Long:    "Print what makes a tag, for the revision that is installed, and change nothing.",
		Example: `  weir tag generate prod --revision 1-1 > tag.yaml`,
	}, func(_ context.Context, _ *cluster.Cluster, _, _ string, objects []*unstructured.Unstructured) error {
		return a.print(objects)
	})
}

func (a *app) tagList() *cobra.Command {
	var f installation
	cmd := &cobra.Command{
		Use:     "list [flags]",
		Short:   "show revisions, the tags that lead to them, and who asks for them",
		Long:    "Show the revisions that are installed, the tags that lead to them, and the\nnamespaces that ask for either; last what namespaces ask for and is not there:\ntheir pods get no proxy.",
		Example: "  weir tag list\n  weir tag list -o json",
		Args:    cobra.NoArgs,
	}
	f.flags(a, cmd)
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return f.visit(a, cmd, func(ctx context.Context, c *cluster.Cluster) error {
			tags, err := c.Tags(ctx)
			if err != nil {
				return err
			}
			if output.value != asTable {
				if tags == nil {
					tags = []cluster.Tag{}
				}
				return a.out.emit(output.value, tags)
			}
			if len(tags) == 0 {
				a.errs.printf("Weir is not installed in %s\n", c.Context)
				return nil
			}
			t := newTable("REVISION", "TAG", "NAMESPACES")
			for _, x := range tags {
				t.add(text(cmp.Or(x.Revision, "-")), text(cmp.Or(x.Tag, "-")), text(cmp.Or(strings.Join(x.Namespaces, ","), "-")))
			}
			a.out.print(t)
			for _, x := range tags {
				if x.Revision == "" {
					a.errs.printf("%s: nothing is called %s, and pods that start in %s get no proxy: weir tag set %s --revision REVISION, or label them otherwise\n",
						a.errs.paint(red, "unprotected"), x.Tag, strings.Join(x.Namespaces, ", "), x.Tag)
				}
			}
			return nil
		})
	}
	return cmd
}

func (a *app) tagRemove() *cobra.Command {
	var f installation
	var yes bool
	cmd := &cobra.Command{
		Use:     "remove TAG [flags]",
		Short:   "remove a tag",
		Long:    "Remove a tag. While namespaces ask for it this is refused without --yes: pods that\nstart there would get no proxy.",
		Example: "  weir tag remove prod",
		Args:    one("the name of one tag", "weir tag remove prod"),
	}
	f.flags(a, cmd)
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "also if namespaces ask for it")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return f.visit(a, cmd, func(ctx context.Context, c *cluster.Cluster) error {
			tags, err := c.Tags(ctx)
			if err != nil {
				return err
			}
			for _, t := range tags {
				if t.Tag == args[0] && t.Revision != "" && len(t.Namespaces) > 0 && !yes {
					return hinted("label them otherwise first, or say --yes", "namespaces ask for tag %s: %s; pods that start there would get no proxy", t.Tag, strings.Join(t.Namespaces, ", "))
				}
			}
			there, err := c.RemoveTag(ctx, args[0])
			if err == nil && !there {
				return hinted("`weir tag list` shows those there are", "there is no tag %s", args[0])
			}
			if err == nil {
				a.out.printf("tag %s is removed\n", args[0])
			}
			return err
		})
	}
	return cmd
}
