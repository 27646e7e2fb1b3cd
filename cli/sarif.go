package cli

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
)

// asSARIF is the form in which code hosts and editors take what a check found.
const asSARIF = "sarif"

// node is an object of the log.
type node = map[string]any

// sarif is findings as a log of SARIF 2.1.0 (OASIS standard, 2020). A finding about something
// that is in no file has its object as a logical location.
func sarif(version string, fs []apiv1.Finding) any {
	codes := map[string]bool{}
	results := []node{}
	for _, f := range fs {
		codes[f.Code] = true
		message := sentence(f)
		if f.Hint != "" {
			message += " (" + f.Hint + ")"
		}
		where := node{}
		if f.File != "" && f.File != stdinName {
			at := node{"artifactLocation": node{"uri": filepath.ToSlash(f.File)}}
			if f.Line > 0 {
				at["region"] = node{"startLine": f.Line}
			}
			where["physicalLocation"] = at
		}
		if f.Kind != "" {
			where["logicalLocations"] = []node{{"fullyQualifiedName": object(f.Kind, f.Namespace, f.Name), "kind": "object"}}
		}
		results = append(results, node{"ruleId": f.Code, "level": sarifLevel(f.Severity), "message": node{"text": message}, "locations": []node{where},
			// What a finding is about, without its line: so that it is known again when lines move.
			"partialFingerprints": node{"object/v1": strings.Join([]string{f.Code, f.Kind, f.Namespace, f.Name, f.Field}, "/")}})
	}
	rules := []node{}
	for _, c := range config.Codes() {
		if !codes[string(c.Code)] {
			continue
		}
		rules = append(rules, node{"id": c.Code, "name": c.Title, "shortDescription": node{"text": c.Title}, "fullDescription": node{"text": c.Explanation},
			"defaultConfiguration": node{"level": sarifLevel(c.Severity.String())}})
	}
	return node{"$schema": "https://json.schemastore.org/sarif-2.1.0.json", "version": "2.1.0",
		"runs": []node{{"tool": node{"driver": node{"name": "weir analyze", "version": version, "rules": rules}}, "results": results}}}
}

func sarifLevel(severity string) string {
	if severity == config.Info.String() {
		return "note"
	}
	return severity
}

// suppressions leave out findings: CODE, or CODE=OBJECT with KIND NAME, KIND NAME.NAMESPACE
// (as istioctl writes it) or KIND NAMESPACE/NAME, each with * for anything.
type suppressions []string

func (s suppressions) check() error {
	for _, x := range s {
		code, about, of := strings.Cut(x, "=")
		if _, known := config.Explain(config.Code(code)); !known && code != "*" {
			return usage("`weir analyze --list-codes`", "--suppress %s: there is no code %s", x, code)
		}
		if kind, name, ok := strings.Cut(about, " "); of && (!ok || kind == "" || name == "") {
			return usage(`"IST0101=VirtualService reviews.default", or a code alone`, "--suppress %s: after = comes KIND NAME", x)
		}
	}
	return nil
}

func (s suppressions) leave(fs []apiv1.Finding) (left []apiv1.Finding, gone int) {
	left = slices.DeleteFunc(slices.Clone(fs), func(f apiv1.Finding) bool {
		return slices.ContainsFunc(s, func(x string) bool {
			code, about, of := strings.Cut(x, "=")
			if code != "*" && code != f.Code {
				return false
			}
			if !of {
				return true
			}
			// A * stands for slashes, too; Match has it end at them.
			for _, name := range []string{f.Name, f.Name + "." + f.Namespace, qualified(f.Namespace, f.Name)} {
				if ok, _ := filepath.Match(strings.ReplaceAll(about, "/", "\x00"), strings.ReplaceAll(fmt.Sprintf("%s %s", f.Kind, name), "/", "\x00")); ok {
					return true
				}
			}
			return false
		})
	})
	return left, len(fs) - len(left)
}
