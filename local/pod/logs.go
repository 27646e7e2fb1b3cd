package pod

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/weirmesh/weir/local/plan"
)

// proxyLog is the name of a pod's proxy among its logs.
const proxyLog = "proxy"

func (p *pod) output(container string, quiet bool) io.Writer {
	return p.rt.o.Logs.Source(p.source(container), quiet)
}

// LogSource names the log of a workload's container, of its proxy, or, without
// a container, of its first one.
func (r *Runtime) LogSource(namespace, workload, container string, proxy bool) (string, error) {
	p, err := r.find(namespace, workload)
	if err != nil {
		return "", err
	}
	switch t := p.template; {
	case proxy || t.Gateway:
		container = proxyLog
	case container == "" && len(t.Containers) > 0:
		container = t.Containers[0].Name
	case !slices.ContainsFunc(slices.Concat(t.Init, t.Containers), func(c plan.Container) bool { return c.Name == container }):
		return "", p.noContainer(container)
	}
	return p.source(container), nil
}

func (p *pod) noContainer(name string) error {
	var names []string
	for _, c := range slices.Concat(p.template.Init, p.template.Containers) {
		names = append(names, c.Name)
	}
	return &UserError{fmt.Sprintf("%s has no container %s", p.name, name), "it has: " + strings.Join(names, ", ")}
}
