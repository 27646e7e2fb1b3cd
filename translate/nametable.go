package translate

import (
	"strings"

	"github.com/weirmesh/weir/api/nds"
	"github.com/weirmesh/weir/mesh"
	"github.com/weirmesh/weir/xds/resource"
)

// nameTableName is what the one resource of its type is called.
const nameTableName = "NameTable"

// nameTable joins the names of all hosts. Most scopes see the same ones: they share it.
func (s *scope) nameTable(c *Cache) resource.Set {
	if s.table.Len() == 0 || !s.tableOf.Same(s.names) {
		var b []byte
		var origins []resource.Origin
		for host, entries := range s.names.All() {
			b = append(b, entries...)
			origins = append(origins, s.tenants.At(host).origins...)
		}
		if r := resource.FromBytes(resource.NameTableType, nameTableName, b).MadeOf(origins); !resource.Equal(c.names, r) {
			c.names = r
		}
		s.table = replace(s.table, c.names)
		s.tableOf = s.names
	}
	return s.table
}

// nameEntries are the marshalled entries of the name table for a service: its host, and
// for a headless service each pod by name. nil if it has no address.
func nameEntries(s *service, suffix string) []byte {
	if isWildcard(s.Hostname) {
		return nil
	}
	info := func(short string, ips ...string) *nds.NameTable_NameInfo {
		n := &nds.NameTable_NameInfo{Ips: ips, Registry: "External"}
		if isClusterLocal(s.Service, suffix) {
			n.Registry, n.Shortname, n.Namespace = "Kubernetes", short, s.Namespace
		}
		return n
	}
	table := map[string]*nds.NameTable_NameInfo{}
	var ips []string
	for _, a := range s.Addresses {
		ips = append(ips, a.String())
	}
	if len(ips) == 0 && len(s.crews) > 0 {
		seen := map[string]bool{}
		for _, e := range s.crews[0].endpoints {
			if !e.Addr.IsValid() || e.Health == mesh.Unhealthy {
				continue
			}
			ip := e.Addr.Addr().String()
			if !seen[ip] {
				seen[ip] = true
				ips = append(ips, ip)
			}
			if e.Workload != nil && e.Workload.Name != "" {
				table[strings.ToLower(e.Workload.Name+"."+s.Hostname)] = info(e.Workload.Name+"."+s.Name, ip)
			}
		}
	}
	if len(ips) == 0 {
		return nil
	}
	table[strings.ToLower(s.Hostname)] = info(s.Name, ips...)
	b, err := resource.Marshal(&nds.NameTable{Table: table})
	if err != nil {
		return nil // a name that is not text has no place in DNS
	}
	return b
}
