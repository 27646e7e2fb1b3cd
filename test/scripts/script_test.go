package scripts

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// script is one file.
type script struct {
	intention string
	rounds    []round
}

// round is objects and the calls made with them.
type round struct {
	objects  string
	findings []string
	calls    []call
}

// call is one line of calls.
type call struct {
	at   string // file:line
	text string

	from, method, kind, target, path string // kind: "", "tcp", "tls", "https", "grpc"
	headers                          [][2]string
	socket                           string // a file, instead of a target
	host, sni, cert, version         string
	times                            int
	want                             []outcome
}

// outcome is one thing that may come of a call.
type outcome struct {
	text     string
	share    float64 // 0 to 1
	pods     []string
	status   int
	flags    string
	words    map[string]string // route=, path=, req.NAME=, …
	absent   []string          // req.NAME, resp.NAME
	mirrored string
	refused  bool
}

func readScript(path string) (*script, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseScript(path, 0, string(text))
}

// readPage reads the scripts in a page of documentation: its blocks marked "script".
func readPage(path string) ([]*script, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []*script
	before := ""
	for rest := string(text); ; {
		head, block, ok := strings.Cut(rest, "```script\n")
		if !ok {
			return out, nil
		}
		before += head + "```script\n"
		block, rest, _ = strings.Cut(block, "```\n")
		s, err := parseScript(path, strings.Count(before, "\n"), block)
		if err != nil {
			return nil, err
		}
		out = append(out, s)
		before += block + "```\n"
	}
}

// parseScript reads a script that stands behind some lines of a file.
func parseScript(path string, skipped int, text string) (*script, error) {
	s := &script{}
	section := ""
	for i, line := range strings.Split(text, "\n") {
		at := fmt.Sprintf("%s:%d", path, skipped+i+1)
		switch trimmed := strings.TrimSpace(line); {
		case line == "objects:":
			s.rounds = append(s.rounds, round{})
			section = line
		case line == "findings:" || line == "calls:":
			if len(s.rounds) == 0 {
				s.rounds = append(s.rounds, round{}) // with the cast alone
			}
			section = line
		case section == "objects:":
			s.rounds[len(s.rounds)-1].objects += line + "\n"
		case section == "" && strings.HasPrefix(line, "#"):
			s.intention += strings.TrimSpace(line[1:]) + " "
		case trimmed == "" || strings.HasPrefix(trimmed, "#"):
		case section == "findings:":
			r := &s.rounds[len(s.rounds)-1]
			r.findings = append(r.findings, trimmed)
		case section == "calls:":
			c, err := readCall(trimmed)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", at, err)
			}
			c.at = at
			r := &s.rounds[len(s.rounds)-1]
			r.calls = append(r.calls, c)
		default:
			return nil, fmt.Errorf("%s: %q is neither intention nor section", at, line)
		}
	}
	if s.intention == "" {
		return nil, fmt.Errorf("%s: does not say what the operator intends", path)
	}
	return s, nil
}

// words splits at spaces outside of double quotes, which it removes.
func words(s string) []string {
	var out []string
	var word strings.Builder
	quoted, begun := false, false
	for _, r := range s + " " {
		switch {
		case r == '"':
			quoted, begun = !quoted, true
		case r == ' ' && !quoted:
			if begun {
				out = append(out, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	return out
}

func readCall(line string) (call, error) {
	left, right, ok := strings.Cut(line, "=>")
	c := call{text: strings.TrimSpace(line), method: "GET", times: 1}
	w := words(left)
	if !ok || len(w) < 4 || w[0] != "from" || w[2] != "to" {
		return c, errors.New("not of the form: from WHO to TARGET => OUTCOME")
	}
	c.from, w = w[1], w[3:]
	for ; len(w) > 1; w = w[1:] {
		if slices.Contains([]string{"tcp", "tls", "https", "grpc"}, w[0]) {
			c.kind = w[0]
		} else if w[0] == strings.ToUpper(w[0]) && !strings.Contains(w[0], ":") {
			c.method = w[0]
		} else {
			break
		}
	}
	c.target, c.path = w[0], "/"
	if i := strings.IndexByte(c.target, '/'); i >= 0 {
		c.target, c.path = c.target[:i], c.target[i:]
	}
	c.host = c.target
	if name, ok := strings.CutPrefix(c.target, "unix:"); ok {
		c.socket, c.target, c.host = name, "127.0.0.1:80", "localhost"
	}
	for w = w[1:]; len(w) > 0; w = w[1:] {
		if n, err := strconv.Atoi(w[0]); err == nil && len(w) == 2 && w[1] == "times" {
			c.times = n
			break
		}
		name, value, ok := strings.Cut(w[0], "=")
		switch {
		case !ok:
			return c, fmt.Errorf("%q is not name=value", w[0])
		case name == "host":
			c.host = value
		case name == "sni":
			c.sni = value
		case name == "cert":
			c.cert = value
		case name == "tls":
			c.version = value
		default:
			c.headers = append(c.headers, [2]string{strings.ToLower(name), value})
		}
	}
	switch {
	case c.kind == "tls" && c.sni == "":
		return c, errors.New("a tls call needs sni=")
	case c.kind == "https" && c.sni == "":
		c.sni, _, _ = strings.Cut(c.host, ":")
	case c.kind == "grpc":
		c.method = "POST"
		c.headers = append(c.headers, [2]string{"content-type", "application/grpc"}, [2]string{"te", "trailers"})
	}
	total := 0.0
	for part := range strings.SplitSeq(right, "; ") {
		o, err := readOutcome(part)
		if err != nil {
			return c, err
		}
		total += o.share
		c.want = append(c.want, o)
	}
	if total < 0.9999 || total > 1.0001 {
		return c, fmt.Errorf("the shares add up to %g%%", 100*total)
	}
	return c, nil
}

// known are the words of an outcome with a value.
var known = []string{"route", "cluster", "details", "path", "host", "body", "grpc", "sni", "client", "shown", "peer", "attempts", "within", "after"}

func readOutcome(s string) (outcome, error) {
	o := outcome{text: strings.TrimSpace(s), share: 1, words: map[string]string{}}
	for _, w := range words(s) {
		key, value, valued := strings.Cut(w, "=")
		n, notNumber := strconv.Atoi(w)
		percent, isShare := strings.CutSuffix(w, "%")
		switch {
		case valued && key == "mirrored":
			o.mirrored = value
		case valued && (strings.HasPrefix(key, "req.") || strings.HasPrefix(key, "resp.") || slices.Contains(known, key)):
			if key == "within" || key == "after" {
				if _, err := time.ParseDuration(value); err != nil {
					return o, err
				}
			}
			o.words[key] = value
		case valued:
			return o, fmt.Errorf("what is %q?", w)
		case w == "refused":
			o.refused = true
		case w[0] == '!':
			o.absent = append(o.absent, w[1:])
		case isShare:
			p, err := strconv.ParseFloat(percent, 64)
			if err != nil {
				return o, err
			}
			o.share = p / 100
		case notNumber == nil:
			o.status = n
		case w == strings.ToUpper(w):
			o.flags = strings.ReplaceAll(w, "+", ",")
		default:
			o.pods = strings.Split(w, "|")
		}
	}
	return o, nil
}
