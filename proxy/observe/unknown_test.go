package observe

import (
	"strconv"
	"strings"
	"testing"
	"time"
)

// Strangers choose the names that are kept: there is a bound, and those asked for last stay.
func TestUnknownHostsAreBounded(t *testing.T) {
	w, at := NewWorker(), time.Unix(0, 0)
	ask := func(host string) bool {
		at = at.Add(time.Second)
		return w.Unknown("t", []byte(host), at)
	}
	if !ask("often") || ask("often") {
		t.Error("a host is news once")
	}
	for i := range 10 * maxUnknown {
		ask(strconv.Itoa(i))
		if i%10 == 0 && ask("often") {
			t.Fatal("one that is asked for often was forgotten")
		}
	}
	if !ask(strings.Repeat("x", 1000)) || ask(strings.Repeat("x", 2000)) {
		t.Error("names are cut")
	}
	all := w.UnknownHosts()
	if len(all) != maxUnknown {
		t.Errorf("%d are kept", len(all))
	}
	for _, u := range all {
		if len(u.Host) > maxHost || u.Host == "often" && u.Requests != 66 {
			t.Errorf("kept: %+v", u)
		}
	}
	host := []byte("often")
	if n := testing.AllocsPerRun(10, func() { w.Unknown("t", host, at) }); n != 0 {
		t.Errorf("%v allocations for one that is known", n)
	}
}
