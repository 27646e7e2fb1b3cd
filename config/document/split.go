package document

import (
	"iter"
	"strings"
)

// Part is the text of one document of a stream.
type Part struct {
	Text string
	Line int // of its first byte
}

// Split cuts a YAML stream at its document markers, so that an error in one document
// leaves the others readable. YAML forbids a marker at the beginning of a line inside
// any scalar, so cutting lines is exact. Documents without content are left out.
func Split(text string) iter.Seq[Part] {
	return func(yield func(Part) bool) {
		start, startLine, line := 0, 1, 1
		content := false
		flush := func(end int) bool { return !content || yield(Part{text[start:end], startLine}) }
		for pos := 0; pos < len(text); line++ {
			end := len(text)
			if nl := strings.IndexByte(text[pos:], '\n'); nl >= 0 {
				end = pos + nl + 1
			}
			l := strings.TrimRight(text[pos:end], " \t\r\n")
			switch {
			case marker(l, "---"):
				if !flush(pos) {
					return
				}
				start, startLine = pos, line
				rest := strings.TrimLeft(l[3:], " \t")
				content = rest != "" && rest[0] != '#'
			case marker(l, "..."):
				if !flush(pos) {
					return
				}
				start, startLine, content = end, line+1, false
			case l != "" && strings.TrimLeft(l, " \t")[0] != '#' && (content || l[0] != '%'):
				content = true
			}
			pos = end
		}
		flush(len(text))
	}
}

func marker(line, m string) bool {
	return strings.HasPrefix(line, m) && (len(line) == 3 || line[3] == ' ' || line[3] == '\t')
}
