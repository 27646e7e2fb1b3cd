package document

import (
	"strings"

	"github.com/weirmesh/weir/internal/editdistance"
)

// longest is the longest word that is compared by its letters.
const longest = 64

// Suggest returns the known word that name was probably meant to be, or "".
func Suggest(name string, known []string) string {
	fold := func(s string) string {
		return strings.ToLower(strings.ReplaceAll(strings.ReplaceAll(s, "_", ""), "-", ""))
	}
	n := fold(name)
	// A third of the letters, at most three: more is another word.
	best, bestDistance := "", min(max(len(name)/3, 1), 3)+1
	for _, k := range known {
		if f := fold(k); f == n || f == n+"s" || f+"s" == n {
			return k
		}
		if len(name) > longest || len(k) > longest {
			continue
		}
		if d := editdistance.Of(name, k, bestDistance); d < bestDistance {
			best, bestDistance = k, d
		}
	}
	return best
}
