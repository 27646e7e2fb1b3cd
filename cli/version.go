package cli

import (
	"context"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/cobra"
)

// versions is what -o json and yaml show.
type versions struct {
	Client       string         `json:"client"`
	ControlPlane string         `json:"controlPlane,omitempty"`
	Proxies      map[string]int `json:"proxies,omitempty"` // how many run a version
}

func (a *app) version() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "version [flags]",
		Short: "show the versions of this program and of the running mesh",
		Long: `Show the versions of this program and, if a mesh runs, of its control plane and
proxies.`,
		Example: `  weir version
  weir version -o json`,
		Args:              noArguments,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		v := versions{Client: a.Version, Proxies: a.proxyVersions(cmd.Context())}
		if c, err := a.mesh(); err == nil {
			if s, err := c.Status(cmd.Context()); err == nil {
				v.ControlPlane = s.Version
			}
			if in, err := a.inCluster(); err == nil && in {
				if all, _, err := c.Proxies(cmd.Context()); err == nil {
					for _, p := range all {
						if program, version, ok := strings.Cut(p.Version, " "); ok && program == "weir-proxy" {
							v.Proxies[version]++
						}
					}
				}
			}
		}
		if output.value != asTable {
			return a.out.emit(output.value, v)
		}
		t := newTable("PROGRAM", "VERSION", "RUNNING")
		t.add(text("weir"), text(v.Client), text("this one"))
		if v.ControlPlane != "" {
			t.add(text("weir-control"), versionCell(v.ControlPlane, v.Client), text("control plane"))
		}
		for _, version := range slices.Sorted(maps.Keys(v.Proxies)) {
			t.add(text("weir-proxy"), versionCell(version, v.Client), text(proxies(v.Proxies[version])))
		}
		a.out.print(t)
		if v.ControlPlane == "" && len(v.Proxies) == 0 {
			a.errs.printf("no mesh is running here\n")
		}
		return nil
	}
	return cmd
}

// versionCell marks a version that is not the client's.
func versionCell(version, client string) cell {
	if version != client {
		return cell{version, yellow}
	}
	return text(version)
}

func proxies(n int) string {
	if n == 1 {
		return "1 proxy"
	}
	return count(n, "proxy")
}

// proxyVersions asks all proxies at once; those that do not answer are left out.
func (a *app) proxyVersions(ctx context.Context) map[string]int {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	var mu sync.Mutex
	var wg sync.WaitGroup
	out := map[string]int{}
	for _, name := range a.proxyNames() {
		wg.Go(func() {
			resp, err := askProxy(ctx, a.adminSocket(name), http.MethodGet, "/server_info")
			if err != nil {
				return
			}
			defer func() { _ = resp.Body.Close() }()
			var info struct {
				Version string `json:"version"`
			}
			const limit = 1 << 20
			if json.NewDecoder(io.LimitReader(resp.Body, limit)).Decode(&info) != nil || info.Version == "" {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			out[info.Version]++
		})
	}
	wg.Wait()
	return out
}
