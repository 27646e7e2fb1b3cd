package agent

import (
	"cmp"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func given(flags [][2]string, name string) bool {
	return slices.ContainsFunc(flags, func(f [2]string) bool { return f[0] == name })
}

// parsePairs reads a file of the downward API: lines of key="value", the value quoted as
// Go quotes (kubelet, pkg/fieldpath FormatMap).
func parsePairs(text string) (map[string]string, error) {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		k, quoted, ok := strings.Cut(line, "=")
		v, err := strconv.Unquote(quoted)
		if !ok || err != nil {
			return nil, fmt.Errorf("%q is not of the form key=\"value\"", line)
		}
		out[k] = v
	}
	return out, nil
}

// accountOf is the service account that a token says it is of, "" if it says nothing. Who
// signs it is the control plane's to find out; we only want to know what we will be called.
func accountOf(files fs.FS, token string) string {
	b, err := fs.ReadFile(files, strings.TrimPrefix(token, "/"))
	if err != nil {
		return ""
	}
	parts := strings.Split(strings.TrimSpace(string(b)), ".")
	if len(parts) != 3 {
		return ""
	}
	claims, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return ""
	}
	var c struct {
		Sub string `json:"sub"` // system:serviceaccount:<namespace>:<name>
	}
	if json.Unmarshal(claims, &c) != nil {
		return ""
	}
	rest, ok := strings.CutPrefix(c.Sub, "system:serviceaccount:")
	_, account, found := strings.Cut(rest, ":")
	if !ok || !found {
		return ""
	}
	return account
}

// parseDuration takes Go's form, which protobuf's JSON ("45s") is one of, and bare seconds.
func parseDuration(v string) (time.Duration, error) {
	d, err := time.ParseDuration(v)
	if err != nil {
		s, err2 := strconv.ParseUint(v, 10, 31)
		if err2 != nil {
			return 0, fmt.Errorf("want a duration, as 5s")
		}
		d = time.Duration(s) * time.Second
	}
	if d < 0 {
		return 0, fmt.Errorf("a duration is not negative")
	}
	return d, nil
}

func parseBool(v string) (bool, error) {
	b, err := strconv.ParseBool(v)
	if err != nil {
		return false, fmt.Errorf("want true or false")
	}
	return b, nil
}

func parsePort(v string) (int, error) {
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("want a port, 0 to 65535")
	}
	return int(n), nil
}

// levels are in Envoy's and in Istio's words.
var levels = map[string]string{"trace": "debug", "debug": "debug", "info": "info", "warning": "warn", "warn": "warn", "error": "error", "critical": "error", "fatal": "error", "off": "error", "none": "error"}

func parseLevel(v string) (string, error) {
	l := levels[strings.ToLower(v)]
	if l == "" {
		return "", fmt.Errorf("want debug, info, warn or error")
	}
	return l, nil
}

// parseScopes reads "default:info,xds:debug": the level of everything, as there is one.
func parseScopes(v string) (string, error) {
	level := ""
	for part := range strings.SplitSeq(v, ",") {
		scope, word, ok := strings.Cut(part, ":")
		if !ok {
			scope, word = "default", part
		}
		if scope != "default" && scope != "all" {
			continue
		}
		var err error
		if level, err = parseLevel(word); err != nil {
			return "", err
		}
	}
	return level, nil
}

// moreVerbose is that of two levels that says more.
func moreVerbose(a, b string) string {
	if a == "" || b == "" {
		return cmp.Or(a, b)
	}
	order := []string{"debug", "info", "warn", "error"}
	return order[min(slices.Index(order, a), slices.Index(order, b))]
}
