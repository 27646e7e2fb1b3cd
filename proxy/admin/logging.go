package admin

import (
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"
)

// logger is the name of the one log there is: levels are not set by component.
const logger = "weir"

// off is above everything that is said.
const off = slog.LevelError + 4

// levels are Envoy's words for those there are, and ours. There is nothing below debug, and nothing between error and off.
var levels = map[string]slog.Level{"trace": slog.LevelDebug, "debug": slog.LevelDebug, "info": slog.LevelInfo, "warning": slog.LevelWarn, "warn": slog.LevelWarn,
	"error": slog.LevelError, "critical": slog.LevelError, "off": off}

// LevelName is the word for a level.
func LevelName(l slog.Level) string {
	switch {
	case l < slog.LevelInfo:
		return "debug"
	case l < slog.LevelWarn:
		return "info"
	case l < slog.LevelError:
		return "warning"
	case l < off:
		return "error"
	}
	return "off"
}

// handleLogging answers POST /logging as Envoy does: ?level=LEVEL, ?NAME=LEVEL and ?paths=NAME:LEVEL,… change levels, and what they are is said in
// any case. A word that is wrong changes nothing. Ours are &for=10m, after which the level is the usual one again, and ?reset.
func handleLogging(at *Level) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
		if err := r.ParseForm(); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		lasts, reset := time.Duration(0), r.Form.Has("reset")
		if s := r.Form.Get("for"); s != "" {
			var err error
			if lasts, err = time.ParseDuration(s); err != nil || lasts <= 0 || lasts > longestLevel {
				http.Error(w, fmt.Sprintf("for=%.40q is not how long a level lasts, up to %v: POST /logging?level=debug&for=10m", s, longestLevel), http.StatusBadRequest)
				return
			}
		}
		r.Form.Del("for")
		r.Form.Del("reset")
		var orders [][2]string // a name, which may be a pattern, and a level
		for _, name := range slices.Sorted(maps.Keys(r.Form)) {
			for _, v := range r.Form[name] {
				switch name {
				case "level":
					orders = append(orders, [2]string{"*", v})
				case "paths":
					for p := range strings.SplitSeq(v, ",") {
						n, level, _ := strings.Cut(p, ":")
						orders = append(orders, [2]string{n, level})
					}
				default:
					orders = append(orders, [2]string{name, v})
				}
			}
		}
		level := at.now.Level()
		for _, o := range orders {
			l, known := levels[strings.ToLower(o[1])]
			switch ours, err := path.Match(o[0], logger); {
			case err != nil || !ours:
				http.Error(w, fmt.Sprintf("there is no logger %.60q: the proxy has one log, %s, and one level: POST /logging?level=debug; why requests failed is at GET /why", o[0], logger), http.StatusBadRequest)
				return
			case !known:
				http.Error(w, fmt.Sprintf("level %.40q is not one of %s: POST /logging?level=debug", o[1], strings.Join(slices.Sorted(maps.Keys(levels)), ", ")), http.StatusBadRequest)
				return
			}
			level = l
		}
		switch {
		case reset:
			at.change(at.usual, 0)
		case len(orders) > 0:
			at.change(level, lasts)
		}
		plain(w, "active loggers:\n  "+logger+": "+at.said()+"\n\n")
	}
}
