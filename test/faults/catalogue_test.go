package faults

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/weirmesh/weir/api/causes"
)

var update = flag.Bool("update", false, "rewrite docs/faults.md")

// catalogue is all of it: what one mesh can show, then what takes another.
func catalogue(t testing.TB) []fault {
	return slices.Concat(upstreamRows(), h2Rows(), limitRows(), tlsRows(t), policyRows(t), placeRows(), patienceRows(), sidesRows(t), clientRows(), gatewayRows(t), relayRows(), tiredRows(), hopRows(t), strictRows(), outageRows(), earlyRows())
}

// docs/faults.md is the catalogue.
func TestFaultsAreDocumented(t *testing.T) {
	rows := catalogue(t)
	var b strings.Builder
	fmt.Fprintf(&b, "# Faults, and what `weir why` says\n\nEach of these %d faults is injected into a mesh by `test/faults`, with real proxies on both sides, and asked about with `weir why`. The cause is what it\n"+
		"names first, then whose proxy knows it, and the object whose field is wrong, with file and line: it is marked in the objects where the fault is injected, and an answer that names another object, field or line\n"+
		"counts as confident and wrong, whatever its cause. Beside it stands what each of the two proxies alone recorded:\n"+
		"- is an answer that was passed on ((-): one below 500 of which its proxy knows no more, kept in a sample only), nothing that there is no such proxy, or that the request never came there. (`go test ./test/faults -update` writes this page.)\n\n"+
		"| fault | injected by | cause | known by | object | the client's proxy | the server's proxy |\n|---|---|---|---|---|---|---|\n", len(rows))
	for i := range rows {
		f := &rows[i]
		cause := f.cause
		if f.unknown != "" {
			cause += "; why is not known, ask " + f.unknown
		}
		if f.stopped != "" {
			cause += "; no retry because of " + f.stopped
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s | %s | %s |\n", f.name, f.how, cause, f.at, cmp.Or(strings.Join(f.objects(), ", against "), "-"), f.client, f.server)
	}
	b.WriteString("\n## Without a row\n\nCauses that no row shows, and why:\n\n")
	for _, c := range slices.Sorted(maps.Keys(unseeded)) {
		fmt.Fprintf(&b, "- `%s`: %s.\n", c, unseeded[c])
	}
	const path = "../../docs/faults.md"
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != b.String() {
		t.Errorf("%s is not what the rows say: run go test ./test/faults -update (%v)", path, err)
	}
}

// unseeded are the causes that no row shows, and why.
var unseeded = map[string]string{
	"routes_missing":        "a listener is not opened before its routes have come, so that nobody can ask it",
	"no_own_certificate":    "a proxy is not ready, and neither calls nor is called, before it has its first certificate; a later one it keeps until the next",
	"descriptors_exhausted": "it takes the limit of open files of the process, in which all proxies of this mesh run (`proxy` TestDescriptorsUsedUp)",
	"internal_error":        "it takes a bug",
}

// Every cause has a row, or a reason why not.
func TestEveryCauseHasARow(t *testing.T) {
	shown := map[string]bool{}
	for _, f := range catalogue(t) {
		shown[f.cause], shown[f.client], shown[f.server] = true, true, true
	}
	for c := range causes.All() {
		if shown[c.Name()] == (unseeded[c.Name()] != "") {
			t.Errorf("%s: a row is %v, why not is %q", c.Name(), shown[c.Name()], unseeded[c.Name()])
		}
	}
}

// The true cause comes first, whatever goes wrong.
func TestFaults(t *testing.T) {
	var s score
	rows := catalogue(t)
	w := newWorld(t, slices.DeleteFunc(slices.Clone(rows), func(f fault) bool { return f.apart != nil }))
	for i := range rows {
		if f := &rows[i]; f.apart == nil {
			w.Run(f.slug(), func(t *testing.T) { w.run(t, f, &s) })
		} else {
			t.Run(f.slug(), func(t *testing.T) { w.run(t, f, &s) })
		}
	}
	if t.Logf("%d faults, %d right, %d confident and wrong", s.rows, s.right, s.confident); s.right*100 < s.rows*95 || s.confident*100 > s.rows {
		t.Errorf("of %d faults %d are told right, and of %d something else without a doubt", s.rows, s.right, s.confident)
	}
}
