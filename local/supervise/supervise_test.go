package supervise

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// program is a Process in virtual time.
type program struct {
	ends    chan error
	deaf    bool // ignores SIGTERM
	signals []os.Signal
}

func (p *program) Wait() error { return <-p.ends }
func (p *program) Pid() int    { return 42 }
func (p *program) Signal(s os.Signal) error {
	p.signals = append(p.signals, s)
	if s == syscall.SIGKILL || !p.deaf {
		p.ends <- fmt.Errorf("signal: %v", s)
	}
	return nil
}

func lives(d time.Duration, err error) *program {
	p := &program{ends: make(chan error, 2)}
	if d >= 0 {
		time.AfterFunc(d, func() { p.ends <- err })
	}
	return p
}

// A program that crashes is started again, later each time; one that lived long enough
// starts afresh.
func TestBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		var starts []time.Duration
		began := time.Now()
		lifetimes := []time.Duration{0, 0, 0, 40 * time.Second, 0, -1}
		done := make(chan error)
		go func() {
			done <- Keep(ctx, Program{Grace: time.Second, Start: func() (Process, error) {
				starts = append(starts, time.Since(began))
				p := lives(lifetimes[0], errors.New("exit status 3"))
				lifetimes = lifetimes[1:]
				return p, nil
			}})
		}()
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		ms := time.Millisecond
		want := []time.Duration{0, 200 * ms, 600 * ms, 1400 * ms, 41600 * ms, 42000 * ms}
		if d := cmp.Diff(want, starts); d != "" {
			t.Errorf("starts at (-want +got):\n%s", d)
		}
	})
}

// Stopping asks first and kills after the grace period; nothing is started afterwards.
func TestStop(t *testing.T) {
	for _, c := range []struct {
		name string
		deaf bool
		took time.Duration
		want []os.Signal
	}{
		{"a program that listens", false, 0, []os.Signal{syscall.SIGTERM}},
		{"a program that does not", true, 2 * time.Second, []os.Signal{syscall.SIGTERM, syscall.SIGKILL}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(context.Background())
				p := lives(-1, nil)
				p.deaf = c.deaf
				var phases []Phase
				done := make(chan error)
				go func() {
					done <- Keep(ctx, Program{Grace: 2 * time.Second, Start: func() (Process, error) { return p, nil },
						Changed: func(s State) { phases = append(phases, s.Phase) }})
				}()
				synctest.Wait()
				began := time.Now()
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
				if took := time.Since(began); took != c.took {
					t.Errorf("took %v, want %v", took, c.took)
				}
				if d := cmp.Diff(c.want, p.signals, cmp.Comparer(func(a, b os.Signal) bool { return a == b })); d != "" {
					t.Error(d)
				}
				if d := cmp.Diff([]Phase{Running, Stopping, Stopped}, phases); d != "" {
					t.Error(d)
				}
			})
		})
	}
}

func TestStartFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		var last State
		n := 0
		go func() {
			_ = Keep(ctx, Program{Start: func() (Process, error) { n++; return nil, errors.New("no such file") }, Changed: func(s State) { last = s }})
		}()
		time.Sleep(time.Second)
		synctest.Wait()
		if last.Phase != BackingOff || last.Last != "could not be started: no such file" || n != 3 || last.Restarts != 3 {
			t.Errorf("after a second: %+v, %d starts", last, n)
		}
		cancel()
		synctest.Wait()
		if last.Phase != Stopped {
			t.Errorf("%+v", last)
		}
	})
}

func TestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		want := errors.New("exit status 7")
		err := Keep(context.Background(), Program{Once: true, Start: func() (Process, error) { return lives(time.Second, want), nil }})
		if !errors.Is(err, want) {
			t.Errorf("%v", err)
		}
	})
}

// Output is shown in whole lines with its source; long and unfinished lines, carriage
// returns and quiet sources are handled.
func TestLogs(t *testing.T) {
	var out bytes.Buffer
	l := NewLogs(&out, false)
	a, b, q := l.Source("reviews", false), l.Source("ratings-v1", false), l.Source("proxy", true)
	fmt.Fprint(a, "one\ntw")
	fmt.Fprint(b, "x\r\n")
	fmt.Fprint(a, "o\n\n")
	fmt.Fprint(q, "hidden\n")
	fmt.Fprint(b, strings.Repeat("y", maxLine+1)+"\n")
	want := "reviews    | one\nratings-v1 | x\nreviews    | two\nreviews    | \nratings-v1 | " + strings.Repeat("y", maxLine+1) + "\n"
	if d := cmp.Diff(want, out.String()); d != "" {
		t.Errorf("(-want +got):\n%.500s", d)
	}
	if got, ok := l.Tail("proxy", -1); !ok || len(got) != 1 || got[0] != "hidden" {
		t.Errorf("a quiet source is kept: %v %v", got, ok)
	}
	if _, ok := l.Tail("nobody", 1); ok {
		t.Error("an unknown source")
	}
	for i := range historyLines + 5 {
		fmt.Fprintf(q, "%d\n", i)
	}
	if got, _ := l.Tail("proxy", 2); len(got) != 2 || got[1] != fmt.Sprint(historyLines+4) {
		t.Errorf("tail %v", got)
	}
	if got, _ := l.Tail("proxy", -1); len(got) != historyLines || got[0] != "5" {
		t.Errorf("history has %d lines from %s", len(got), got[0])
	}
}

// An endless line without a newline is cut, not collected.
func TestEndlessLine(t *testing.T) {
	var out bytes.Buffer
	w := NewLogs(&out, false).Source("a", false)
	for range 10 {
		fmt.Fprint(w, strings.Repeat("z", maxLine/2))
	}
	if n := strings.Count(out.String(), "\n"); n != 5 {
		t.Errorf("%d lines, want 5", n)
	}
}

func TestFollow(t *testing.T) {
	l := NewLogs(&bytes.Buffer{}, true)
	w := l.Source("a", false)
	fmt.Fprint(w, "old\n")
	before, lines, stop := l.Follow("a", 10)
	if len(before) != 1 || before[0] != "old" {
		t.Errorf("before: %v", before)
	}
	for i := range followBuffer + 3 {
		fmt.Fprintf(w, "%d\n", i)
	}
	for i := range followBuffer {
		if got := <-lines; got != fmt.Sprint(i) {
			t.Fatalf("line %d: %q", i, got)
		}
	}
	fmt.Fprint(w, "end\n")
	if got := <-lines; got != "(3 lines left out: the reader was too slow)" {
		t.Errorf("%q", got)
	}
	if got := <-lines; got != "end" {
		t.Errorf("%q", got)
	}
	stop()
	fmt.Fprint(w, "after\n")
	if len(lines) != 0 {
		t.Error("a stopped follower gets nothing")
	}
}
