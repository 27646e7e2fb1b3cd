package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"syscall"
)

// called turns a command line into the arguments of weir-proxy. In the image the program
// has the names by which manifests written for Istio call theirs: pilot-agent (whose
// commands are ours, too), istio-iptables, and sh or bash, which start it.
func called(argv []string) ([]string, error) {
	if len(argv) == 0 {
		return nil, nil
	}
	switch name := path.Base(argv[0]); name {
	case "istio-iptables":
		return append([]string{"init"}, argv[1:]...), nil
	case "sh", "bash":
		words, err := shell(argv[1:])
		if err == nil {
			err = replace(words)
		}
		return nil, fmt.Errorf("as %s: %w", name, err)
	}
	return argv[1:], nil
}

// replace makes this process run another program, as exec does in a shell.
func replace(words []string) error {
	file, err := exec.LookPath(words[0])
	if err != nil {
		return fmt.Errorf("exec %s: %w; this image has weir-proxy, pilot-agent and istio-iptables", words[0], err)
	}
	return fmt.Errorf("exec %s: %w", file, syscall.Exec(file, words, os.Environ())) //nolint:gosec // the container's own command, which asks for it
}

var errShell = errors.New(`this image has no shell: what is called so runs -c "exec PROGRAM ARGUMENTS" and nothing else`)

// shell returns the words that the arguments of a shell ask to execute.
func shell(args []string) ([]string, error) {
	if len(args) != 2 || args[0] != "-c" {
		return nil, errShell
	}
	words, err := split(args[1])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errShell, err)
	}
	switch {
	case len(words) == 0 || words[0] != "exec":
		return nil, fmt.Errorf("%w: the command does not begin with exec", errShell)
	case len(words) == 1:
		return nil, fmt.Errorf("%w: exec is alone", errShell)
	case strings.HasPrefix(words[1], "-") || words[1] == "":
		return nil, fmt.Errorf("%w: exec's own options are not understood", errShell)
	}
	return words[1:], nil
}

// split reads one simple command in the shell's quoting (POSIX.1-2024, Shell Command
// Language 2.2): '…', "…", \x and a backslash before a newline, which vanishes. What a
// shell would expand or treat as an operator is refused unless it is quoted, because
// taking it literally would run another command than the one that was written.
func split(script string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord := false
	end := func() {
		if inWord {
			words = append(words, word.String())
			word.Reset()
			inWord = false
		}
	}
	for i := 0; i < len(script); i++ {
		switch c := script[i]; {
		case c == 0:
			return nil, errors.New("a NUL byte")
		case c == ' ' || c == '\t':
			end()
		case c == '\n':
			end()
			if len(words) > 0 && strings.Trim(script[i:], " \t\n") != "" {
				return nil, errors.New("a second command follows on another line; end the line with a backslash if it is the same one")
			}
		case c == '\\':
			i++
			switch {
			case i == len(script):
				return nil, errors.New("a backslash at the end")
			case script[i] != '\n':
				word.WriteByte(script[i])
				inWord = true
			}
		case c == '\'':
			n := strings.IndexByte(script[i+1:], '\'')
			if n < 0 {
				return nil, errors.New("a ' without its end")
			}
			word.WriteString(script[i+1 : i+1+n])
			inWord = true
			i += n + 1
		case c == '"':
			n, err := doubleQuoted(script[i+1:], &word)
			if err != nil {
				return nil, err
			}
			inWord = true
			i += n
		case c == '$' || c == '`':
			return nil, expansion(script[i:])
		case strings.IndexByte(";&|<>()*?[{", c) >= 0 || !inWord && (c == '#' || c == '~'):
			return nil, fmt.Errorf("%q is for a shell to interpret; put it in quotes if it is meant as it stands", c)
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	end()
	return words, nil
}

// doubleQuoted appends what stands before the closing quote and returns the length with it.
func doubleQuoted(s string, word *strings.Builder) (int, error) {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '"':
			return i + 1, nil
		case 0:
			return 0, errors.New("a NUL byte")
		case '$', '`':
			return 0, expansion(s[i:])
		case '\\':
			if i+1 == len(s) {
				return 0, errors.New("a backslash at the end")
			}
			switch i++; s[i] {
			case '\n':
			case '$', '`', '"', '\\':
				word.WriteByte(s[i])
			default:
				word.WriteByte('\\')
				word.WriteByte(s[i])
			}
		default:
			word.WriteByte(c)
		}
	}
	return 0, errors.New(`a " without its end`)
}

// expansion explains what to do about $ and `.
func expansion(s string) error {
	if strings.HasPrefix(s, "$(") {
		return errors.New("$(…): Kubernetes replaces $(NAME) in command and args if the container's env has NAME, and has not done so here; commands in it are not run")
	}
	return fmt.Errorf("%q is for a shell to expand; Kubernetes does it if it is written $(NAME), and '…' keeps it as it stands", s[0])
}
