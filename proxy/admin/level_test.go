package admin

import (
	"log/slog"
	"testing"
	"testing/synctest"
	"time"

	observev1 "github.com/weirmesh/weir/api/observe/v1"
)

// A level that was asked for for a while goes back to what the proxy was started with; what is said meanwhile counts instead.
func TestLevel(t *testing.T) {
	debug := &observev1.LogLevelRequest{Level: "debug", ForNano: uint64(10 * time.Minute)}
	for _, tc := range []struct {
		intention string
		then      *observev1.LogLevelRequest // 5 minutes after debug
		at5, at11 slog.Level
		stays     bool // after the second
	}{
		{"it goes back", &observev1.LogLevelRequest{}, slog.LevelDebug, slog.LevelWarn, false},
		{"another level stays", &observev1.LogLevelRequest{Level: "error"}, slog.LevelError, slog.LevelError, true},
		{"asked for again, it lasts longer", debug, slog.LevelDebug, slog.LevelDebug, false},
		{"reset is at once", &observev1.LogLevelRequest{Usual: true}, slog.LevelWarn, slog.LevelWarn, true},
		{"what is refused changes nothing", &observev1.LogLevelRequest{Level: "loud"}, slog.LevelDebug, slog.LevelWarn, false},
	} {
		t.Run(tc.intention, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				v := new(slog.LevelVar)
				v.Set(slog.LevelWarn)
				l := NewLevel(v, slog.New(slog.DiscardHandler))
				began := time.Now()
				if a := l.Ask(debug); a.GetLevel() != "debug" || a.GetUsual() != "warning" || a.GetUntilUnixNano() != uint64(began.Add(10*time.Minute).UnixNano()) {
					t.Errorf("%v", a)
				}
				time.Sleep(5 * time.Minute)
				a := l.Ask(tc.then)
				if got := v.Level(); got != tc.at5 || (a.GetUntilUnixNano() == 0) != tc.stays || (a.GetRefused() != "") != (tc.then.GetLevel() == "loud") {
					t.Errorf("after 5 min: %v, answer %v", got, a)
				}
				time.Sleep(6 * time.Minute)
				synctest.Wait()
				if got := v.Level(); got != tc.at11 {
					t.Errorf("after 11 min: %v, want %v", got, tc.at11)
				}
				l.Ask(&observev1.LogLevelRequest{Usual: true}) // no timer is left
			})
		})
	}
}
