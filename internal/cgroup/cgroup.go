// Package cgroup finds how much memory and how many processors the kernel lets this
// process have.
//
// The files of /proc and /sys enter, as os.DirFS("/"); the smallest limit of the control
// groups that the process is in leaves, of version 2 or 1. It changes nothing and keeps
// nothing; a system without control groups has no limits.
package cgroup

import (
	"cmp"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// unlimited is from where on a memory limit of version 1 is none: the kernel writes the
// largest number of pages as bytes.
const unlimited = 1 << 62

// Memory is the limit of memory in bytes; ok is false if there is none.
func Memory(root fs.FS) (bytes int64, ok bool) {
	read := func(file string) func(string) (int64, bool) {
		return func(dir string) (int64, bool) {
			n, err := strconv.ParseInt(text(root, dir, file), 10, 64) // "max" is none
			return n, err == nil && n > 0 && n < unlimited
		}
	}
	return least(root, "memory", read("memory.max"), read("memory.limit_in_bytes"))
}

// Processors is the limit of CPU bandwidth in processors, often a fraction; ok is false if
// there is none.
func Processors(root fs.FS) (n float64, ok bool) {
	return least(root, "cpu", func(dir string) (float64, bool) {
		// "max 100000", or microseconds of each period.
		quota, period, _ := strings.Cut(text(root, dir, "cpu.max"), " ")
		return ratio(quota, period)
	}, func(dir string) (float64, bool) { // a quota of -1 is none
		return ratio(text(root, dir, "cpu.cfs_quota_us"), text(root, dir, "cpu.cfs_period_us"))
	})
}

// least is the smallest limit of a controller; two and one read that of a group's folder
// in version 2 and 1.
func least[N cmp.Ordered](root fs.FS, controller string, two, one func(dir string) (N, bool)) (limit N, ok bool) {
	// Lines are "0::/path" of version 2, "N:controllers:/path" of version 1 (cgroups(7)).
	for line := range strings.Lines(text(root, "proc/self", "cgroup")) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, _ := strings.Cut(rest, ":")
		mount, read := "sys/fs/cgroup", two
		switch {
		case controllers == "":
		case strings.Contains(","+controllers+",", ","+controller+","):
			mount, read = "sys/fs/cgroup/"+controller, one
		default:
			continue
		}
		// Every group above limits, too. What is outside this container's view is not there.
		for dir := path.Join("/", group); ; dir = path.Dir(dir) {
			if n, found := read(path.Join(mount, dir)); found && (!ok || n < limit) {
				limit, ok = n, true
			}
			if dir == "/" {
				break
			}
		}
	}
	return limit, ok
}

// text is what stands in a file; "" if it is not there.
func text(root fs.FS, dir, file string) string {
	b, err := fs.ReadFile(root, path.Join(dir, file))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func ratio(quota, period string) (float64, bool) {
	q, err1 := strconv.ParseInt(quota, 10, 64)
	p, err2 := strconv.ParseInt(period, 10, 64)
	if err1 != nil || err2 != nil || q <= 0 || p <= 0 {
		return 0, false
	}
	return float64(q) / float64(p), true
}
