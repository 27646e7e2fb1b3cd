package netns

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		if role, ok := roles[os.Args[1]]; ok {
			if err := role(os.Args[2:]); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			os.Exit(0)
		}
	}
	os.Exit(m.Run())
}

// asUsers runs test as root, if the test is, and as an unprivileged user.
func asUsers(t *testing.T, test func(t *testing.T, attr *syscall.SysProcAttr)) {
	users := map[string]*syscall.SysProcAttr{"unprivileged": {}}
	if os.Geteuid() == 0 {
		users["root"] = &syscall.SysProcAttr{}
		users["unprivileged"].Credential = &syscall.Credential{Uid: 65534, Gid: 65534}
	}
	for _, name := range []string{"root", "unprivileged"} {
		t.Run(name, func(t *testing.T) {
			attr, ok := users[name]
			if !ok {
				t.Skip("not run by root")
			}
			probe(t, attr)
			test(t, attr)
		})
	}
}

// probe skips the test if the kernel or its settings refuse what a tree needs.
func probe(t *testing.T, attr *syscall.SysProcAttr) {
	t.Helper()
	out, err := command(attr, "role-probe").CombinedOutput()
	switch {
	case err == nil:
	case strings.Contains(string(out), "no word from"):
		t.Fatalf("the probe is broken: %s", out)
	default:
		t.Skipf("no namespace trees for this user here: %s", out)
	}
}

func command(attr *syscall.SysProcAttr, args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.SysProcAttr = attr
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0") // -race: every process would take a second to exit
	return cmd
}

// top is a running top process.
type top struct {
	*exec.Cmd
	reports *bufio.Scanner
}

func startTop(t *testing.T, attr *syscall.SysProcAttr, scene string) *top {
	t.Helper()
	cmd := command(attr, "role-top", scene)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(time.Minute, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() {
		late.Stop()
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &top{cmd, bufio.NewScanner(out)}
}

func (p *top) next() (r report, err error) {
	if !p.reports.Scan() {
		return r, errors.Join(p.reports.Err(), io.EOF)
	}
	return r, json.Unmarshal(p.reports.Bytes(), &r)
}

func (p *top) standing(t *testing.T) {
	t.Helper()
	if r, err := p.next(); err != nil || r.Name != "standing" {
		t.Fatalf("got %v, %v", r, err)
	}
}

// TestTree drives a mesh of two pods with stand-in proxies: see checks for the list.
func TestTree(t *testing.T) {
	asUsers(t, func(t *testing.T, attr *syscall.SysProcAttr) {
		p := startTop(t, attr, "checks")
		n := 0
		for {
			r, err := p.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			n++
			t.Run(r.Name, func(t *testing.T) {
				if r.Log != "" {
					t.Log(r.Log)
				}
				if r.Error != "" {
					t.Error(r.Error)
				}
			})
		}
		if err := p.Wait(); err != nil || n == 0 {
			t.Errorf("%d checks, then %v", n, err)
		}
	})
}

func TestRootsTreeRunsProcessesAsAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not run by root")
	}
	probe(t, nil)
	p := startTop(t, nil, "user")
	r, err := p.next()
	if want := "65534 65533 65533\nCapEff:\t0000000000000000"; err != nil || r.Log != want {
		t.Errorf("got %q, %v, want %q", r.Log, err, want)
	}
}

func TestFailureOfTheBodyIsTopsToSee(t *testing.T) {
	asUsers(t, func(t *testing.T, attr *syscall.SysProcAttr) {
		out, err := command(attr, "role-top", "fail").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "the body failed") || !strings.Contains(string(out), "exit status 1") {
			t.Errorf("%v: %s", err, out)
		}
	})
}

