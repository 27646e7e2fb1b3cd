package causes

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every cause can be explained: a bare 503 is what operators cannot work with.
func TestCausesExplainThemselves(t *testing.T) {
	code := regexp.MustCompile(`^[a-z]+(_[a-z]+)*$`)
	seen := map[string]bool{}
	for c := range All() {
		if n := c.Name(); !code.MatchString(n) || seen[n] || n == NoCause.Name() || Word(n).Sentence() != "" {
			t.Errorf("cause %d: the name %q is no code, or somebody else's", c, n)
		}
		seen[c.Name()] = true
		if got, ok := Named(c.Name()); !ok || got != c {
			t.Errorf("%s is not found by its name", c.Name())
		}
		if c.Details() == "" || c.Sentence() == "" {
			t.Errorf("%s: details %q, sentence %q", c.Name(), c.Details(), c.Sentence())
		}
		if strings.ContainsAny(c.Details(), " \"") {
			t.Errorf("%s: details %q would break the columns of an access log", c.Name(), c.Details())
		}
		if s := c.Status(); s >= 500 && s != 500 && c.Flag() == 0 {
			t.Errorf("%s: status %d without a response flag", c.Name(), s)
		}
		if c.Remedy() == "" {
			t.Errorf("%s: no remedy", c.Name())
		}
	}
	if _, ok := Named(NoCause.Name()); ok {
		t.Error("no cause is one")
	}
}

// What stands in an access log leads to the causes it can mean.
func TestFind(t *testing.T) {
	for word, want := range map[string][]string{
		"upstream_connect_refused": {"upstream_connect_refused"},
		"Upstream_Connect_Refused": {"upstream_connect_refused"},
		"UO":                       {"upstream_overflow", "pending_overflow", "connections_overflow"},
		"uh,URX":                   {"no_healthy_upstream", "no_endpoints", "endpoints_ejected", "name_not_resolved", "destination_refused"},
		"NoHealthyUpstream":        {"no_healthy_upstream", "no_endpoints", "endpoints_ejected", "name_not_resolved", "destination_refused"},
		"cors_response":            {"cors_preflight"},
		"via_upstream":             nil,
		"URX":                      nil,
		"nonsense":                 nil,
		"":                         nil,
		"http1.two_lengths":        {"downstream_protocol_error", "request_head_too_large", "upstream_protocol_error"},
		"http2.remote_reset":       {"downstream_reset"},
		"jwt_authn_access_denied{Jwt_is_expired}":                                               {"token_refused", "token_missing", "token_expired", "token_key_unknown", "token_keys_unavailable"},
		"rbac_access_denied_matched_policy[ns[default]-policy[deny]-rule[0]]":                   {"access_denied", "not_allowed", "policy_broken"},
		"upstream_reset_before_response_started{connection_timeout|delayed_connect_error:_110}": {"upstream_connect_timeout"},
	} {
		var got []string
		for _, c := range Find(word) {
			got = append(got, c.Name())
		}
		if !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", word, got, want)
		}
	}
}

var update = flag.Bool("update", false, "rewrite docs/causes.md")

// docs/causes.md is the table.
func TestCausesAreDocumented(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Causes\n\nWhy a proxy answers a request itself, or ends a connection early. `weir why` names one of these, and `weir explain CODE` says here and there\n" +
		"what it means; it also takes the response flags and details of access logs. Who has a symptom and no cause yet begins with [troubleshooting.md](troubleshooting.md). (`go test ./api/causes -update` writes this page.)\n")
	for c := range All() {
		fmt.Fprintf(&b, "\n## %s\n\n", c.Name())
		if c.Status() != 0 {
			fmt.Fprintf(&b, "*%d* ", c.Status())
		}
		if c.Flag() != 0 {
			fmt.Fprintf(&b, "*%s* ", c.Flag())
		}
		fmt.Fprintf(&b, "`%s`\n\n%s.\n", c.Details(), upper(c.Sentence()))
		fmt.Fprintf(&b, "\nWhat to do: %s\n", ended(c.Remedy()))
	}
	for _, w := range Words() {
		fmt.Fprintf(&b, "\n## %s\n\nNo cause of a proxy's: %s\n\nWhat to do: %s\n", w, ended(w.Sentence()), ended(w.Remedy()))
	}
	b.WriteString("\n## Response flags\n\nAs in Envoy's access logs (`%RESPONSE_FLAGS%`).\n\n| flag | long | meaning |\n|---|---|---|\n")
	for f := range AnyFlag.Each() {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", f, f.Long(), f.Sentence())
	}
	const path = "../../docs/causes.md"
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != b.String() {
		t.Errorf("%s is not what the table says: run go test ./api/causes -update (%v)", path, err)
	}
}

