package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
)

func (a *app) explain() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain [CODE] [flags]",
		Short: "say what a code means: of a finding, a failed request, an access log",
		Long: `Say what a code means and what to do about it, or list all codes: those of
findings (weir analyze, weir status), the causes of failed requests, and the
response flags and details in access logs (UF, URX, route_not_found).`,
		Example: `  weir explain IST0101
  weir explain upstream_connect_refused
  weir explain UF,URX
  weir explain`,
		Args: atMostOne,
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var out []string
			for _, c := range allCodes() {
				out = append(out, c.Code+"\t"+c.about())
			}
			if len(args) > 0 {
				out = nil
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		},
	}
	output := outputFlag(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if len(args) == 0 {
			return a.listCodes(output.value)
		}
		found := lookUp(args[0])
		switch {
		case len(found) == 0:
			var words []string
			for _, c := range allCodes() {
				words = append(words, c.Code)
				if c.Severity != "" {
					words = append(words, c.Title)
				}
			}
			if near := document.Suggest(args[0], words); near != "" {
				return hinted("did you mean "+near+"?", "there is no code %q", args[0])
			}
			return hinted("`weir explain` lists them", "there is no code %q", args[0])
		case output.value != asTable && len(found) == 1:
			return a.out.emit(output.value, found[0])
		case output.value != asTable:
			return a.out.emit(output.value, found)
		}
		for i, c := range found {
			if i > 0 {
				a.out.printf("\n")
			}
			a.out.code(c)
		}
		return nil
	}
	return cmd
}

// code is a code as -o json and yaml show it: of a finding (which has a severity), of a cause (which has details), or a response flag.
type code struct {
	Code     string `json:"code"`
	Severity string `json:"severity,omitempty"`
	Title    string `json:"title,omitempty"`
	// Of causes: what a client reads and an access log shows.
	Status      int    `json:"status,omitempty"`
	Flags       string `json:"flags,omitempty"`
	Details     string `json:"details,omitempty"`
	Explanation string `json:"explanation"`
	Remedy      string `json:"remedy,omitempty"`
}

func codeInfo(c config.CodeInfo) code {
	return code{Code: string(c.Code), Severity: c.Severity.String(), Title: c.Title, Explanation: c.Explanation}
}

func causeInfo(c causes.Cause) code {
	out := code{Code: c.Name(), Status: c.Status(), Details: c.Details(), Explanation: c.Sentence(), Remedy: c.Remedy()}
	if c.Flag() != 0 {
		out.Flags = c.Flag().String()
	}
	return out
}

func flagInfo(f causes.Flags) code {
	return code{Code: f.String(), Title: f.Long(), Explanation: f.Sentence()}
}

func allCodes() []code {
	var out []code
	for _, c := range config.Codes() {
		out = append(out, codeInfo(c))
	}
	for c := range causes.All() {
		out = append(out, causeInfo(c))
	}
	for f := range causes.AnyFlag.Each() {
		out = append(out, flagInfo(f))
	}
	return out
}

// lookUp is what a word can mean.
func lookUp(word string) []code {
	for _, c := range config.Codes() {
		if strings.EqualFold(word, string(c.Code)) || strings.EqualFold(word, c.Title) {
			return []code{codeInfo(c)}
		}
	}
	var out []code
	for f := range causes.Parse(word).Each() {
		out = append(out, flagInfo(f))
	}
	for _, c := range causes.Find(word) {
		out = append(out, causeInfo(c))
	}
	return out
}

// about is a line.
func (c *code) about() string {
	if c.Severity != "" {
		return c.Title
	}
	return c.Explanation
}

func (p *printer) code(c code) {
	var marks []string
	for _, m := range []string{c.Severity, c.Flags} {
		if m != "" {
			marks = append(marks, m)
		}
	}
	if c.Status != 0 {
		marks = append([]string{fmt.Sprint(c.Status)}, marks...)
	}
	head := p.paint(bold, c.Code)
	if c.Title != "" {
		head += " " + c.Title
	}
	if len(marks) > 0 {
		head += " (" + p.paint(severityColor(c.Severity), strings.Join(marks, ", ")) + ")"
	}
	p.printf("%s\n\n%s\n", head, c.Explanation)
	if c.Remedy != "" {
		p.printf("%s %s\n", p.paint(dim, "->"), c.Remedy)
	}
	if c.Details != "" {
		p.printf("In access logs: %s\n", c.Details)
	}
}

// listCodes prints all codes.
func (a *app) listCodes(format string) error {
	all := allCodes()
	if format != asTable {
		return a.out.emit(format, all)
	}
	findings, reasons, flags := newTable("CODE", "SEVERITY", "TITLE"), newTable("CAUSE", "STATUS", "FLAG", "MEANING"), newTable("FLAG", "MEANING")
	for _, c := range all {
		switch {
		case c.Severity != "":
			findings.add(text(c.Code), cell{c.Severity, severityColor(c.Severity)}, text(c.Title))
		case c.Details != "":
			status := ""
			if c.Status != 0 {
				status = fmt.Sprint(c.Status)
			}
			reasons.add(text(c.Code), text(status), text(c.Flags), text(c.Explanation))
		default:
			flags.add(text(c.Code), text(c.Explanation))
		}
	}
	a.out.printf("Of findings (weir analyze, weir status):\n")
	a.out.print(findings)
	a.out.printf("\nOf requests that failed (weir why):\n")
	a.out.print(reasons)
	a.out.printf("\nResponse flags in access logs:\n")
	a.out.print(flags)
	return nil
}