func TestTermEndsTheTree(t *testing.T) {
	for _, scene := range []string{"stand", "stubborn"} {
		t.Run(scene, func(t *testing.T) {
			asUsers(t, func(t *testing.T, attr *syscall.SysProcAttr) {
				p := startTop(t, attr, scene)
				p.standing(t)
				before := tree(t, p.Process.Pid)
				begun := time.Now()
				if err := p.Process.Signal(unix.SIGTERM); err != nil {
					t.Fatal(err)
				}
				if err := p.Wait(); err != nil {
					t.Errorf("ended with %v", err)
				}
				if took := time.Since(begun); took > 2*time.Second {
					t.Errorf("took %v, want at most 2 s", took)
				} else {
					t.Logf("%d processes ended in %v", len(before), took)
				}
				if err := before.gone(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestKillLeavesNothing: no process, namespace, link or mount is left in the host when
// the top process is killed.
func TestKillLeavesNothing(t *testing.T) {
	asUsers(t, func(t *testing.T, attr *syscall.SysProcAttr) {
		links, mounts := hostLinks(t), hostMounts(t)
		p := startTop(t, attr, "stand")
		p.standing(t)
		before := tree(t, p.Process.Pid)
		// top, init, two proxies, two applications; the host, the fabric and two pods.
		if len(before) != 6 || os.Geteuid() == 0 && len(before.namespaces()) != 4 {
			t.Fatalf("the tree has %d processes and %d network namespaces: nothing is tested", len(before), len(before.namespaces()))
		}
		if got := hostLinks(t); !slices.Equal(got, links) {
			t.Errorf("links of the host while it runs: %v, before: %v", got, links)
		}
		if got := hostMounts(t); !slices.Equal(got, mounts) {
			t.Errorf("mounts of the host while it runs: %v, before: %v", got, mounts)
		}
		begun := time.Now()
		if err := p.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = p.Wait()
		if err := before.gone(); err != nil {
			t.Error(err)
		} else {
			t.Logf("%d processes and %d network namespaces gone after %v", len(before), len(before.namespaces()), time.Since(begun))
		}
		if got := hostLinks(t); !slices.Equal(got, links) {
			t.Errorf("links of the host afterwards: %v, before: %v", got, links)
		}
		if got := hostMounts(t); !slices.Equal(got, mounts) {
			t.Errorf("mounts of the host afterwards: %v, before: %v", got, mounts)
		}
	})
}

// The kernel alone does it: a stopped init cannot see the guard close.
func TestKillLeavesNothingOfAStoppedTree(t *testing.T) {
	asUsers(t, func(t *testing.T, attr *syscall.SysProcAttr) {
		p := startTop(t, attr, "stand")
		p.standing(t)
		before := tree(t, p.Process.Pid)
		for pid := range before {
			if pid != p.Process.Pid {
				if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := p.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = p.Wait()
		if err := before.gone(); err != nil {
			t.Error(err)
			for pid := range before {
				if now, ok := state(pid); ok && now.start == before[pid].start {
					_ = unix.Kill(pid, unix.SIGKILL)
				}
			}
		}
	})
}

// The second guard: init ends when it sees top's end of the guard closed, without a signal.
func TestInitEndsWithTheGuard(t *testing.T) {
	asUsers(t, func(t *testing.T, attr *syscall.SysProcAttr) {
		p := startTop(t, attr, "stand")
		p.standing(t)
		before := tree(t, p.Process.Pid)
		if err := p.Process.Signal(unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		if err := p.Wait(); err == nil {
			t.Error("top did not report that init failed")
		}
		if err := before.gone(); err != nil {
			t.Error(err)
		}
	})
}

// processTree is what a top process and its descendants were: start times tell a process
// from a later one with its id.
type processTree map[int]processState

type processState struct {
	parent int
	start  string
	netns  []string // of its threads; none if this user may not know
}

// tree lists the processes from pid down.
func tree(t *testing.T, pid int) processTree {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	all := processTree{}
	for _, e := range entries {
		if n, err := strconv.Atoi(e.Name()); err == nil {
			if s, ok := state(n); ok {
				all[n] = s
			}
		}
	}
	out := processTree{}
	for n := range all {
		for p := n; p > 1; p = all[p].parent {
			if p == pid {
				out[n] = all[n]
				break
			}
		}
	}
	return out
}

// state reads proc_pid_stat(5): the parent is field 4, the start time field 22.
func state(pid int) (s processState, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return s, false
	}
	f := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	if len(f) < 20 || f[0] == "Z" {
		return s, false
	}
	s.parent, _ = strconv.Atoi(f[1])
	s.start = f[19]
	tasks, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	for _, task := range tasks {
		if ns, err := os.Readlink(fmt.Sprintf("/proc/%d/task/%s/ns/net", pid, task.Name())); err == nil {
			s.netns = append(s.netns, ns)
		}
	}
	return s, true
}

func (t processTree) namespaces() (out []string) {
	for _, s := range t {
		out = append(out, s.netns...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// gone waits until no process of the tree is left, and nobody else in its namespaces.
func (t processTree) gone() error {
	own, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return err
	}
	inTree := func(ns string) bool { return ns != own && slices.Contains(t.namespaces(), ns) }
	var left []int
	err = eventually("everything is gone", func() bool {
		left = nil
		entries, _ := os.ReadDir("/proc")
		for _, e := range entries {
			n, err := strconv.Atoi(e.Name())
			if err != nil {
				continue
			}
			s, ok := state(n)
			if !ok {
				continue
			}
			was, known := t[n]
			if known && was.start == s.start || slices.ContainsFunc(s.netns, inTree) {
				left = append(left, n)
			}
		}
		return len(left) == 0
	})
	if err != nil {
		return fmt.Errorf("%w: processes %v", err, left)
	}
	return nil
}

// hostLinks and hostMounts list what a tree could leave, by the names it uses: others may
// change the rest of the host meanwhile.
func hostLinks(t *testing.T) (out []string) {
	t.Helper()
	links, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if n := l.Attrs().Name; n == bridgeName || strings.HasPrefix(n, "pod") || l.Type() == "veth" && strings.HasPrefix(n, podLink) {
			out = append(out, n)
		}
	}
	return out
}

func hostMounts(t *testing.T) (out []string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if at := strings.Fields(line)[4]; at == stage || strings.HasPrefix(at, "/etc/") || slices.Contains(resolverFolders, at) {
			out = append(out, at)
		}
	}
	return out
}

func TestNSSwitch(t *testing.T) {
	for _, c := range []struct{ name, conf, want string }{
		{"missing", "", "hosts: files dns\n"},
		{"systemd-resolved", "passwd: files systemd\nhosts: mymachines resolve [!UNAVAIL=return] files myhostname dns\nnetworks: files\n",
			"passwd: files systemd\nnetworks: files\nhosts: files dns\n"},
		{"no last newline", "passwd: files\n  hosts : mdns4_minimal", "passwd: files\nhosts: files dns\n"},
		{"a comment", "# hosts: are here\nhosts: dns", "# hosts: are here\nhosts: files dns\n"},
	} {
		if got := NSSwitch(c.conf); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
