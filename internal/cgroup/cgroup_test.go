package cgroup_test

import (
	"testing"
	"testing/fstest"

	"github.com/weirmesh/weir/internal/cgroup"
)

// system is a file system with these files.
func system(files map[string]string) fstest.MapFS {
	root := fstest.MapFS{}
	for name, text := range files {
		root[name] = &fstest.MapFile{Data: []byte(text)}
	}
	return root
}

// The smallest limit of all groups counts, in both versions of control groups, and in a
// container that sees its own group as the root.
func TestMemory(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		limit int64
		ok    bool
	}{
		{"no control groups", nil, 0, false},
		{"version 2 in a container", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "536870912\n"}, 512 << 20, true},
		{"version 2 without a limit", map[string]string{"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/memory.max": "max\n"}, 0, false},
		{"version 2, a group above is smaller", map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.max": "100\n", "sys/fs/cgroup/a/b/memory.max": "200\n"}, 100, true},
		{"version 1", map[string]string{"proc/self/cgroup": "5:cpu,memory:/pod\n4:cpuset:/\n", "sys/fs/cgroup/memory/pod/memory.limit_in_bytes": "300\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n"}, 300, true},
		{"a path from outside the container", map[string]string{"proc/self/cgroup": "0::/kubepods/x\n", "sys/fs/cgroup/memory.max": "400\n"}, 400, true},
		{"nonsense", map[string]string{"proc/self/cgroup": "x\n::\n0::/../..\n", "sys/fs/cgroup/memory.max": "-5\n"}, 0, false},
	} {
		if limit, ok := cgroup.Memory(system(c.files)); limit != c.limit || ok != c.ok {
			t.Errorf("%s: %d, %v, want %d, %v", c.name, limit, ok, c.limit, c.ok)
		}
	}
}

// The smallest limit of all groups counts, in both versions of control groups.
func TestProcessors(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  float64
		ok    bool
	}{
		{"no control groups", nil, 0, false},
		{"version 2", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5, true},
		{"version 2 without a limit", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 0, false},
		{"a group above is smaller", map[string]string{"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "10000 100000\n", "sys/fs/cgroup/a/b/cpu.max": "200000 100000\n"}, 0.1, true},
		{"version 1", map[string]string{"proc/self/cgroup": "4:cpu,cpuacct:/pod\n3:memory:/pod\n", "sys/fs/cgroup/cpu/pod/cpu.cfs_quota_us": "200000\n",
			"sys/fs/cgroup/cpu/pod/cpu.cfs_period_us": "100000\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 2, true},
		{"nonsense", map[string]string{"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "5 0\n"}, 0, false},
	} {
		if got, ok := cgroup.Processors(system(c.files)); got != c.want || ok != c.ok {
			t.Errorf("%s: %v, %v, want %v, %v", c.name, got, ok, c.want, c.ok)
		}
	}
}
