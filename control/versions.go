package control

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/internal/skew"
	"github.com/weirmesh/weir/mesh"
)

// versionFindings are about proxies whose version this control plane does not support, one for those of a version.
func versionFindings(all []apiv1.ProxyStatus, plane string) (out []config.Finding) {
	byVersion := map[string][]string{}
	for _, p := range all {
		if program, version, _ := strings.Cut(p.Version, " "); program == "weir-proxy" && skew.Unsupported(version, plane) != "" {
			byVersion[version] = append(byVersion[version], p.Name)
		}
	}
	for _, version := range slices.Sorted(maps.Keys(byVersion)) {
		names := byVersion[version]
		slices.Sort(names)
		names = slices.Compact(names)
		namespace, name, _ := strings.Cut(names[0], "/")
		message := fmt.Sprintf("its proxy has version %s, which is %s (%s)", version, skew.Unsupported(version, plane), plane)
		if len(names) > 1 {
			const shown = 3
			more := names[1:min(len(names), shown)]
			message += fmt.Sprintf("; so have %d others: %s", len(names)-1, strings.Join(more, ", ")+map[bool]string{true: ", …"}[len(names) > shown])
		}
		out = append(out, config.New(config.ProxyVersion, mesh.Ref{Kind: "Pod", Namespace: cmp.Or(namespace, "default"), Name: name}, "", 0, message,
			"restart the workload, so that it gets the proxy of its revision; upgrade the control plane before its proxies"))
	}
	return out
}
