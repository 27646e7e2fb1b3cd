package cli

import (
	"errors"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/cli/client"
)

func (a *app) delete() *cobra.Command {
	var paths []string
	var namespace string
	var ignoreMissing bool
	var wait waiting
	cmd := &cobra.Command{
		Use:   "delete (KIND NAME... | KIND/NAME... | -f FILE|DIR|-) [flags]",
		Short: "remove objects that were applied",
		Long: `Remove objects that were applied, and wait until no proxy works with them.
An object of a demo that was replaced is in force again.

Objects that stand in a file "weir up" watches are removed there.`,
		Example: `  weir delete virtualservice reviews
  weir delete vs/reviews dr/reviews
  weir delete -f networking/ --ignore-not-found`,
		ValidArgsFunction: a.completeObjects(&namespace),
	}
	output := outputFlag(cmd)
	filesFlag(cmd, &paths)
	a.namespaceFlag(cmd, &namespace)
	cmd.Flags().BoolVar(&ignoreMissing, "ignore-not-found", false, "what is not there is deleted already")
	wait.flags(cmd)
	cmd.Args = func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) > 0 && len(paths) > 0:
			return usage("give one of them", "weir delete takes objects or files, not both")
		case len(args) == 0 && len(paths) == 0:
			return usage("`weir delete virtualservice reviews`, or `weir delete -f reviews.yaml`", "weir delete needs to know what to delete")
		}
		return nil
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if namespace == "" {
			namespace = a.namespace()
		}
		ts, err := a.doomed(args, paths, namespace)
		if err != nil {
			return err
		}
		c, err := a.mesh()
		if err != nil {
			return err
		}
		start := time.Now()
		result := &apiv1.ApplyResult{Objects: []apiv1.Applied{}}
		failed := false
		for _, t := range ts {
			r, err := c.Delete(cmd.Context(), t.kind.name, t.namespace, t.name)
			if e, ok := errors.AsType[*client.Error](err); ok {
				if e.Status != http.StatusNotFound || !ignoreMissing {
					failed = true
					a.fail(err)
				}
				continue // the others may succeed
			}
			if err != nil {
				return err
			}
			result.Objects = append(result.Objects, r.Objects...)
			result.Mesh = r.Mesh
		}
		if err := a.finish(cmd.Context(), c, nil, result, start, wait, output.value); err != nil {
			return err
		}
		if failed {
			return silent(exitNo)
		}
		return nil
	}
	return cmd
}

// doomed lists what is to be deleted.
func (a *app) doomed(args, paths []string, namespace string) ([]target, error) {
	if len(args) > 0 {
		ts, err := targets(args, namespace)
		if err != nil {
			return nil, err
		}
		for _, t := range ts {
			if t.name == "" {
				return nil, usage("name the objects: `weir get "+args[0]+" -o name` lists them", "weir delete removes no whole kinds")
			}
		}
		return ts, nil
	}
	units, err := a.read(paths, namespace)
	if err != nil {
		return nil, err
	}
	var ts []target
	for _, u := range units {
		if u.Incomplete {
			a.errs.findings(apiFindings(u.Findings))
			return nil, hinted("correct them, or name the objects", "what the files say cannot be read completely, so nothing was deleted")
		}
		for _, o := range u.Objects {
			ts = append(ts, target{kind: kind{name: o.ID.Kind}, namespace: o.ID.Namespace, name: o.ID.Name})
		}
	}
	if len(ts) == 0 {
		return nil, hinted("an object has apiVersion and kind", "there is no object in %s", joined(paths))
	}
	return ts, nil
}
