package fault

import (
	"strconv"
	"testing"
)

// FuzzNumber: the numbers in the headers by which clients ask for faults are decimal and within their limit.
func FuzzNumber(f *testing.F) {
	for _, s := range []string{"0", "100", "-1", "999999999", "1000000000", "1 "} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 5_000_000
		n, ok := number(b, limit)
		want, err := strconv.ParseUint(string(b), 10, 64)
		if ok != (err == nil && want <= limit && len(b) <= 9) || ok && n != want {
			t.Errorf("%q: %d %v", b, n, ok)
		}
	})
}
