package route

import (
	"github.com/weirmesh/weir/internal/editdistance"
)

// Near are the domains of the table that are most like a host that it does not have.
func (t *Table) Near(host string) []string {
	return editdistance.Hosts(host, func(yield func(string) bool) {
		for _, vh := range t.hosts {
			for _, domain := range vh.Domains {
				if !yield(domain) {
					return
				}
			}
		}
	})
}

// Knows reports whether a virtual host other than one for everything has the host.
func (t *Table) Knows(host string) bool {
	vh, _ := t.Lookup([]byte(host))
	return vh != nil && vh != t.any
}
