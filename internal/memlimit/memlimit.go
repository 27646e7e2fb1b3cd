// Package memlimit finds how much memory the kernel lets this process have.
//
// The files of /proc and /sys enter, a number of bytes leaves. It changes nothing and
// keeps nothing; a system without control groups has no limit.
package memlimit

import (
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// unlimited is from where on a limit of cgroup v1 is none: it writes the largest number
// of pages as bytes.
const unlimited = 1 << 62

// Cgroup is the smallest memory limit of the control groups that the process is in, of
// version 2 or 1; ok is false if there is none. root is the file system, os.DirFS("/").
func Cgroup(root fs.FS) (limit int64, ok bool) {
	list, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0, false
	}
	// Lines are "0::/path" of version 2, "N:controllers:/path" of version 1 (cgroups(7)).
	for line := range strings.Lines(string(list)) {
		_, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		controllers, group, _ := strings.Cut(rest, ":")
		mount, file := "sys/fs/cgroup", "memory.max"
		switch {
		case controllers == "":
		case strings.Contains(","+controllers+",", ",memory,"):
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		default:
			continue
		}
		// Every group above limits, too. What is outside this container's view is not there.
		for dir := path.Join("/", group); ; dir = path.Dir(dir) {
			if n, found := read(root, path.Join(mount, dir, file)); found && (!ok || n < limit) {
				limit, ok = n, true
			}
			if dir == "/" {
				break
			}
		}
	}
	return limit, ok
}

func read(root fs.FS, name string) (int64, bool) {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64) // "max" is none
	return n, err == nil && n > 0 && n < unlimited
}
