package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/pflag"
)

// Every command line of the documentation is one: the command is there, and has the flags that are given to it.
func TestCommandLinesOfTheDocumentation(t *testing.T) {
	pages, err := filepath.Glob("../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	for _, page := range append(pages, "../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		fenced, n := false, 0
		for line := range strings.Lines(string(text)) {
			n++
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "```") {
				fenced = !fenced
			}
			args, ok := commandLine(line)
			if !fenced || !ok {
				continue
			}
			lines++
			cmd, rest, err := newApp(Options{}).root().Find(args)
			if err == nil && !cmd.DisableFlagParsing {
				err = cmd.ParseFlags(rest)
			}
			if err != nil && err != pflag.ErrHelp {
				t.Errorf("%s:%d: %s: %v", page, n, line, err)
			}
		}
	}
	if lines < 50 {
		t.Errorf("%d command lines, where are the others?", lines)
	}
}

var (
	prompted  = regexp.MustCompile(`^(\$ )?weir ([a-z].*)$`)
	otherwise = regexp.MustCompile(`\s(#|\||>|<|&&|;|2>).*$`) // what is no argument, and all behind it
	argument  = regexp.MustCompile(`'[^']*'|"[^"]*"|\S+`)
)

// commandLine are the arguments of a line that calls weir.
func commandLine(line string) (args []string, ok bool) {
	m := prompted.FindStringSubmatch(line)
	if m == nil || strings.Contains(m[2], "[") { // what is in brackets can be left out: that is the form of a command
		return nil, false
	}
	for _, a := range argument.FindAllString(otherwise.ReplaceAllString(m[2], ""), -1) {
		args = append(args, strings.Trim(a, `'"`))
	}
	return args, true
}
