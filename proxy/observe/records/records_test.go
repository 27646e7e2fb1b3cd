package records

import (
	"fmt"
	"net/netip"
	"testing"
	"time"
	"unsafe"

	"github.com/weirmesh/weir/api/causes"
)

// The newest failures stay, the newest first, in the room that was promised.
func TestRing(t *testing.T) {
	r := New(4)
	if len(r.failed.pieces) != 0 || len(r.well.pieces) != 0 {
		t.Error("an idle worker holds records")
	}
	for i := range 1000 {
		c := r.Failed()
		if c.Attempts != 0 {
			t.Fatal("a record begins with somebody else's")
		}
		c.Set(ID, fmt.Appendf(nil, "id-%d", i))
		c.Attempts = 1
	}
	if n := len(r.failed.pieces) * mostPiece; n != keptFailed/4 {
		t.Errorf("%d records, want %d", n, keptFailed/4)
	}
	last := r.LastFailed(3)
	if len(last) != 3 || last[0].Text(ID) != "id-999" || last[2].Text(ID) != "id-997" {
		t.Errorf("%v", last)
	}
	if all := r.LastFailed(1 << 20); len(all) != keptFailed/4 {
		t.Errorf("%d in all", len(all))
	}
	r.Failed().Client = AddrOf(netip.MustParseAddrPort("10.0.0.1:4000"))
	if f := r.Find("10.0.0.1:4000", 5); len(f) != 1 {
		t.Errorf("by address: %v", f)
	}
	if f := r.Find("id-900", 5); len(f) != 1 || r.Find("id-1", 5) != nil || r.Find("", 5) != nil {
		t.Errorf("%v", f)
	}
}

// However many workers there are, all of them together hold no more than 2 MB, and each holds something of everything.
func TestRoomOfAProcess(t *testing.T) {
	for _, workers := range []int{1, 2, 3, 16, 24, 64, 128} {
		bytes := uintptr(0)
		for range workers {
			r := New(workers)
			for range 2 * keptFailed {
				r.Failed()
				r.Well(slow)
			}
			for i := range 2 * keptRefused {
				if r.Refused(causes.DownstreamTLSFailed, time.Unix(int64(i), 0)) == nil {
					t.Fatal("a refusal a second is too many")
				}
			}
			for _, g := range []*ring{&r.failed, &r.well, &r.refused} {
				if g.size == 0 || len(g.last(1)) == 0 {
					t.Fatalf("of %d workers one keeps nothing", workers)
				}
				for _, p := range g.pieces {
					bytes += unsafe.Sizeof(Record{})*uintptr(len(p.records)) + unsafe.Sizeof([MostTries]Attempt{})*uintptr(len(p.tries))
				}
			}
		}
		if bytes > 2<<20 || bytes < 1<<20 {
			t.Errorf("%d workers hold %d bytes", workers, bytes)
		}
	}
}

// Of what goes well one in 64 is kept, and what was slow.
func TestSample(t *testing.T) {
	r := New(1)
	kept := 0
	for range 10 * sample {
		if r.Well(time.Millisecond) != nil {
			kept++
		}
	}
	if kept != 10 {
		t.Errorf("%d of %d", kept, 10*sample)
	}
	if r.Well(2*slow) == nil {
		t.Error("a slow one is not kept")
	}
}

// What is too long is cut, and still found; addresses keep what identifies them.
func TestRoom(t *testing.T) {
	var x Record
	long := fmt.Sprintf("%0100d", 7)
	for i := range texts {
		x.Set(i, []byte(long))
	}
	for i := range texts {
		if x.Text(i) != long[:longest] || !x.is(i, long) || x.is(i, "1"+long) || x.is(i, "") {
			t.Errorf("%q", x.Text(i))
		}
	}
	for _, s := range []string{"10.0.0.1:80", "[2001:db8::1]:443", "[::ffff:10.0.0.1]:80"} {
		if got, want := AddrOf(netip.MustParseAddrPort(s)).String(), netip.AddrPortFrom(netip.MustParseAddrPort(s).Addr().Unmap(), netip.MustParseAddrPort(s).Port()).String(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	if s := AddrOf(netip.AddrPort{}).String(); s != "" {
		t.Errorf("no address is %q", s)
	}
}

// After the first round nothing is allocated.
func TestNoGarbage(t *testing.T) {
	r := New(1)
	id := []byte("0c7cd0b4-3f21-4d2b-9a55-5f0b7cfe5e21")
	one := func() {
		r.Failed().Set(ID, id)
		r.Well(slow).Set(ID, id)
	}
	for range keptFailed {
		one()
	}
	if n := testing.AllocsPerRun(1000, one); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
