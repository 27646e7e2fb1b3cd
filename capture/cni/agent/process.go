package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/types"
)

// process is one of a pod's.
type process struct {
	proc   string // /proc of the host
	pid    int
	cgroup string
}

func (p process) namespace() string {
	return filepath.Join(p.proc, strconv.Itoa(p.pid), "ns", "net")
}

// inPod finds a pod's uid in the name of a cgroup; systemd's names have no dashes within.
var inPod = regexp.MustCompile(`pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12})`)

// podOf is the pod that a process belongs to, by the text of its file cgroup, and the
// name of the cgroup; "" if it is no pod's.
func podOf(text string) (uid types.UID, cgroup string) {
	for line := range strings.Lines(text) {
		if m := inPod.FindStringSubmatch(line); m != nil {
			parts := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
			return types.UID(strings.ReplaceAll(m[1], "_", "-")), parts[len(parts)-1]
		}
	}
	return "", ""
}

// processes finds for every pod the process that was its first: that with the cgroup nearest
// the pod's own, and of these the oldest. Containers in a container may have networks of
// their own.
func processes(proc string) (map[types.UID]process, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	out := map[types.UID]process{}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		text, err := os.ReadFile(filepath.Join(proc, e.Name(), "cgroup"))
		if err != nil {
			continue // it has ended
		}
		uid, cgroup := podOf(string(text))
		if uid == "" {
			continue
		}
		next, was := process{proc, pid, cgroup}, out[uid]
		depth := func(p process) int { return strings.Count(p.cgroup, "/") }
		if was.pid == 0 || depth(next) < depth(was) || depth(next) == depth(was) && next.pid < was.pid {
			out[uid] = next
		}
	}
	return out, nil
}

// still makes sure, once its network namespace was entered, that the process is the pod's
// and the namespace not the host's: a number may have got to another process meanwhile,
// and rules in the host's network would cut off the node.
func (p process) still(uid types.UID) error {
	text, err := os.ReadFile(filepath.Join(p.proc, strconv.Itoa(p.pid), "cgroup"))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("process %d has ended", p.pid)
	}
	if err != nil {
		return err
	}
	if is, _ := podOf(string(text)); is != uid {
		return fmt.Errorf("process %d is no longer the pod's", p.pid)
	}
	host, err := os.Stat(filepath.Join(p.proc, "1", "ns", "net"))
	if err != nil {
		return err
	}
	its, err := os.Stat(p.namespace())
	if err != nil {
		return err
	}
	if os.SameFile(host, its) {
		return fmt.Errorf("process %d is in the host's network", p.pid)
	}
	return nil
}
