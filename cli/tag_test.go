package cli

import (
	"errors"
	"strings"
	"testing"
)

// A command that makes or removes a tag and is not told which, or where it leads, says so with an example, before any cluster is asked.
func TestTagWithoutArguments(t *testing.T) {
	for _, c := range []struct{ args, says, hint string }{
		{"set", "tag set needs the name of one tag", "tag set prod --revision 1-1"},
		{"set a b", "tag set needs the name of one tag", "tag set prod --revision 1-1"},
		{"set prod", "tag set needs the revision", "`weir tag list`"},
		{"generate", "tag generate needs the name of one tag", "tag generate prod --revision 1-1"},
		{"remove", "tag remove needs the name of one tag", "weir tag remove prod"},
		{"remove a b", "tag remove needs the name of one tag", "weir tag remove prod"},
	} {
		cmd := (&app{state: t.TempDir()}).tag()
		cmd.SetArgs(strings.Fields(c.args))
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		var f *failure
		if err := cmd.ExecuteContext(t.Context()); !errors.As(err, &f) {
			t.Errorf("%s: %v", c.args, err)
		} else if !strings.Contains(f.err.Error(), c.says) || !strings.Contains(f.hint, c.hint) || f.exit != exitUsage {
			t.Errorf("%s: %v; %s; %d", c.args, f.err, f.hint, f.exit)
		}
	}
}
