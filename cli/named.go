package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/weirmesh/weir/cli/client"
	"github.com/weirmesh/weir/config/document"
)

// nobody says which of some names is of no workload and, if services may be meant, of no service; nil: each is somebody's, or empty. What
// cannot be found out is no reason to complain.
func nobody(ctx context.Context, c *client.Client, services bool, names ...string) error {
	known, err := knownNames(ctx, c, services)
	if err != nil {
		return nil
	}
	what := "workload"
	if services {
		what = "workload or service"
	}
	for _, name := range names {
		if name == "" || among(known, name) {
			continue
		}
		hint := "`weir proxy-status` lists workloads, `weir get services -A` services"
		if near := document.Suggest(name, known); near != "" {
			hint = "did you mean " + near + "?"
		}
		return hinted(hint, "there is no %s %s", what, name)
	}
	return nil
}

// among reports whether a name is one of those known, or the beginning of one, as of an app's Deployments.
func among(known []string, name string) bool {
	return slices.ContainsFunc(known, func(k string) bool {
		return k == name || strings.HasPrefix(k, name+"-") || strings.HasPrefix(k, name+".")
	})
}

// knownNames are those of Deployments and pods, gateways, too, and of services, if they may be meant: with their namespace and without.
func knownNames(ctx context.Context, c *client.Client, services bool) ([]string, error) {
	var out []string
	add := func(namespace, name string) {
		if name != "" && !slices.Contains(out, namespace+"/"+name) {
			out = append(out, name, namespace+"/"+name)
		}
	}
	workloads, err := c.Workloads(ctx)
	if err != nil {
		return nil, err
	}
	for i := range workloads {
		add(workloads[i].Namespace, workloads[i].Owner)
		add(workloads[i].Namespace, workloads[i].Name)
	}
	proxies, _, err := c.Proxies(ctx)
	if err != nil {
		return nil, err
	}
	for i := range proxies {
		namespace, name, _ := strings.Cut(proxies[i].Name, "/")
		add(namespace, name)
	}
	if !services {
		return out, nil
	}
	list, err := c.Services(ctx)
	for i := range list {
		add(list[i].Namespace, list[i].Name)
		out = append(out, list[i].Hostname)
	}
	return out, err
}
