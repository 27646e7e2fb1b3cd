package substitution

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Formats are read as Envoy reads them.
func TestParse(t *testing.T) {
	for _, c := range []struct {
		format string
		want   []Part
	}{
		{"plain", []Part{{Literal: "plain"}}},
		{"", nil},
		{"a %REQ(X-Id?:path):10% 100%% %UPSTREAM_HOST%", []Part{{Literal: "a "}, {Op: Req, Name: "REQ", Arg: "x-id", Alt: ":path", Max: 10}, {Literal: " 100% "}, {Op: UpstreamHost, Name: "UPSTREAM_HOST"}}},
		{"%START_TIME(%Y (%s.%3f))%", []Part{{Op: StartTime, Name: "START_TIME", Arg: "%Y (%s.%3f)"}}},
		{"%START_TIME()%", []Part{{Op: StartTime, Name: "START_TIME"}}},
		{"%RESPONSE_FLAGS%%RESPONSE_CODE%", []Part{{Op: ResponseFlags, Name: "RESPONSE_FLAGS"}, {Op: ResponseCode, Name: "RESPONSE_CODE"}}},
		{`"%DYNAMIC_METADATA(istio.mixer:status)%"`, []Part{{Literal: `"`}, {Op: Nothing, Name: "DYNAMIC_METADATA", Arg: "istio.mixer:status"}, {Literal: `"`}}},
	} {
		got, err := Parse(c.format)
		if d := cmp.Diff(c.want, got); d != "" || err != nil {
			t.Errorf("%q: %v (-want +got):\n%s", c.format, err, d)
		}
	}
}

// Who wrote a format that cannot be used learns what of it, and what to write instead.
func TestErrors(t *testing.T) {
	for format, want := range map[string]string{
		"50%":                      "%%",
		"50% of":                   "write %%%%",
		"%NOPE%":                   "no operator %NOPE%",
		"%REQ%":                    "needs the name of a header",
		"%REQ(a%":                  "closing parenthesis",
		"%REQ(a):x%":               "closing parenthesis",
		"%REQ(a):0%":               "closing parenthesis",
		"%BYTES_SENT:%":            "is no operator",
		"%START_TIME%%":            "begins no operator",
		"%START_TIME(%Q)%":         `"%Q"`,
		"%PROTOCOL(x)%":            "takes no argument",
		"%GRPC_STATUS(x)%":         "CAMEL_STRING",
		"%CEL(request.headers)%":   "expressions are not evaluated",
		"%TRACE_ID%":               "TRACEPARENT",
		"%QUERY_PARAM%":            "needs an argument",
		"%DYNAMIC_METADATA%":       "needs an argument",
		"%DOWNSTREAM_PEER_SERIAL%": "SHA-256",
		"% %":                      "begins no operator",
	} {
		if _, err := Parse(format); err == nil || !strings.Contains(err.Error(), strings.ReplaceAll(want, "%%", "%")) && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", format, err, want)
		}
	}
}

// What never has a value is told, once each.
func TestEmpty(t *testing.T) {
	p, err := Parse("%FILTER_STATE(a)% %REQ(b)% %DYNAMIC_METADATA(c)% %FILTER_STATE(d)%")
	if got := Empty(p); err != nil || strings.Join(got, " ") != "FILTER_STATE DYNAMIC_METADATA" {
		t.Errorf("%v %v", got, err)
	}
}

// Every operator means something, and none is both known and refused.
func TestOperators(t *testing.T) {
	used := map[Op]bool{}
	for name, k := range operators {
		if k.op == Literal || k.op >= numOps || refused[name] != "" {
			t.Errorf("%s: operator %d, refused because %q", name, k.op, refused[name])
		}
		used[k.op] = true
	}
	for _, op := range marks {
		used[op] = true
	}
	for op := Nothing; op < numOps; op++ {
		if !used[op] {
			t.Errorf("nobody can write operator %d", op)
		}
	}
}

func TestTime(t *testing.T) {
	at := time.Date(2018, 11, 5, 14, 7, 9, 77_001_000, time.FixedZone("x", 3600))
	for format, want := range map[string]string{
		"":                            "2018-11-05T13:07:09.077Z",
		"%Y/%m/%dT%H:%M:%S%z":         "2018/11/05T13:07:09+0000",
		"%s":                          "1541423229",
		"%s.%3f":                      "1541423229.077",
		"%f %6f %1f":                  "077001000 077001 0",
		"%Y-%m-%dT%H:%M:%E3SZ":        "2018-11-05T13:07:09.077Z",
		"%E4Y%ET%E6S %E*S%Ez":         "2018T09.077001 09.077001+00:00",
		"2006 %b %e %H%% (%Z, %a %j)": "2006 Nov  5 13% (UTC, Mon 309)",
	} {
		l, err := ParseTime(format)
		if got := string(l.Append(nil, at)); err != nil || got != want {
			t.Errorf("%q: %q %v, want %q", format, got, err, want)
		}
	}
	for _, bad := range []string{"%", "%Q", "%3", "%E3", "%E", "%0f"} {
		if _, err := ParseTime(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"", "%", "%%", "%REQ(a?b):3%", "%REQ(%", "a%START_TIME(%s)%b", "%A(b)c)%", "%START_TIME(%E3S)%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		parts, err := Parse(s)
		if err != nil {
			return
		}
		// What is literal alone is s without its doubled percent signs.
		if len(parts) == 1 && parts[0].Op == Literal && parts[0].Literal != strings.ReplaceAll(s, "%%", "%") {
			t.Errorf("%q became %q", s, parts[0].Literal)
		}
	})
}

// Who looks for an operator finds it in the documentation.
func TestDocumented(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "access-log.md"))
	if err != nil {
		t.Fatal(err)
	}
	for name := range operators {
		if !regexp.MustCompile("`" + name + "[`(]").Match(text) {
			t.Errorf("docs/access-log.md does not have %s", name)
		}
	}
}
