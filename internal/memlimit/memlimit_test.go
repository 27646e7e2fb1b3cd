package memlimit_test

import (
	"testing"
	"testing/fstest"

	"github.com/weirmesh/weir/internal/memlimit"
)

// The smallest limit of all groups counts, in both versions of control groups, and in a
// container that sees its own group as the root.
func TestCgroup(t *testing.T) {
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
		root := fstest.MapFS{}
		for name, text := range c.files {
			root[name] = &fstest.MapFile{Data: []byte(text)}
		}
		if limit, ok := memlimit.Cgroup(root); limit != c.limit || ok != c.ok {
			t.Errorf("%s: %d, %v, want %d, %v", c.name, limit, ok, c.limit, c.ok)
		}
	}
}
