package cli

import (
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"testing"
)

// Every command pays for what the program is linked with before main begins: a validator of
// JSON schemas made `weir apply` half as dear again (2026-11). What is counted is allocations,
// which are the same on every machine, those of this test's own libraries included, but for a stand-in for a cluster.
func TestCommandsBeginWithLittle(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^$")
	cmd.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// As measured, and a fifth. Of 25,300 in weir 10,900 were there before it knew clusters, most of them
	// protobuf's; 5,700 are the scheme of client-go, which Helm's engine needs, too.
	const most = 32_000
	allocations := regexp.MustCompile(`(?m)^init (\S+) .*, ([0-9]+) allocs$`)
	n := 0
	for _, m := range allocations.FindAllStringSubmatch(string(out), -1) {
		if m[1] == "k8s.io/client-go/kubernetes/fake" { // 2,750: other tests of this package need it, weir does not have it
			continue
		}
		x, _ := strconv.Atoi(m[2])
		n += x
	}
	t.Logf("%d allocations before main", n)
	if n == 0 || n > most {
		t.Errorf("%d allocations before main, at most %d are meant: GODEBUG=inittrace=1 says which package makes them", n, most)
	}
}
