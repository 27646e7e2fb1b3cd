package cli

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
)

// asSARIF is the form in which code hosts and editors take what a check found.
const asSARIF = "sarif"

// sourceRoot is how logs call the folder of what was checked, wherever it is on the machine that checked it.
const sourceRoot = "%SRCROOT%"

// node is an object of the log.
type node = map[string]any

// checkedFolder is what names of files in a log are relative to: the working directory, or the one folder outside of it that was given.
func checkedFolder(paths []string) string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	if len(paths) == 1 {
		given, err := filepath.Abs(paths[0])
		if info, statErr := os.Stat(given); err == nil && statErr == nil && info.IsDir() {
			if _, inside := below(dir, given); !inside {
				return given
			}
		}
	}
	return dir
}

// below is the name of a file as a folder has it, if it is in there.
func below(dir, name string) (string, bool) {
	rel, err := filepath.Rel(dir, name)
	return filepath.ToSlash(rel), err == nil && filepath.IsLocal(rel)
}

// artifact is where a file is: in root, which a reader knows by its name, or anywhere.
func artifact(root, name string) node {
	whole, err := filepath.Abs(name)
	if err != nil {
		whole = name
	}
	if rel, ok := below(root, whole); ok {
		return node{"uri": (&url.URL{Path: rel}).String(), "uriBaseId": sourceRoot}
	}
	return node{"uri": (&url.URL{Scheme: "file", Path: filepath.ToSlash(whole)}).String()}
}

// sarif is findings as a log of SARIF 2.1.0 (OASIS standard, 2020), with the names of files relative to root. A finding about
// something that is in no file has its object as a logical location.
func sarif(version, root string, fs []apiv1.Finding) any {
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
			// Findings know lines and no columns: the region is the line. What is about a file as a whole has its first, because code
			// hosts take no location without a line.
			where["physicalLocation"] = node{"artifactLocation": artifact(root, f.File), "region": node{"startLine": max(f.Line, 1)}}
		}
		if f.Kind != "" {
			where["logicalLocations"] = []node{{"name": f.Name, "fullyQualifiedName": object(f.Kind, f.Namespace, f.Name), "kind": "object"}}
		}
		locations := []node{}
		if len(where) > 0 {
			locations = append(locations, where)
		}
		results = append(results, node{"ruleId": f.Code, "level": sarifLevel(f.Severity), "message": node{"text": message}, "locations": locations,
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
		"runs": []node{{"tool": node{"driver": node{"name": "weir analyze", "version": version, "rules": rules}}, "results": results,
			"originalUriBaseIds": node{sourceRoot: node{"description": node{"text": "The folder in which weir analyze was called, or the one it was given."}}}}}}
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
