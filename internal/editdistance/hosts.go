package editdistance

import (
	"cmp"
	"iter"
	"slices"
	"strings"
)

// maxNear is how many hosts are offered for one that is not there.
const maxNear = 3

// longestName is the longest host that is compared: no name of DNS is longer.
const longestName = 253

// Hosts are those of domains that are most like a host, the nearest first: for operators who look for a slip of the pen. It is no
// question for every request: 5,000 domains take a millisecond.
func Hosts(host string, domains iter.Seq[string]) []string {
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
	for domain := range domains {
		domain = withoutPort(strings.ToLower(domain))
		if domain == "*" || slices.ContainsFunc(best, func(n near) bool { return n.domain == domain }) {
			continue
		}
		limit := longestName
		if len(best) == maxNear {
			limit = best[maxNear-1].distance
		}
		d := apart(host, domain, limit)
		if short := firstLabels(domain, labels); short != "" {
			d = min(d, 1+apart(host, short, limit))
		}
		if d < limit {
			best = append(best, near{domain, d})
			slices.SortStableFunc(best, func(a, b near) int { return cmp.Or(a.distance-b.distance, strings.Compare(a.domain, b.domain)) })
			best = best[:min(len(best), maxNear)]
		}
	}
	out := make([]string, len(best))
	for i, n := range best {
		out[i] = n.domain
	}
	return out
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

// apart is their distance, if both are as long as hosts may be.
func apart(host, domain string, limit int) int {
	if len(domain) > longestName {
		return limit
	}
	return Of(host, domain, limit)
}
