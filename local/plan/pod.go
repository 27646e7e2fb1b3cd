package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/weirmesh/weir/mesh"
)

// Instance is what distinguishes a pod from the others of its group.
type Instance struct {
	Name string
	IP   netip.Addr
	// Services are the services of the pod's namespace with the addresses at which this
	// pod calls each.
	Services []ServiceAddress
	// Extra variables are set by the place the pod runs in; nothing overrides them.
	Extra func(c Container) []string
}

// ServiceAddress is where a service is called.
type ServiceAddress struct {
	Service *mesh.Service
	At      []netip.AddrPort // parallel to Service.Ports
}

// Pod is a Template with everything filled in.
type Pod struct {
	Name     string
	Template *Template
	IP       netip.Addr
	Init     []Program
	Programs []Program
}

// Program is what to start for a container.
type Program struct {
	Container *Container
	Argv      []string
	Env       []string // sorted, without what the machine adds
	Dir       string
}

// Pod fills in what belongs to one pod.
func (t *Template) Pod(i Instance) *Pod {
	p := &Pod{Name: i.Name, Template: t, IP: i.IP}
	var links []string
	if !t.NoServiceLinks {
		links = ServiceVariables(i.Services)
	}
	for _, list := range []struct {
		from []Container
		to   *[]Program
	}{{t.Init, &p.Init}, {t.Containers, &p.Programs}} {
		for n := range list.from {
			*list.to = append(*list.to, t.program(&list.from[n], i, links))
		}
	}
	return p
}

func (t *Template) program(c *Container, i Instance, links []string) Program {
	values := map[string]string{}
	set := func(assignments []string) {
		for _, a := range assignments {
			k, v, _ := strings.Cut(a, "=")
			values[k] = v
		}
	}
	set([]string{"HOSTNAME=" + i.Name})
	set(links)
	lookup := func(name string) (string, bool) { v, ok := values[name]; return v, ok }
	for _, e := range c.Env {
		switch {
		case e.Field != "":
			values[e.Name] = t.field(e.Field, i)
		case e.Literal:
			values[e.Name] = e.Value
		default:
			values[e.Name] = expand(e.Value, lookup)
		}
	}
	if i.Extra != nil {
		set(i.Extra(*c))
	}
	p := Program{Container: c, Dir: c.Dir}
	for _, a := range c.Argv {
		p.Argv = append(p.Argv, expand(a, lookup))
	}
	for k, v := range values {
		p.Env = append(p.Env, k+"="+v)
	}
	slices.Sort(p.Env)
	return p
}

// subscript splits "metadata.labels['app']".
func subscript(field string) (base, key string) {
	base, rest, ok := strings.Cut(field, "['")
	if !ok {
		return field, ""
	}
	return base, strings.TrimSuffix(rest, "']")
}

func knownField(field string) bool {
	base, key := subscript(field)
	switch base {
	case "metadata.labels", "metadata.annotations":
		return key != "" && strings.HasSuffix(field, "']")
	case "metadata.name", "metadata.namespace", "spec.serviceAccountName", "spec.nodeName", "status.podIP", "status.podIPs", "status.hostIP", "status.hostIPs":
		return key == ""
	}
	return false
}

// node is the name of the only one.
const node = "local"

func (t *Template) field(field string, i Instance) string {
	switch base, key := subscript(field); base {
	case "metadata.name":
		return i.Name
	case "metadata.namespace":
		return t.Namespace
	case "metadata.labels":
		return t.Labels[key]
	case "metadata.annotations":
		return t.Annotations[key]
	case "spec.serviceAccountName":
		return t.ServiceAccount
	case "spec.nodeName":
		return node
	case "status.podIP", "status.podIPs":
		return i.IP.String()
	case "status.hostIP", "status.hostIPs":
		return "127.0.0.1"
	}
	return ""
}

// expand replaces $(NAME), as Kubernetes does: $$ is a dollar sign, and what is not known
// stays as it is.
func expand(s string, lookup func(string) (string, bool)) string {
	var b strings.Builder
	for {
		i := strings.IndexByte(s, '$')
		if i < 0 || i+1 == len(s) {
			b.WriteString(s)
			return b.String()
		}
		b.WriteString(s[:i])
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			s = s[i+2:]
		case '(':
			end := strings.IndexByte(s[i:], ')')
			if end < 0 {
				b.WriteString(s[i:])
				return b.String()
			}
			if v, ok := lookup(s[i+2 : i+end]); ok {
				b.WriteString(v)
			} else {
				b.WriteString(s[i : i+end+1])
			}
			s = s[i+end+1:]
		default:
			b.WriteByte('$')
			s = s[i+1:]
		}
	}
}

// ServiceVariables are the variables by which Kubernetes tells a pod about services:
// RATINGS_SERVICE_HOST, RATINGS_SERVICE_PORT, RATINGS_PORT_9080_TCP_ADDR and so on.
func ServiceVariables(services []ServiceAddress) []string {
	var out []string
	for _, s := range services {
		name := variableName(s.Service.Name)
		add := func(suffix, value string) { out = append(out, name+suffix+"="+value) }
		for i, p := range s.Service.Ports {
			at, protocol := s.At[i], "tcp"
			host, port := at.Addr().String(), strconv.Itoa(int(at.Port()))
			if p.Protocol == mesh.UDP {
				protocol = "udp"
			}
			url := fmt.Sprintf("%s://%s", protocol, at)
			if i == 0 {
				add("_SERVICE_HOST", host)
				add("_SERVICE_PORT", port)
				add("_PORT", url)
			}
			if p.Name != "" {
				add("_SERVICE_PORT_"+variableName(p.Name), port)
			}
			one := fmt.Sprintf("_PORT_%d_%s", p.Number, strings.ToUpper(protocol))
			add(one, url)
			add(one+"_PROTO", protocol)
			add(one+"_PORT", port)
			add(one+"_ADDR", host)
		}
	}
	return out
}

// HostVariable is the name of the variable with a service's address.
func HostVariable(s *mesh.Service) string { return variableName(s.Name) + "_SERVICE_HOST" }

// portVariable is the name of the variable with a port of a service.
func portVariable(s *mesh.Service, i int) string {
	switch p := s.Ports[i]; {
	case p.Name != "":
		return variableName(s.Name) + "_SERVICE_PORT_" + variableName(p.Name)
	case i == 0:
		return variableName(s.Name) + "_SERVICE_PORT"
	default:
		return fmt.Sprintf("%s_PORT_%d_TCP_PORT", variableName(s.Name), p.Number)
	}
}

func variableName(s string) string { return strings.ToUpper(strings.ReplaceAll(s, "-", "_")) }
