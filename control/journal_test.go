package control

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/mesh"
)

// Whatever happens to thousands is one line.
func TestJournal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b strings.Builder // written by run, read while it waits
		j := newJournal(slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}})))
		ctx, cancel := context.WithCancel(t.Context())
		go j.run(ctx)
		after := func(d time.Duration, what string, want ...string) {
			t.Helper()
			<-time.After(d)
			synctest.Wait()
			got := strings.TrimSpace(b.String())
			b.Reset()
			if d := cmp.Diff(strings.Join(want, "\n"), got); d != "" {
				t.Errorf("%s (-want +got):\n%s", what, d)
			}
		}
		update := func(files ...string) {
			u := &store.Update{Analyzed: true}
			for _, f := range files {
				u.Findings = append(u.Findings, config.New(config.SyntaxError, mesh.Ref{File: f}, "", 7, "garbage", "write YAML"))
			}
			j.note(u)
		}
		each := func(n int, pause time.Duration, f func()) {
			for range n {
				f()
				<-time.After(pause)
			}
		}
		come, leave := func() { j.proxy(1) }, func() { j.proxy(-1) }

		<-time.After(3 * time.Second)
		update()
		after(0, "the beginning is told at once", `level=INFO msg="configuration in force" objects=0 errors=0 took=3s`)
		each(2000, time.Millisecond, come)
		after(time.Second, "a storm", `level=INFO msg="proxies came and went" connected=2000 came=2000 went=0`)
		each(3, 5*time.Second, func() { leave(); come() })
		after(0, "one by one", strings.Repeat(`level=INFO msg="proxies came and went" connected=2000 came=1 went=1`+"\n", 2)+`level=INFO msg="proxies came and went" connected=2000 came=1 went=1`)
		each(1200, 0, leave)
		after(time.Second, "most of them at once", `level=WARN msg="proxies came and went" connected=800 came=0 went=1200`)
		each(2000, 10*time.Millisecond, func() { update("a.yaml", "b.yaml") })
		after(0, "garbage that does not end", `level=WARN msg="errors in the configuration" new=2 all=2 first="a.yaml:7: garbage" code=WEIR0002 remedy="write YAML"`)
		update("b.yaml", "c.yaml")
		after(time.Second, "another one", `level=WARN msg="errors in the configuration" new=1 all=2 first="c.yaml:7: garbage" code=WEIR0002 remedy="write YAML"`)
		update("c.yaml")
		after(time.Second, "less", `level=INFO msg="errors in the configuration are gone" gone=1 all=1`)
		update("c.yaml")
		after(time.Minute, "nothing new")
		cancel()
		synctest.Wait()
	})
}
