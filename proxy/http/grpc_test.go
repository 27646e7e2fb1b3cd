package http

import (
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/route"
)

// What is no timeout asks for nothing; the longest ones do not overflow.
func TestGRPCTimeouts(t *testing.T) {
	for _, c := range []struct {
		text string
		d    time.Duration
		ok   bool
		back string // as it is sent on
	}{
		{"2S", 2 * time.Second, true, "2000m"},
		{"1m", time.Millisecond, true, "1m"},
		{"500u", 500 * time.Microsecond, true, "1m"},
		{"99999999n", 99999999, true, "99m"},
		{"3M", 3 * time.Minute, true, "180000m"},
		{"30H", 30 * time.Hour, true, "108000S"},
		{"99999999H", 2_000_000 * time.Hour, true, "2000000H"},
		{"100000000S", 0, false, ""},
		{"S", 0, false, ""},
		{"", 0, false, ""},
		{"-1S", 0, false, ""},
		{"1.5S", 0, false, ""},
		{"1s", 0, false, ""},
		{"1 S", 0, false, ""},
	} {
		d, ok := parseGRPCTimeout([]byte(c.text))
		if d != c.d || ok != c.ok {
			t.Errorf("%q: %v, %v", c.text, d, ok)
		}
		if got := string(appendGRPCTimeout(nil, d)); ok && got != c.back {
			t.Errorf("%q is sent on as %q, want %q", c.text, got, c.back)
		}
	}
}

// A request gets what it asks for, within the limit and less the way back.
func TestAskedTimeouts(t *testing.T) {
	for _, c := range []struct{ max, offset, asked, granted time.Duration }{
		{0, 0, 5, 5},
		{0, 0, 0, 0},
		{3, 0, 5, 3},
		{3, 0, 0, 3},
		{9, 2, 5, 3},
		{9, 5, 5, 5}, // nothing would be left
	} {
		a := route.Asked{Max: c.max, Offset: c.offset}
		if got := a.Grant(c.asked); got != c.granted {
			t.Errorf("%+v grants %d of %d", a, got, c.asked)
		}
	}
}
