package nft

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/capture"
)

// A kernel without a feature is told from one without another.
func TestMissing(t *testing.T) {
	c := capture.Default()
	c.Mode, c.DropInvalid = capture.TProxy, true
	r, err := capture.Rules(c)
	if err != nil {
		t.Fatal(err)
	}
	// lacks is a kernel that refuses chains of a type, or rules that begin with a word.
	lacks := func(typ capture.ChainType, word string) func(capture.Chain) error {
		return func(c capture.Chain) error {
			if c.Type == typ {
				return errors.New("no such chain")
			}
			for _, rule := range c.Rules {
				if word != "" && strings.HasPrefix(rule.String(), word) {
					return errors.New("no such expression")
				}
			}
			return nil
		}
	}
	for _, k := range []struct {
		name, word string
		typ        capture.ChainType
		want       []string
	}{
		{"all there", "", "", nil},
		{"no NAT", "", capture.NAT, []string{"module nft_chain_nat"}},
		{"no redirection", "redirect", "", []string{"module nft_redir"}},
		{"no TPROXY", "tproxy", "", []string{"module nft_tproxy"}},
		{"no tracking", "ct ", "", []string{"module nft_ct"}},
		{"no reject, no route", "reject", capture.Route, []string{"module nft_reject_inet", "route chains"}},
	} {
		got := missing(r, lacks(k.typ, k.word))
		if !slices.EqualFunc(got, k.want, func(g, w string) bool { return strings.Contains(g, w) }) {
			t.Errorf("%s: %q, want %q", k.name, got, k.want)
		}
	}
}

// On a kernel that has it all nothing is called missing: every statement can be tried alone.
func TestNothingMissing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("writing rules needs root")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // the thread, and its namespace, end with the goroutine
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("unshare: %w", err)
			return
		}
		c := capture.Default()
		c.Mode, c.DropInvalid = capture.TProxy, true
		r, err := capture.Rules(c)
		if lacking := missing(r, try); err == nil && len(lacking) > 0 {
			err = fmt.Errorf("missing %q", lacking)
		}
		done <- err
	}()
	if err := <-done; errors.Is(err, unix.EPERM) {
		t.Skip("no namespace for this user here:", err)
	} else if err != nil {
		t.Error(err)
	}
}
