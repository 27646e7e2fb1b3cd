package control

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	apiv1 "github.com/weirmesh/weir/api/v1"
	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/mesh"
)

// behindMost is how many minor versions a proxy may be behind its control plane, as is promised (docs/operations.md).
const behindMost = 2

// release is a version as it is counted: "v1.4.2", "1.4.2-3-gabc". Anything else (of a build between releases) has none.
type release struct{ major, minor int }

var releases = regexp.MustCompile(`^v?(\d{1,6})\.(\d{1,6})(?:[.\-+]|$)`)

func releaseOf(version string) (r release, ok bool) {
	m := releases.FindStringSubmatch(version)
	if m == nil {
		return release{}, false
	}
	r.major, _ = strconv.Atoi(m[1]) // six digits
	r.minor, _ = strconv.Atoi(m[2])
	return r, true
}

// unsupported says what is wrong with a proxy of one version at a control plane of another; "": nothing, or nobody knows.
func unsupported(proxy, plane string) string {
	of, ok := releaseOf(proxy)
	ours, known := releaseOf(plane)
	switch {
	case !ok || !known:
	case of.major > ours.major || of.major == ours.major && of.minor > ours.minor:
		return "newer than its control plane"
	case of.major < ours.major || ours.minor-of.minor > behindMost:
		return fmt.Sprintf("more than %d minor versions older than its control plane", behindMost)
	}
	return ""
}

// versionFindings are about proxies whose version this control plane does not support, one for those of a version.
func versionFindings(all []apiv1.ProxyStatus, plane string) (out []config.Finding) {
	byVersion := map[string][]string{}
	for _, p := range all {
		if program, version, _ := strings.Cut(p.Version, " "); program == "weir-proxy" && unsupported(version, plane) != "" {
			byVersion[version] = append(byVersion[version], p.Name)
		}
	}
	for _, version := range slices.Sorted(maps.Keys(byVersion)) {
		names := byVersion[version]
		slices.Sort(names)
		names = slices.Compact(names)
		namespace, name, _ := strings.Cut(names[0], "/")
		message := fmt.Sprintf("its proxy has version %s, which is %s (%s)", version, unsupported(version, plane), plane)
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
