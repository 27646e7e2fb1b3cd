package route

import (
	"cmp"
	"slices"
	"strings"
)

// maxNear is how many domains are offered for one that is not there.
const maxNear = 3

// longestName is the longest host that is compared: no name of DNS is longer.
const longestName = 253

// Near are the domains of the table that are most like a host that it does not have, the nearest first: for operators who look for a
// slip of the pen. It is no question for every request: 5,000 domains take a millisecond.
func (t *Table) Near(host string) []string {
	type near struct {
		domain   string
		distance int
	}
	host = withoutPort(strings.ToLower(host))
	if host == "" || len(host) > longestName {
		return nil
	}
	labels := strings.Count(host, ".") + 1
	var best []near
	for _, vh := range t.hosts {
		for _, domain := range vh.Domains {
			domain = withoutPort(strings.ToLower(domain))
			if domain == "*" || slices.ContainsFunc(best, func(n near) bool { return n.domain == domain }) {
				continue
			}
			limit := longestName
			if len(best) == maxNear {
				limit = best[maxNear-1].distance
			}
			d := distance(host, domain, limit)
			if short := firstLabels(domain, labels); short != "" {
				d = min(d, 1+distance(host, short, limit))
			}
			if d < limit {
				best = append(best, near{domain, d})
				slices.SortStableFunc(best, func(a, b near) int { return cmp.Or(a.distance-b.distance, strings.Compare(a.domain, b.domain)) })
				best = best[:min(len(best), maxNear)]
			}
		}
	}
	out := make([]string, len(best))
	for i, n := range best {
		out[i] = n.domain
	}
	return out
}

// Knows reports whether a virtual host other than one for everything has the host.
func (t *Table) Knows(host string) bool {
	vh, _ := t.Lookup([]byte(host))
	return vh != nil && vh != t.any
}

func withoutPort(host string) string {
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.Contains(host[i:], "]") {
		return host[:i]
	}
	return host
}

// firstLabels is what a name of so many labels may be short for; "": it has no more.
func firstLabels(name string, n int) string {
	for i := range len(name) {
		if name[i] == '.' {
			if n--; n == 0 {
				return name[:i]
			}
		}
	}
	return ""
}

// distance is how many bytes have to be inserted, removed, replaced or swapped with their neighbours to make one name of the other; limit if
// that is as many or more.
func distance(a, b string, limit int) int {
	if len(a) > len(b) {
		a, b = b, a
	}
	if len(b)-len(a) >= limit || len(b) > longestName {
		return limit
	}
	var rows [3][longestName + 1]int
	before, above, row := &rows[0], &rows[1], &rows[2]
	for j := range len(a) + 1 {
		above[j] = j
	}
	for i := 1; i <= len(b); i++ {
		row[0] = i
		least := i
		for j := 1; j <= len(a); j++ {
			other := 1
			if b[i-1] == a[j-1] {
				other = 0
			}
			row[j] = min(above[j]+1, row[j-1]+1, above[j-1]+other)
			if i > 1 && j > 1 && b[i-1] == a[j-2] && b[i-2] == a[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
			least = min(least, row[j])
		}
		if least >= limit {
			return limit
		}
		before, above, row = above, row, before
	}
	return min(above[len(a)], limit)
}
