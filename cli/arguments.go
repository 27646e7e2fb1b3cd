package cli

import (
	"strings"

	"github.com/spf13/cobra"
)

// noArguments refuses any.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usage("`"+cmd.CommandPath()+" --help`", "%s takes no arguments, got %q", cmd.CommandPath(), args[0])
	}
	return nil
}

// atMostOne refuses more.
func atMostOne(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usage("`"+cmd.CommandPath()+" --help`", "%s takes one argument, got %q too", cmd.CommandPath(), args[1])
	}
	return nil
}

// one wants what, one argument, and shows an example.
func one(what, example string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 1 && args[0] != "" {
			return nil
		}
		return usage("for example `"+example+"`", "%s needs %s", cmd.CommandPath(), what)
	}
}

func joined(words []string) string { return strings.Join(words, ", ") }