// Every anchor that the command line and the API hand out is there.
func TestAnchors(t *testing.T) {
	data, err := os.ReadFile("../../docs/causes.md")
	if err != nil {
		t.Fatal(err)
	}
	headings := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		if h, ok := strings.CutPrefix(strings.TrimSpace(line), "## "); ok {
			headings[strings.ReplaceAll(strings.ToLower(h), " ", "-")] = true
		}
	}
	want := []string{AnyFlag.Docs()}
	for c := range All() {
		want = append(want, c.Docs())
	}
	for _, w := range Words() {
		want = append(want, w.Docs())
	}
	for _, docs := range want {
		if page, anchor, _ := strings.Cut(docs, "#"); page != Page || !headings[anchor] {
			t.Errorf("%s leads nowhere", docs)
		}
	}
}

// What `weir why` prints in the documentation is what it prints: the sentence behind a cause, and what to do.
func TestTranscriptsSayTheSame(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	told := regexp.MustCompile(`^  ([a-z]+(?:_[a-z]+)+): (.+)$`)
	stories := 0
	for _, page := range append(pages, "../../README.md") {
		data, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		fenced, remedy := false, ""
		n := 0
		for line := range strings.Lines(string(data)) {
			n++
			line = strings.TrimRight(line, "\n")
			if strings.HasPrefix(line, "```") {
				fenced, remedy = !fenced, ""
			}
			m := told.FindStringSubmatch(line)
			switch {
			case !fenced:
			case m != nil:
				if c, ok := Named(m[1]); ok {
					if stories++; m[2] != c.Sentence() {
						t.Errorf("%s:%d: %s is %q by now", page, n, c.Name(), c.Sentence())
					}
					remedy = c.Remedy()
				}
			case strings.HasPrefix(line, "  -> ") && remedy != "":
				if line != "  -> "+remedy {
					t.Errorf("%s:%d: what to do is %q by now", page, n, remedy)
				}
				remedy = ""
			}
		}
	}
	if stories < 5 {
		t.Errorf("%d stories, where are the others?", stories)
	}
}

// ended is a sentence with its full stop.
func ended(s string) string {
	if strings.HasSuffix(s, "?") {
		return s
	}
	return s + "."
}

func upper(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// What proxies say to each other is read as it was written; that a proxy of another version said something is known, too.
func TestHeard(t *testing.T) {
	for said, want := range map[string]string{
		"denied":                           "denied",
		"denied; id=r1":                    "denied",
		"upstream_connect_refused; id=a;b": "upstream_connect_refused",
		"code_of_next_year; id=r1":         "other",
		"":                                 "other",
		"Denied":                           "other",
	} {
		if got := Heard([]byte(said)).String(); got != want {
			t.Errorf("%q: %q, want %q", said, got, want)
		}
	}
	for c := range All() {
		if got := Heard([]byte(c.Name())).String(); got != c.Name() {
			t.Errorf("%s: %q", c.Name(), got)
		}
	}
	known := []byte("stream_idle_timeout_upstream; id=r1")
	if n := testing.AllocsPerRun(100, func() { Heard(known) }); n != 0 || Said(0).String() != "" {
		t.Errorf("%v allocations", n)
	}
}

func TestFlags(t *testing.T) {
	for f, want := range map[Flags]string{
		0:                             "-",
		UpstreamConnectionFailure:     "UF",
		DownstreamRemoteReset:         "DR",
		DelayInjected | FaultInjected: "DI,FI",
		UpstreamRetryLimitExceeded | UpstreamConnectionFailure: "UF,URX",
	} {
		if f.String() != want {
			t.Errorf("%d: %q, want %q", f, f, want)
		}
	}
	if len(flagTable) != 28 || UnconditionalDropOverload != 1<<27 {
		t.Errorf("%d names for flags up to %b", len(flagTable), UnconditionalDropOverload)
	}
	if got, unknown := FlagsOf([]string{"UF", "URX"}); got != UpstreamRetryLimitExceeded|UpstreamConnectionFailure || unknown != "" {
		t.Errorf("%v %q", got, unknown)
	}
	if _, unknown := FlagsOf([]string{"UF", "XX"}); unknown != "XX" {
		t.Errorf("%q", unknown)
	}
}
