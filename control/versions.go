package control

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/internal/skew"
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
		message := fmt.Sprintf("its proxy has version %s, which is %s (%s)", version, skew.Unsupported(version, plane), plane)
		out = append(out, config.New(config.ProxyVersion, podRef(names[0]), "", 0, message+besides("so have", names),
			"restart the workload, so that it gets the proxy of its revision; upgrade the control plane before its proxies"))
	}
	return out
}
