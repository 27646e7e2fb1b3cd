package hosts

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// What may be asked for: names of DNS that the pattern covers, whatever form clients give them; never an address.
func TestAppendName(t *testing.T) {
	for _, c := range []struct{ authority, pattern, want string }{
		{"a.wild.example", "*.wild.example", "a.wild.example"},
		{"A.Wild.Example.:8080", "*.wild.example", "a.wild.example"},
		{"a.b.wild.example", "*.wild.example", "a.b.wild.example"},
		{"_srv.x-y.wild.example", "*.wild.example", "_srv.x-y.wild.example"},
		{"wild.example", "*.wild.example", ""},
		{".wild.example", "*.wild.example", ""},
		{"a..wild.example", "*.wild.example", ""},
		{"-a.wild.example", "*.wild.example", ""},
		{"a-.wild.example", "*.wild.example", ""},
		{"a.wild.example.evil", "*.wild.example", ""},
		{"awild.example", "*.wild.example", ""},
		{"evil@a.wild.example", "*.wild.example", ""},
		{"a.wild.example:80:90", "*.wild.example", ""},
		{"a.wild.example:", "*.wild.example", ""},
		{"a.wild.example:x", "*.wild.example", ""},
		{"a.wild.example\x00", "*.wild.example", ""},
		{"a/b.wild.example", "*.wild.example", ""},
		{"127.0.0.1", "*.0.1", ""},
		{"127.0.0.0x1", "*.0x1", ""},
		{"[::1]:80", "*", ""},
		{"", "*.wild.example", ""},
		{".", "*.wild.example", ""},
		{"xn--e1a.wild.example", "*.wild.example", "xn--e1a.wild.example"},
		{"é.wild.example", "*.wild.example", ""},
	} {
		got, ok := AppendName(nil, []byte(c.authority), c.pattern)
		if ok != (c.want != "") || ok && string(got) != c.want {
			t.Errorf("%q of %s: %q, %v; want %q", c.authority, c.pattern, got, ok, c.want)
		}
	}
}

// Answers that lead to this machine, its link or many are none, in any disguise.
func TestForeign(t *testing.T) {
	for a, want := range map[string]bool{
		"192.0.2.1": true, "10.1.2.3": true, "2001:db8::1": true, "fd00::1": true, "64:ff9b::c000:201": true, "2002:c000:201::1": true,
		"127.0.0.1": false, "127.9.9.9": false, "::1": false, "0.0.0.0": false, "0.1.2.3": false, "::": false, "169.254.169.254": false, "fe80::1": false,
		"224.0.0.1": false, "ff02::1": false, "255.255.255.255": false, "::ffff:127.0.0.1": false, "64:ff9b::7f00:1": false, "64:ff9b::a9fe:a9fe": false, "2002:7f00:1::": false,
	} {
		if Foreign(netip.MustParseAddr(a)) != want {
			t.Errorf("%s: want %v", a, want)
		}
	}
}

// names is a name server that a test writes.
type names struct {
	addrs map[string][]netip.Addr
	mu    sync.Mutex // of what follows: several are asked at once
	asked []string
}

func (n *names) find(_ context.Context, name string) ([]netip.Addr, error) {
	n.mu.Lock()
	n.asked = append(n.asked, name)
	n.mu.Unlock()
	if a := n.addrs[name]; a != nil {
		return a, nil
	}
	return nil, errors.New("no such host")
}

