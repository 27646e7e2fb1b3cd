package life

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/datadriven"
)

// What happens at the end of a pod, told as it happens. Commands:
//
//	new [last] [always] [untilzero] [termination=5s] [minimum=5s]
//	see [active=N] [called] [unknown|absent|present]
//	drain | terminate | interrupt | quit
//	for DURATION        looks every 100 ms, and tells when something is to be done
//
// If a case fails, run with -rewrite and look at the difference; only commit it if you
// understand what caused it and if it is desired.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var m *Machine
		var v View
		start := time.Unix(1_800_000_000, 0)
		now := start
		show := func(do Do) string {
			var words []string
			if do.Drain {
				words = append(words, "drain")
			}
			if do.Exit {
				words = append(words, "exit: "+do.Why)
			}
			if len(words) == 0 {
				return ""
			}
			return fmt.Sprintf("%v %s\n", now.Sub(start), strings.Join(words, ", "))
		}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "new":
				m = &Machine{Options: Options{Last: d.HasArg("last"), Always: d.HasArg("always"), UntilZero: d.HasArg("untilzero"), Termination: 5 * time.Second, Minimum: 5 * time.Second}}
				for _, a := range d.CmdArgs {
					if len(a.Vals) == 0 {
						continue
					}
					x, err := time.ParseDuration(a.Vals[0])
					if err != nil {
						d.Fatalf(t, "%v", err)
					}
					if a.Key == "termination" {
						m.Termination = x
					} else {
						m.Minimum = x
					}
				}
				v, now = View{}, start
				return ""
			case "see":
				v = View{Called: d.HasArg("called")}
				for _, a := range d.CmdArgs {
					if i := slices.Index([]string{"unknown", "absent", "present"}, a.Key); i >= 0 {
						v.Application = Application(i)
					}
				}
				d.MaybeScanArgs(t, "active", &v.Active)
				return show(m.Step(now, Look, v))
			case "for":
				by, err := time.ParseDuration(d.CmdArgs[0].Key)
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				out := ""
				for end := now.Add(by); now.Before(end); {
					now = now.Add(often)
					out += show(m.Step(now, Look, v))
				}
				return out
			}
			for e := Look; e <= Quit; e++ {
				if e.String() == d.Cmd {
					return show(m.Step(now, e, v))
				}
			}
			d.Fatalf(t, "unknown command %s", d.Cmd)
			return ""
		})
	})
}

// A rollout: the endpoint leaves the callers' configuration before SIGTERM or after it,
// and the application takes its time. Nobody may find that the proxy has gone who still
// calls, and the pod must not hang about.
func TestNobodyCallsWhoIsGone(t *testing.T) {
	second := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
	start := time.Unix(1_800_000_000, 0)
	for _, last := range []bool{true, false} {
		for _, removed := range []float64{-2, -0.5, 0, 0.3, 1, 3, 4.9} { // the last caller has heard of it, after the pod's end began
			for _, app := range []float64{0, 0.1, 2, 20} { // the application is gone
				name := fmt.Sprintf("native %v, callers leave at %v s, the application at %v s", last, removed, app)
				m := &Machine{Options: Options{Last: last, Termination: 5 * time.Second, Minimum: 5 * time.Second}}
				asked, exited := time.Duration(-1), time.Duration(-1)
				for at := second(-3); at < second(60); at += often {
					v := View{Called: true, Application: Absent}
					if at < second(app) {
						v.Application = Present
					}
					if at < second(removed) && at%(4*often) == 0 {
						v.Active = 1
					}
					e := Look
					switch terminate := at == 0; {
					case last && at == 0: // the preStop hook, when the end of the pod begins
						e = Drain
					case last && at == second(app)+often, !last && terminate:
						e = Terminate
					}
					do := m.Step(start.Add(at), e, v)
					if do.Drain {
						asked = at
					}
					if do.Exit {
						exited = at
						break
					}
				}
				switch latest := max(second(app)+often, 0) + 5*time.Second + often; {
				case asked != 0:
					t.Errorf("%s: clients were asked to go at %v", name, asked)
				case exited < second(app):
					t.Errorf("%s: exit at %v, before the application", name, exited)
				case exited < second(removed):
					t.Errorf("%s: exit at %v, while others call", name, exited)
				case exited > latest:
					t.Errorf("%s: exit at %v, want %v at the latest", name, exited, latest)
				}
			}
		}
	}
}

type fake struct{ drained int }

func (f *fake) DrainInbound()     { f.drained++ }
func (f *fake) Busy() (int, bool) { return 0, true }

// Run acts on what the machine says, and looks at nothing before the end.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := make(chan Event)
		looks := 0
		p := &fake{}
		done := make(chan error)
		go func() {
			done <- Run(t.Context(), Options{Last: true, Minimum: 3 * time.Second}, p, func() Application { looks++; return Absent }, events, slog.New(slog.DiscardHandler))
		}()
		time.Sleep(time.Hour)
		synctest.Wait()
		events <- Drain
		time.Sleep(2 * time.Second)
		began := time.Now()
		events <- Terminate
		if err := <-done; err != nil || p.drained != 1 || time.Since(began) != time.Second {
			t.Errorf("%v, drained %d times, ended after %v, want 1 s", err, p.drained, time.Since(began))
		}
		if looks != 0 {
			t.Errorf("looked %d times for an application that goes first", looks)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := Run(ctx, Options{}, p, nil, nil, slog.New(slog.DiscardHandler)); err != nil {
			t.Error(err)
		}
	})
}

func TestSockets(t *testing.T) {
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	line := func(uid, inode int) string {
		return fmt.Sprintf("   0: 00000000:3A9E 00000000:0000 0A 00000000:00000000 00:00000000 00000000  %d        0 %d 1 0000000000000000 100 0 0 10 0\n", uid, inode)
	}
	for _, c := range []struct {
		name, tcp, tcp6 string
		want            Application
	}{
		{"nothing to read", "", "", Unknown},
		{"none", head, head, Absent},
		{"the proxy's own", head + line(1337, 7), "", Absent},
		{"nobody's any more", head + line(0, 0), "", Absent},
		{"the application's", head + line(1337, 7) + line(1000, 8), "", Present},
		{"over IPv6", head, head + line(0, 9), Present},
		{"damaged", "x\ny z\n", "", Absent},
	} {
		files := fstest.MapFS{}
		if c.tcp != "" {
			files["proc/net/tcp"] = &fstest.MapFile{Data: []byte(c.tcp)}
		}
		if c.tcp6 != "" {
			files["proc/net/tcp6"] = &fstest.MapFile{Data: []byte(c.tcp6)}
		}
		if got := Sockets(files, 1337); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}

// To look for the application costs 9 ms of processor: a proxy that may go before it looks
// twice a second, and only at the end.
func TestRunLooksSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		events := make(chan Event)
		looks := 0
		done := make(chan error)
		go func() {
			application := func() Application {
				if looks++; looks > 10 {
					return Absent
				}
				return Present
			}
			done <- Run(t.Context(), Options{Minimum: 3 * time.Second, Termination: time.Second}, &fake{}, application, events, slog.New(slog.DiscardHandler))
		}()
		time.Sleep(time.Hour)
		synctest.Wait()
		if looks != 0 {
			t.Errorf("looked %d times before anything happened", looks)
		}
		began := time.Now()
		events <- Terminate
		if err := <-done; err != nil || time.Since(began) < 5*time.Second || time.Since(began) > 6*time.Second || looks > 13 {
			t.Errorf("%v, ended after %v with %d looks, want some 5.5 s (the application was there for 4.5) and 12", err, time.Since(began), looks)
		}
	})
}
