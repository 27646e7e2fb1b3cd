package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/term"
)

// The rules are:
//
//   - What was asked for goes to standard output, everything else (errors, hints,
//     progress) to standard error.
//   - A failure is one line "error: …" and, where there is a remedy, one line "hint: …".
//   - Colours only on a terminal, never with NO_COLOR, and never as the only carrier of
//     a meaning.
//   - Names and texts come from files and peers: control characters in them do not
//     reach the terminal.
//   - Columns have no borders, so that cut and awk work.

type color string

// The colours of a terminal's own palette: they suit light and dark ones.
const (
	plain color = ""
	bold  color = "1"
	// boldRed is for one thing alone.
	boldRed color = "1;31"
	dim     color = "2"
	red     color = "31"
	green   color = "32"
	yellow  color = "33"
	cyan    color = "36"
)

type printer struct {
	w        io.Writer
	terminal bool
	color    bool
}

func newPrinter(f *os.File, noColor bool) *printer {
	terminal := term.IsTerminal(int(f.Fd()))
	return &printer{w: f, terminal: terminal, color: terminal && !noColor}
}

func (p *printer) printf(format string, args ...any) { _, _ = fmt.Fprintf(p.w, format, args...) }

func (p *printer) paint(c color, s string) string {
	if !p.color || c == plain || s == "" {
		return s
	}
	return "\x1b[" + string(c) + "m" + s + "\x1b[0m"
}

// clean replaces what a terminal would take as a command.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' || r == utf8.RuneError {
			return '�'
		}
		return r
	}, s)
}

// table is rows of cells, the first row being the head.
type table struct {
	rows [][]cell
}

type cell struct {
	text  string
	color color
}

func newTable(head ...string) *table {
	t := &table{}
	row := make([]cell, len(head))
	for i, h := range head {
		row[i] = cell{h, dim}
	}
	t.rows = append(t.rows, row)
	return t
}

func (t *table) add(cells ...cell) { t.rows = append(t.rows, cells) }

func text(s string) cell { return cell{text: s} }

// print writes the columns two spaces apart, an empty cell as "-".
func (p *printer) print(t *table) {
	var widths []int
	for _, row := range t.rows {
		for i := range row {
			c := &row[i]
			c.text = strings.ReplaceAll(clean(c.text), "\n", " ")
			if c.text == "" {
				c.text = "-"
			}
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c.text))
		}
	}
	for _, row := range t.rows {
		var b strings.Builder
		for i, c := range row {
			b.WriteString(p.paint(c.color, c.text))
			if i < len(row)-1 {
				b.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(c.text)+2))
			}
		}
		p.printf("%s\n", b.String())
	}
}
