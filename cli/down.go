package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/weirmesh/weir/cli/client"
)

// downDefault leaves room above the 2 s in which `weir up` ends everything.
const downDefault = 10 * time.Second

func (a *app) down() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "down [flags]",
		Short: "end the running mesh",
		Long: `End the mesh that "weir up" runs on the state folder, as Ctrl-C in its terminal
does, and wait until it has ended. What was applied is kept.`,
		Example: `  weir down
  weir down --state /tmp/other-mesh`,
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	cmd.Flags().DurationVar(&timeout, "timeout", downDefault, "how long to wait for the end")
	_ = cmd.RegisterFlagCompletionFunc("timeout", cobra.NoFileCompletions)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		l, err := client.ReadLock(a.state)
		if err != nil {
			return err
		}
		if l.PID <= 1 { // kill(2) gives 0 and below a wider meaning
			return client.ErrNoMesh
		}
		// Take hold of the process before asking whether the lock is held: then it is the
		// one that held it, whatever becomes of its number.
		p, err := os.FindProcess(l.PID)
		if err != nil {
			return client.ErrNoMesh
		}
		defer func() { _ = p.Release() }()
		held, err := client.Held(a.state)
		if err != nil {
			return err
		}
		if !held {
			return client.ErrNoMesh
		}
		if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("ending weir up (process %d): %w", l.PID, err)
		}
		ctx, cancel := context.WithTimeout(cmd.Context(), timeout)
		defer cancel()
		if err := client.Released(ctx, a.state); err != nil {
			return hinted(fmt.Sprintf("`kill -9 %d` ends it in any case, and leaves nothing behind", l.PID), "the mesh has not ended within %s", timeout)
		}
		a.out.printf("the mesh has ended\n")
		return nil
	}
	return cmd
}
