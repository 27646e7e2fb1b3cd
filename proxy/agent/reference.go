package agent

import "strings"

// Reference is the table as Markdown.
func Reference() string {
	var b strings.Builder
	for _, part := range []struct {
		kind  Kind
		title string
	}{{Flag, "Flags"}, {Variable, "Environment"}, {Field, "Fields of ProxyConfig (`PROXY_CONFIG`)"}} {
		b.WriteString("\n### " + part.title + "\n\n| name | | what happens |\n|---|---|---|\n")
		for _, r := range Rows() {
			if r.From == part.kind {
				b.WriteString("| `" + r.Name + "` | " + r.Outcome.String() + " | " + strings.ReplaceAll(r.Says, "|", `\|`) + " |\n")
			}
		}
	}
	b.WriteString("\n")
	return b.String()
}
