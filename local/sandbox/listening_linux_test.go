package sandbox

import (
	"net/netip"
	"testing"
)

func TestParseListener(t *testing.T) {
	for _, c := range []struct {
		line, addr, inode string
	}{
		{"  0: 0100007F:2378 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0000000000000000 100 0 0 10 0", "127.0.0.1:9080", "12345"},
		{"  1: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 7 1 x", "0.0.0.0:8080", "7"},
		{"  2: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 8 1", "[::1]:80", "8"},
		{"  3: 0000000000000000FFFF00000100007F:0050 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 9 1", "127.0.0.1:80", "9"},
		{"  4: 0100007F:2378 0100007F:0001 01 00000000:00000000 00:00000000 00000000 0 0 10 1", "", ""}, // connected
		{"  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode", "", ""},
		{"  5: zz:2378 0:0 0A a b c d e f", "", ""},
		{"  6: 0100007F:12378 0:0 0A a b c d e f", "", ""},
		{"", "", ""},
	} {
		a, inode, ok := parseListener(c.line)
		want, _ := netip.ParseAddrPort(c.addr)
		if a != want || inode != c.inode || ok != (c.addr != "") {
			t.Errorf("%q: %v %q %v, want %v %q", c.line, a, inode, ok, want, c.inode)
		}
	}
}
