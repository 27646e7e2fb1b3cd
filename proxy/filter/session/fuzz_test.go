package session

import (
	"encoding/base64"
	"net/netip"
	"testing"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/http/message"
)

// What this filter writes it reads, until it expires; anything else that clients send is an address, or nothing.
func FuzzValue(f *testing.F) {
	for _, v := range []string{"", "Cg0xMC4yLjAuMTE6ODAwMDAQ", "MTAuMi4wLjE6ODA=", "CgsxMC4yLjAuMTo4MBD///////////8B", "Cv8=", "====", "CgBmZTgwOjoxJWV0aDA="} {
		f.Add(v, true, int64(1_800_000_000))
		f.Add(v, false, int64(0))
	}
	f.Fuzz(func(t *testing.T, v string, expires bool, now int64) {
		var a message.Arena
		m := decoded(&a, []byte(v))
		addr, ok := fromCookie(m, expires, now)
		if _, plain := parse(m); plain && expires && ok {
			t.Errorf("%q: %v although nothing says when it expires", v, addr)
		}
		if !ok || addr.Addr().Zone() != "" || now <= 0 {
			return
		}
		e := &cluster.Endpoint{Addr: addr}
		for until, want := range map[int64]bool{0: !expires, now: true, now - 1: now-1 == 0 && !expires} {
			b := appendCookie(nil, e, until)
			if len(b) > maxValue {
				t.Fatalf("%v: %d bytes", addr, len(b))
			}
			if again, ok := fromCookie(decoded(&a, b), expires, now); ok != want || ok && again != addr {
				t.Errorf("%v until %d, asked at %d: %v %v", addr, until, now, again, ok)
			}
		}
		if again, ok := parse(decoded(&a, appendHeader(nil, e))); !ok || again != addr {
			t.Errorf("%v: %v", addr, again)
		}
	})
}

// The value is that of Envoy's message of address and expiry.
func TestValue(t *testing.T) {
	e := &cluster.Endpoint{Addr: netip.MustParseAddrPort("10.2.0.1:80")}
	if got, want := string(appendCookie(nil, e, 300)), base64.StdEncoding.EncodeToString([]byte("\n\x0b10.2.0.1:80\x10\xac\x02")); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
