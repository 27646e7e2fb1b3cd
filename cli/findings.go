package cli

import (
	"fmt"
	"slices"
	"strings"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
)

// apiFindings are findings as the control plane would report them.
func apiFindings(fs []config.Finding) []apiv1.Finding {
	out := make([]apiv1.Finding, len(fs))
	for i, f := range fs {
		out[i] = apiv1.Finding{Code: string(f.Code), Severity: f.Severity.String(), Kind: f.Object.Kind, Namespace: f.Object.Namespace,
			Name: f.Object.Name, File: f.Object.File, Line: f.Line, Field: f.FieldPath, Message: f.Message, Hint: f.Hint}
	}
	return out
}

// severities, the gravest first.
var severities = []string{config.Error.String(), config.Warning.String(), config.Info.String()}

func severityColor(severity string) color {
	switch severity {
	case "error":
		return red
	case "warning":
		return yellow
	}
	return cyan
}

// atLeast leaves findings of a severity and graver ones.
func atLeast(severity string, fs []apiv1.Finding) []apiv1.Finding {
	limit := slices.Index(severities, severity)
	return slices.DeleteFunc(slices.Clone(fs), func(f apiv1.Finding) bool { return slices.Index(severities, f.Severity) > limit })
}

// alarm takes pods whose traffic goes past their proxies out of findings and prints them so that nobody overlooks them: nothing else
// is as bad.
func (p *printer) alarm(fs []apiv1.Finding) (others []apiv1.Finding) {
	for _, f := range fs {
		if f.Code != string(config.TrafficNotCaptured) {
			others = append(others, f)
			continue
		}
		p.printf("%s\n", p.paint(boldRed, clean(f.Code+"  "+sentence(f))))
		if f.Hint != "" {
			p.printf("  %s %s\n", p.paint(dim, "->"), clean(f.Hint))
		}
	}
	return others
}

// findings prints them under the files they are about.
func (p *printer) findings(fs []apiv1.Finding) {
	others := p.alarm(fs)
	if len(others) > 0 && len(others) < len(fs) {
		p.printf("\n")
	}
	fs = slices.Clone(others)
	slices.SortStableFunc(fs, func(a, b apiv1.Finding) int { return strings.Compare(a.File, b.File) })
	for i, f := range fs {
		if i == 0 || f.File != fs[i-1].File {
			if i > 0 {
				p.printf("\n")
			}
			name := f.File
			if name == "" {
				name = "(not in a file)"
			}
			p.printf("%s\n", p.paint(bold, clean(name)))
		}
		line := ""
		if f.Line > 0 {
			line = fmt.Sprint(f.Line)
		}
		p.printf("  %4s  %s  %-8s  %s\n", line, p.paint(severityColor(f.Severity), fmt.Sprintf("%-7s", f.Severity)), f.Code, clean(sentence(f)))
		if f.Hint != "" {
			p.printf("  %25s%s %s\n", "", p.paint(dim, "->"), clean(f.Hint))
		}
	}
}

// sentence is object, field and message of a finding.
func sentence(f apiv1.Finding) string {
	if f.Kind == "" {
		return f.Message
	}
	about := object(f.Kind, f.Namespace, f.Name)
	if f.Field != "" {
		about += ", " + f.Field
	} else if strings.HasPrefix(f.Message, about+" ") {
		return f.Message
	}
	return about + ": " + f.Message
}

func object(kind, namespace, name string) string {
	return strings.TrimSuffix(kind+" "+qualified(namespace, name), " ")
}

func qualified(namespace, name string) string {
	if namespace == "" {
		return name
	}
	return namespace + "/" + name
}

// summary is "1 error, 2 warnings, 1 note".
func summary(fs []apiv1.Finding) string {
	n := map[string]int{}
	for _, f := range fs {
		n[f.Severity]++
	}
	parts := []string{count(n["error"], "error"), count(n["warning"], "warning")}
	if n["info"] > 0 {
		parts = append(parts, count(n["info"], "note"))
	}
	return strings.Join(parts, ", ")
}
