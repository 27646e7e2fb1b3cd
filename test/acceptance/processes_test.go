//go:build linux

package acceptance_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is one of this machine.
type process struct {
	pid, parent int
	argv        []string
}

// name is that of its program.
func (p process) name() string {
	if len(p.argv) == 0 {
		return ""
	}
	return filepath.Base(p.argv[0])
}

// variable is what its environment began with.
func (p process) variable(name string) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", p.pid))
	for v := range strings.SplitSeq(string(b), "\x00") {
		if v, ok := strings.CutPrefix(v, name+"="); ok {
			return v
		}
	}
	return ""
}

// flag is the value of a flag on its command line.
func (p process) flag(name string) string {
	if i := slices.Index(p.argv, name); i >= 0 && i+1 < len(p.argv) {
		return p.argv[i+1]
	}
	return ""
}

// status is a line of /proc/PID/status.
func (p process) status(name string) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.pid))
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// cpu is what it has used.
func (p process) cpu() time.Duration {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.pid))
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond // 100 ticks a second, everywhere
}

// processes are all of this machine.
func processes() []process {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var out []process
	for _, d := range dirs {
		pid, _ := strconv.Atoi(filepath.Base(d))
		b, err := os.ReadFile(filepath.Join(d, "stat"))
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
		if f[0] == "Z" {
			continue // ended: whether somebody looked is the parent's business
		}
		parent, _ := strconv.Atoi(f[1])
		line, _ := os.ReadFile(filepath.Join(d, "cmdline"))
		out = append(out, process{pid, parent, strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")})
	}
	return out
}

// tree is weir up and everything it started.
func (m *mesh) tree() []process {
	all := processes()
	in := map[int]bool{m.cmd.Process.Pid: true}
	for grew := true; grew; {
		grew = false
		for _, p := range all {
			if in[p.parent] && !in[p.pid] {
				in[p.pid], grew = true, true
			}
		}
	}
	return slices.DeleteFunc(all, func(p process) bool { return !in[p.pid] })
}

// initProcess is the first one of the namespaces.
func (m *mesh) initProcess() process {
	m.t.Helper()
	for _, p := range m.tree() {
		if slices.Contains(p.argv, "up-init") {
			return p
		}
	}
	m.t.Fatal("there is no up-init")
	return process{}
}

// application is the one of a pod.
func (m *mesh) application(pod string) (process, error) {
	for _, p := range m.tree() {
		if name := p.name(); !strings.HasPrefix(name, "weir-proxy") && p.pid != m.cmd.Process.Pid && p.variable("HOSTNAME") == pod {
			return p, nil
		}
	}
	return process{}, fmt.Errorf("no process of %s", pod)
}

// kill sends a signal to a process.
func (p process) kill(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(p.pid, s); err != nil {
		t.Fatalf("%v to %s: %v", s, p.name(), err)
	}
}

// traces are what a mesh has in the kernel while it runs.
type traces struct {
	mesh       *mesh
	processes  []process
	namespaces map[string]bool // that this test is not in
	mounts     int
	links      []string
}

// namespaceKinds are the kinds weir makes.
var namespaceKinds = []string{"net", "mnt", "pid", "user"}

func namespacesOf(pid string) []string {
	var out []string
	for _, k := range namespaceKinds {
		if n, err := os.Readlink("/proc/" + pid + "/ns/" + k); err == nil {
			out = append(out, n)
		}
	}
	return out
}

func links() []string {
	out, _ := filepath.Glob("/sys/class/net/*")
	return out
}

func mounts() int {
	b, _ := os.ReadFile("/proc/self/mountinfo")
	return strings.Count(string(b), "\n")
}

// before is what is there without the mesh.
func before(m *mesh) *traces {
	return &traces{mesh: m, namespaces: map[string]bool{}, mounts: mounts(), links: links()}
}

// look notes what the running mesh has.
func (r *traces) look() {
	r.processes = r.mesh.tree()
	own := namespacesOf("self")
	for _, p := range r.processes {
		for _, n := range namespacesOf(strconv.Itoa(p.pid)) {
			if !slices.Contains(own, n) {
				r.namespaces[n] = true
			}
		}
	}
}

// gone waits until nothing of the mesh is left but the state folder.
func (r *traces) gone(t *testing.T, limit time.Duration) {
	t.Helper()
	wait(t, limit, "everything of the mesh is gone", func() error {
		var left []error
		for _, p := range processes() {
			if slices.ContainsFunc(r.processes, func(o process) bool { return o.pid == p.pid && slices.Equal(o.argv, p.argv) }) {
				left = append(left, fmt.Errorf("process %d %s", p.pid, strings.Join(p.argv, " ")))
			}
			if f := strings.Join(p.argv, " "); strings.Contains(f, r.mesh.dir+"/") {
				left = append(left, fmt.Errorf("process %d %s", p.pid, f))
			}
			for _, n := range namespacesOf(strconv.Itoa(p.pid)) {
				if r.namespaces[n] {
					left = append(left, fmt.Errorf("namespace %s of process %d", n, p.pid))
				}
			}
		}
		b, _ := os.ReadFile("/proc/self/mountinfo")
		if strings.Contains(string(b), r.mesh.dir) || strings.Contains(string(b), "nsfs") && mounts() > r.mounts {
			left = append(left, errors.New("a mount"))
		}
		for _, l := range links() {
			if !slices.Contains(r.links, l) {
				left = append(left, fmt.Errorf("link %s", filepath.Base(l)))
			}
		}
		return errors.Join(left...)
	})
}
