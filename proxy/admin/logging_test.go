package admin

import (
	"context"
	"log/slog"
	"net"
	"strings"
	"testing"
)

// The log's level is said and changed in Envoy's words; what is refused changes nothing.
func TestLogging(t *testing.T) {
	at := new(slog.LevelVar)
	o := Options{Proxy: &fake{}, Level: NewLevel(at, slog.New(slog.DiscardHandler)), Log: slog.New(slog.DiscardHandler)}
	call := start(t, func(ctx context.Context, l net.Listener) error { return Serve(ctx, l, o) })
	for _, c := range []struct {
		query  string
		status int
		want   string
		level  slog.Level
	}{
		{"", 200, "active loggers:\n  weir: info\n\n", slog.LevelInfo},
		{"?level=debug", 200, "active loggers:\n  weir: debug\n\n", slog.LevelDebug},
		{"?level=trace", 200, "  weir: debug\n", slog.LevelDebug},
		{"?level=warning", 200, "  weir: warning\n", slog.LevelWarn},
		{"?level=INFO", 200, "  weir: info\n", slog.LevelInfo},
		{"?level=off", 200, "  weir: off\n", off},
		{"?weir=error", 200, "  weir: error\n", slog.LevelError},
		{"?paths=weir:warn", 200, "  weir: warning\n", slog.LevelWarn},
		{"?paths=*:critical", 200, "  weir: error\n", slog.LevelError},
		{"?paths=weir:info,we*:debug", 200, "  weir: debug\n", slog.LevelDebug},
		{"?level=loud", 400, `level "loud" is not one of critical, debug, error, info,`, slog.LevelDebug},
		{"?level=", 400, `level ""`, slog.LevelDebug},
		{"?rbac=debug", 400, `there is no logger "rbac": the proxy has one log, weir,`, slog.LevelDebug},
		{"?paths=weir:info,rbac:debug", 400, `there is no logger "rbac"`, slog.LevelDebug},
		{"?paths=weir", 400, `level ""`, slog.LevelDebug},
		{"?paths=[:info", 400, `there is no logger "["`, slog.LevelDebug},
		{"?level=info&for=25h", 400, `for="25h" is not how long a level lasts, up to 24h0m0s`, slog.LevelDebug},
		{"?level=info&for=soon", 400, `for="soon"`, slog.LevelDebug},
		{"?level=error&for=10m", 200, ", then info\n", slog.LevelError},
		{"?reset", 200, "  weir: info\n", slog.LevelInfo},
		{"?level=debug", 200, "  weir: debug\n", slog.LevelDebug},
		{"?paths=%zz", 400, "invalid URL escape", slog.LevelDebug},
	} {
		status, body := call("POST", "/logging"+c.query, "")
		if status != c.status || !strings.Contains(body, c.want) || at.Level() != c.level {
			t.Errorf("%s: %d %q and %v, want %d %q and %v", c.query, status, body, at.Level(), c.status, c.want, c.level)
		}
	}
	if status, body := call("GET", "/logging", ""); status != 200 || body != "debug\n" {
		t.Errorf("%d %q", status, body)
	}
}
