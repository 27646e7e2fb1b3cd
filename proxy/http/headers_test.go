package http

import (
	"strconv"
	"testing"
	"time"
)

// FuzzHeaders lets a client write anything into the headers whose values are parsed: numbers, grpc-timeout, x-forwarded-for.
// What is taken is what a slower parser would take, or keeps its value when it is written again.
func FuzzHeaders(f *testing.F) {
	for _, s := range []string{"0", "599", "18446744073709551616", "99999999H", "1n", "100000000m", "+1S", "10.0.0.1, [fd00::1]:80,fe80::1%eth0", ",,", "::ffff:1.2.3.4"} {
		f.Add([]byte(s), uint16(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, small uint16) {
		n, ok := parseUint(b, 1<<40)
		want, err := strconv.ParseUint(string(b), 10, 64)
		if fits := err == nil && want <= 1<<40; ok && (!fits || n != want) || fits && len(b) <= 10 && !ok {
			t.Errorf("number %q: %d %v, want %d %v", b, n, ok, want, err)
		}
		if d, ok := parseGRPCTimeout(b); ok {
			again, ok := parseGRPCTimeout(appendGRPCTimeout(nil, d))
			if d < 0 || !ok || again > max(d, time.Millisecond) || again < d-time.Hour {
				t.Errorf("grpc-timeout %q: %v, written and read again %v %v", b, d, again, ok)
			}
		}
		if a, ok := addressFromRight(b, int(small%8)); ok && (!a.Addr().IsValid() || a.Addr().Zone() != "" || a.Addr().Is4In6()) {
			t.Errorf("address %v of %q", a, b)
		}
	})
}
