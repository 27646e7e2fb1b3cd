package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// choice is a flag that takes one of a few words.
type choice struct {
	value   string
	allowed []string
}

func (c *choice) String() string { return c.value }
func (c *choice) Type() string   { return strings.Join(c.allowed, "|") }

func (c *choice) Set(s string) error {
	if !slices.Contains(c.allowed, s) {
		return fmt.Errorf("use one of: %s", strings.Join(c.allowed, ", "))
	}
	c.value = s
	return nil
}

// choose adds a flag whose first allowed word is the default.
func choose(cmd *cobra.Command, name, short, about string, allowed ...string) *choice {
	c := &choice{allowed[0], allowed}
	cmd.Flags().VarP(c, name, short, about)
	_ = cmd.RegisterFlagCompletionFunc(name, cobra.FixedCompletions(allowed, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// The words of -o.
const (
	asTable = "table"
	asJSON  = "json"
	asYAML  = "yaml"
	asName  = "name"
	asRaw   = "raw"
	asWide  = "wide"
)

// outputFlag adds -o. Commands print tables themselves and leave the rest to emit.
func outputFlag(cmd *cobra.Command, more ...string) *choice {
	return choose(cmd, "output", "o", "form of the output", append([]string{asTable, asJSON, asYAML}, more...)...)
}

// emit writes v as JSON or YAML; the field names are the same.
func (p *printer) emit(format string, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(v)
	data := b.Bytes()
	if err == nil && format == asYAML {
		data, err = yaml.JSONToYAML(data)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", format, err)
	}
	p.printf("%s\n", strings.TrimSuffix(string(data), "\n"))
	return nil
}

// age is how long ago something was, in the coarsest unit that says something.
func age(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return span(time.Since(t))
}

func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	}
	return fmt.Sprintf("%dd", d/(24*time.Hour))
}

// count is "1 error", "2 errors", "no errors".
func count(n int, one string) string {
	switch n {
	case 0:
		return "no " + plural(one)
	case 1:
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, plural(one))
}

func plural(one string) string {
	switch {
	case strings.HasSuffix(one, "xy"), strings.HasSuffix(one, "cy"), strings.HasSuffix(one, "ry"):
		return strings.TrimSuffix(one, "y") + "ies"
	case strings.HasSuffix(one, "s"):
		return one + "es"
	}
	return one + "s"
}
