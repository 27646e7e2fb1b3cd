package process

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The test binary is the programs that the tests start.
func TestMain(m *testing.M) {
	switch os.Getenv("ROLE") {
	case "":
		os.Exit(m.Run())
	case "hello":
		dir, _ := os.Getwd()
		fmt.Println("out", os.Args[1:], os.Getenv("GREETING"), dir)
		fmt.Fprintln(os.Stderr, "err")
		os.Exit(3)
	case "wait": // says its pid and ends with a signal, or with standard input
		fmt.Println(os.Getpid())
		forever()
	case "family": // has a child in its group; both say their pids
		child := exec.Command(os.Args[0])
		child.Env = []string{"ROLE=wait"}
		child.Stdout = os.Stdout
		if err := child.Start(); err != nil {
			fmt.Println(err)
		}
		fmt.Println(os.Getpid())
		forever()
	case "leaves": // ends and leaves a child behind
		child := exec.Command(os.Args[0])
		child.Env = []string{"ROLE=wait"}
		if err := child.Start(); err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(child.Process.Pid)
	case "mesh": // starts a family and is to be killed
		r, w, _ := os.Pipe()
		s := NewStarter(os.Args[1])
		if _, err := s.Start(Command{Argv: []string{os.Args[0]}, Env: []string{"ROLE=family"}, Output: w}); err != nil {
			fmt.Println(err)
		}
		go func() { _, _ = io.Copy(os.Stdout, r) }()
		forever()
	case "terminated":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("ready")
		<-c
	}
}

func forever() {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGUSR2) // so that it is not taken for a deadlock
	select {}
}

func self(t *testing.T, role string, args ...string) Command {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Command{Argv: append([]string{exe}, args...), Env: []string{"ROLE=" + role}}
}

// lines hands on whole lines.
func lines(t *testing.T) (io.Writer, <-chan string) {
	t.Helper()
	r, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	out := make(chan string, 100)
	go func() {
		for s := bufio.NewScanner(r); s.Scan(); {
			out <- s.Text()
		}
	}()
	return w, out
}

func pid(t *testing.T, lines <-chan string) int {
	t.Helper()
	select {
	case s := <-lines:
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatalf("want a process id, got %q", s)
		}
		return n
	case <-time.After(10 * time.Second):
		t.Fatal("no process id after 10 s")
		return 0
	}
}

// gone waits until a process is no more, or waits to be reaped.
func gone(t *testing.T, pid int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; {
		if f, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err != nil || strings.Contains(string(f), ") Z ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still there", pid)
		}
	}
}

func TestStart(t *testing.T) {
	var out bytes.Buffer
	c := self(t, "hello", "a", "b c")
	c.Env = append(c.Env, "GREETING=first", "GREETING=hi")
	c.Dir, c.Output = "/", &out
	p, err := NewStarter("").Start(c)
	if err != nil {
		t.Fatal(err)
	}
	err = p.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("ended with %v, want status 3", err)
	}
	if want := "out [a b c] hi /\nerr\n"; out.String() != want {
		t.Errorf("output %q, want %q", out.String(), want)
	}
	if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("a signal to one that has ended: %v", err)
	}
}

func TestCannotStart(t *testing.T) {
	s := NewStarter("")
	for _, c := range []struct {
		command Command
		want    string
	}{
		{Command{}, "no command"},
		{Command{Argv: []string{"no-such-program"}, Env: []string{"PATH=/nowhere:/bin"}}, "there is no such program in PATH /nowhere:/bin"},
		{Command{Argv: []string{"/no/such/program"}}, "starting /no/such/program: no such file or directory"},
		{Command{Argv: []string{"/bin/sh"}, Dir: "/no/such/folder"}, "no such file or directory"},
	} {
		if _, err := s.Start(c.command); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, want %q", c.command.Argv, err, c.want)
		}
	}
}

func TestLookPath(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"program": 0o755, "text": 0o644} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{"PATH=/nowhere", "PATH=/bin:" + dir}
	if got, err := LookPath("program", env); err != nil || got != filepath.Join(dir, "program") {
		t.Errorf("%q, %v", got, err)
	}
	for _, name := range []string{"text", "nothing"} {
		if got, err := LookPath(name, env); err == nil {
			t.Errorf("%s: found %s", name, got)
		}
	}
}

// A signal reaches what the program started, and nothing of its group outlives it.
func TestGroup(t *testing.T) {
	for _, role := range []string{"family", "leaves"} {
		t.Run(role, func(t *testing.T) {
			w, out := lines(t)
			c := self(t, role)
			c.Output = w
			p, err := NewStarter("").Start(c)
			if err != nil {
				t.Fatal(err)
			}
			if role == "leaves" {
				gone(t, pid(t, out))
				if err := p.Wait(); err != nil {
					t.Error(err)
				}
				return
			}
			one, two := pid(t, out), pid(t, out)
			if err := p.Signal(syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
			if err := p.Wait(); err == nil {
				t.Error("ended well")
			}
			gone(t, one)
			gone(t, two)
		})
	}
}

// When the process that started everything is killed, its children die with it, and what
// they had started with the next CleanUp.
func TestCleanUp(t *testing.T) {
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("needs /proc")
	}
	record := filepath.Join(t.TempDir(), "processes")
	c := self(t, "mesh", record)
	w, out := lines(t)
	mesh := exec.Command(c.Argv[0], c.Argv[1:]...)
	mesh.Env, mesh.Stdout = c.Env, w
	if err := mesh.Start(); err != nil {
		t.Fatal(err)
	}
	one, two := pid(t, out), pid(t, out)
	if err := mesh.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = mesh.Process.Release()
	for deadline := time.Now().Add(10 * time.Second); len(Members(one))+len(Members(two)) > 1; { // the leader, by the kernel
		if time.Now().After(deadline) {
			t.Fatal("the kernel did not end the leader")
		}
	}
	if n := CleanUp(record); n != 1 {
		t.Errorf("%d groups were left, want 1", n)
	}
	gone(t, one)
	gone(t, two)
	if n := CleanUp(record); n != 0 {
		t.Errorf("%d groups left after cleaning", n)
	}
	if n := CleanUp(record + "-none"); n != 0 {
		t.Errorf("%d groups of no record", n)
	}
}

// Nobody else is killed: an id that belongs to another process by now, another boot,
// nonsense.
func TestCleanUpSparesOthers(t *testing.T) {
	w, out := lines(t)
	c := self(t, "terminated")
	c.Output = w
	record := filepath.Join(t.TempDir(), "processes")
	p, err := NewStarter(record).Start(c)
	if err != nil {
		t.Fatal(err)
	}
	<-out
	b, ok := birth(p.Pid())
	if !ok {
		t.Fatal("no birth")
	}
	if got, err := os.ReadFile(record); err != nil || string(got) != fmt.Sprintf("%d %s %s\n", p.Pid(), b.Boot, b.Start) {
		t.Errorf("record %q, %v", got, err)
	}
	for _, line := range []string{
		fmt.Sprintf("%d %s %s0", p.Pid(), b.Boot, b.Start),
		fmt.Sprintf("%d another-boot %s", p.Pid(), b.Start),
		"1 " + b.Boot + " 1", "0 a b", "-1 a b", "nonsense", "",
	} {
		if err := os.WriteFile(record, []byte(line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if n := CleanUp(record); n != 0 {
			t.Errorf("%q: killed %d", line, n)
		}
	}
	if p.Ended() {
		t.Fatal("an innocent process was killed")
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err != nil {
		t.Errorf("after SIGTERM: %v", err)
	}
}
