package e2e_test

import (
	"flag"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// meshesAtOnce: a mesh mostly waits, for sockets and for files to be still, so more of them
// than processors are done sooner.
const meshesAtOnce = "4"

// TestMain also holds everything that was started to its end: control planes, proxies and
// programs leave no goroutine behind.
func TestMain(m *testing.M) {
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		if err := f.Value.Set(meshesAtOnce); err != nil {
			panic(err)
		}
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, "goroutines are left behind:", err)
			code = 1
		}
	}
	os.Exit(code)
}
