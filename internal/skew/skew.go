// Package skew says how far the versions of two programs may be apart.
//
// Two versions enter, a sentence leaves. It is pure.
package skew

import (
	"fmt"
	"regexp"
	"strconv"
)

// Behind is how many minor versions a proxy may be behind its control plane, as is promised (docs/operations.md).
const Behind = 2

// release is a version as it is counted: "v1.4.2", "1.4.2-dev.gabc" (the Makefile's of a build between releases). Anything else (of go build) has none.
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

// Unsupported says what is wrong with a proxy of one version at a control plane of another; "": nothing, or nobody knows.
func Unsupported(proxy, plane string) string {
	of, ok := releaseOf(proxy)
	ours, known := releaseOf(plane)
	switch {
	case !ok || !known:
	case of.major > ours.major || of.major == ours.major && of.minor > ours.minor:
		return "newer than its control plane"
	case of.major < ours.major || ours.minor-of.minor > Behind:
		return fmt.Sprintf("more than %d minor versions older than its control plane", Behind)
	}
	return ""
}
