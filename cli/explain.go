package cli

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/proxy/http/h1"
	"github.com/weirmesh/weir/proxy/http/h2"
)

func (a *app) explain() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain [CODE] [flags]",
		Short: "say what a code means: of a finding, a failed request, an access log",
		Long: `Say what a code means and what to do about it, or list all codes: those of
findings (weir analyze, weir status), the causes of failed requests, the response
flags and details in access logs (UF, URX, route_not_found), and which causes a
status can have (503; 0: no answer). Who has a symptom and no code finds what to
ask in docs/troubleshooting.md.`,
		Example: `  weir explain IST0101
  weir explain upstream_connect_refused
  weir explain UF,URX
  weir explain 503
  weir explain`,
		Args: atMostOne,
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var out []string
			for _, c := range allCodes() {
				out = append(out, c.Code+"\t"+c.about())
			}
			for _, status := range []int{400, 401, 403, 404, 408, 413, 426, 429, 431, 500, 502, 503, 504} {
				out = append(out, fmt.Sprintf("%d\t%s", status, http.StatusText(status)))
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
		a.out.codes(found)
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
	Docs        string `json:"docs,omitempty"` // where the documentation tells of it
}

func codeInfo(c config.CodeInfo) code {
	return code{Code: string(c.Code), Severity: c.Severity.String(), Title: c.Title, Explanation: c.Explanation, Docs: c.Docs()}
}

func causeInfo(c causes.Cause) code {
	out := code{Code: c.Name(), Status: c.Status(), Details: c.Details(), Explanation: c.Sentence(), Remedy: c.Remedy(), Docs: c.Docs()}
	if c.Flag() != 0 {
		out.Flags = c.Flag().String()
	}
	return out
}

func flagInfo(f causes.Flags) code {
	return code{Code: f.String(), Title: f.Long(), Explanation: f.Sentence(), Docs: f.Docs()}
}

func wordInfo(w causes.Word) code {
	return code{Code: string(w), Explanation: w.Sentence(), Remedy: w.Remedy(), Docs: w.Docs()}
}

// statusInfo is what a status says of who answered, and all causes that have it; nil: it is none.
func statusInfo(word string) []code {
	status, err := strconv.Atoi(word)
	if err != nil || status != 0 && (status < 100 || status > 599) {
		return nil
	}
	about := code{Code: word, Title: http.StatusText(status), Docs: causes.Page,
		Explanation: "the application answered so, or a proxy did for one of these causes", Remedy: "`weir why` with the request's id, or --last-errors, says who it was, and why"}
	found := []code{}
	for c := range causes.All() {
		if c.Answers(status) {
			found = append(found, causeInfo(c))
		}
	}
	switch {
	case status == 0:
		about.Title, about.Explanation = "no answer", "the client got no answer, or it was a connection that is not HTTP"
	case status < 400:
		about.Explanation = "no failure: the application answered so, or a proxy did as it is configured to"
		about.Remedy = ""
	}
	return append([]code{about}, found...)
}

func allCodes() []code {
	var out []code
	for _, c := range config.Codes() {
		out = append(out, codeInfo(c))
	}
	for c := range causes.All() {
		out = append(out, causeInfo(c))
	}
	for _, w := range causes.Words() {
		out = append(out, wordInfo(w))
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
	for _, w := range causes.Words() {
		if strings.EqualFold(word, string(w)) {
			return []code{wordInfo(w)}
		}
	}
	if strings.EqualFold(word, causes.NoCause.Details()) {
		return []code{{Code: causes.NoCause.Details(), Explanation: causes.NoCause.Sentence(), Remedy: "if with an error: " + causes.Answered.Remedy(), Docs: causes.Answered.Docs()}}
	}
	out := statusInfo(word)
	if why := httpReason(strings.ToLower(word)); why != "" {
		out = append(out, code{Code: strings.ToLower(word), Explanation: why, Remedy: "of a request, the client has to be mended; of an answer, the application", Docs: causes.DownstreamProtocolError.Docs()})
	}
	for f := range causes.Parse(word).Each() {
		out = append(out, flagInfo(f))
	}
	for _, c := range causes.Find(word) {
		out = append(out, causeInfo(c))
	}
	return out
}

// httpReason is what details say that begin with http1. or http2.: what of a message is not HTTP; "": nothing.
func httpReason(details string) string {
	if reason, ok := strings.CutPrefix(details, "http1."); ok {
		return h1.Explain(reason)
	}
	if reason, ok := strings.CutPrefix(details, "http2."); ok {
		return h2.Explain(reason)
	}
	return ""
}

// about is a line.
func (c *code) about() string {
	if c.Severity != "" {
		return c.Title
	}
	return c.Explanation
}

// codes prints what a word can mean; of a status with many causes, a line of each.
func (p *printer) codes(found []code) {
	if _, err := strconv.Atoi(found[0].Code); err == nil && len(found) > 1 {
		t := newTable("CAUSE", "FLAG", "MEANING")
		for _, c := range found[1:] {
			t.add(text(c.Code), text(c.Flags), text(c.Explanation))
		}
		p.code(found[0])
		p.printf("\n")
		p.print(t)
		return
	}
	for i, c := range found {
		if i > 0 {
			p.printf("\n")
		}
		p.code(c)
	}
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
	if c.Docs != "" {
		p.printf("%s\n", p.paint(dim, c.Docs))
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
		case c.Title == "":
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