func addrs(s ...string) (out []netip.Addr) {
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

// started runs Hosts over n until the test ends.
func started(t *testing.T, n *names) *Hosts {
	h := New(Options{Find: n.find})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return h
}

// The life of a name: asked for once, however many call; fresh; renewed while it serves; kept while its name server fails; forgotten.
func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &names{addrs: map[string][]netip.Addr{"a.example": addrs("192.0.2.1", "::ffff:192.0.2.1", "127.0.0.1", "2001:db8::1")}}
		h := started(t, n)
		check := func(when string, wait bool, asked int, want ...string) {
			t.Helper()
			e, w := h.Find([]byte("a.example"))
			synctest.Wait()
			if e == nil || w != wait || len(n.asked) != asked || !wait && fmt.Sprint(e.Addrs) != fmt.Sprint(addrs(want...)) {
				t.Fatalf("%s: %+v, wait %v, asked %d times", when, e, w, len(n.asked))
			}
		}
		check("at first", true, 1)
		check("then", false, 1, "192.0.2.1", "2001:db8::1")
		n.addrs["a.example"] = addrs("192.0.2.2")
		time.Sleep(Fresh - time.Millisecond)
		check("fresh", false, 1, "192.0.2.1", "2001:db8::1")
		time.Sleep(time.Millisecond)
		check("not so", false, 2, "192.0.2.1", "2001:db8::1")
		check("renewed", false, 2, "192.0.2.2")
		delete(n.addrs, "a.example")
		time.Sleep(Fresh)
		check("cannot be renewed", false, 3, "192.0.2.2")
		check("is asked for again", false, 4, "192.0.2.2")
		time.Sleep(Kept - Fresh)
		check("is over", true, 5)
		check("has failed", false, 5)
		if e, _ := h.Find([]byte("a.example")); e.Err == nil {
			t.Error("without a reason")
		}
		time.Sleep(Failed)
		n.addrs["a.example"] = addrs("169.254.169.254")
		check("is tried again", true, 6)
		if e, _ := h.Find([]byte("a.example")); !errors.Is(e.Err, ErrAddress) {
			t.Errorf("a link-local answer: %+v", e)
		}
		time.Sleep(2 * Kept)
		synctest.Wait()
		if _, known := h.Stats(); known != 0 {
			t.Errorf("%d names are known", known)
		}
	})
}

// An answer that leads home takes the place of a good one at once.
func TestRebinding(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &names{addrs: map[string][]netip.Addr{"a.example": addrs("192.0.2.1")}}
		h := started(t, n)
		h.Find([]byte("a.example"))
		synctest.Wait()
		n.addrs["a.example"] = addrs("127.0.0.1")
		time.Sleep(Fresh)
		h.Find([]byte("a.example"))
		synctest.Wait()
		if e, wait := h.Find([]byte("a.example")); wait || e.Addrs != nil || !errors.Is(e.Err, ErrAddress) {
			t.Errorf("%+v", e)
		}
	})
}

// Names are bounded: those in use stay, and one that was not used for a while makes room.
func TestBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := started(t, &names{})
		name := func(i int) []byte { return fmt.Appendf(nil, "n%d.example", i) }
		for i := range MaxNames {
			if e, _ := h.Find(name(i)); e == nil {
				t.Fatalf("name %d has no room", i)
			}
		}
		synctest.Wait()
		if e, _ := h.Find(name(MaxNames)); e != nil {
			t.Error("one too many")
		}
		time.Sleep(spare)
		h.Find(name(0))
		synctest.Wait()
		if e, _ := h.Find(name(MaxNames)); e == nil {
			t.Error("nobody leaves")
		}
		synctest.Wait()
		if s, known := h.Stats(); known != MaxNames || s.Overflow != 1 {
			t.Errorf("%d names, %+v", known, s)
		}
	})
}

// What is known costs nothing to find.
func TestFindAllocatesNothing(t *testing.T) {
	n := &names{addrs: map[string][]netip.Addr{"a.example": addrs("192.0.2.1")}}
	h := New(Options{Find: n.find})
	h.Find([]byte("a.example"))
	e := h.next()
	h.answered(e, n.addrs["a.example"], nil, time.Now())
	var buf [maxName]byte
	authority := []byte("A.example:80")
	if got := testing.AllocsPerRun(100, func() {
		name, ok := AppendName(buf[:0], authority, "*.example")
		if e, wait := h.Find(name); !ok || wait || len(e.Addrs) != 1 {
			t.Fatal(e)
		}
	}); got != 0 {
		t.Errorf("%v allocations", got)
	}
}

// Whatever a client says, what is asked for is a name of DNS under the pattern, and says the same if it is said again.
func FuzzAppendName(f *testing.F) {
	for _, s := range []string{"a.wild.example", "A.wild.example.:80", "[::1]:80", "127.0.0.1", "a..wild.example", "\xff.wild.example"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, authority []byte) {
		name, ok := AppendName([]byte("x"), authority, "*.wild.example")
		if !ok {
			if string(name) != "x" {
				t.Fatalf("%q leaves %q", authority, name)
			}
			return
		}
		name = name[1:]
		again, ok := AppendName(nil, name, "*.wild.example")
		if _, err := netip.ParseAddr(string(name)); err == nil || !ok || string(again) != string(name) || !Covers("*.wild.example", name) || len(name) > maxName {
			t.Fatalf("%q is asked for as %q, then %q", authority, name, again)
		}
	})
}
