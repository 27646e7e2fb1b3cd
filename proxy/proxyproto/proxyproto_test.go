package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
	"strings"
	"testing"
)

func ap(s string) netip.AddrPort {
	if s == "" {
		return netip.AddrPort{}
	}
	return netip.MustParseAddrPort(s)
}

// v2 is a header of version 2 with the given command, family and body.
func v2(command, family byte, body string) string {
	n := len(body)
	return prefix2 + string([]byte{command, family, byte(n >> 8), byte(n)}) + body
}

const (
	body4 = "\x0a\x00\x00\x01\x0a\x00\x00\x02\x30\x39\x01\xbb"
	body6 = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" + "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02" + "\x30\x39\x01\xbb"
)

// summed is a header with a checksum behind its addresses, and one more TLV.
func summed() string {
	b := []byte(v2(0x21, 0x11, body4+"\x03\x00\x04\x00\x00\x00\x00"+"\x02\x00\x03abc"))
	binary.BigEndian.PutUint32(b[16+12+3:], crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	return string(b)
}

func TestParse(t *testing.T) {
	for name, tc := range map[string]struct {
		in       string
		version  Version
		src, dst string
	}{
		"v1 IPv4":                    {"PROXY TCP4 10.0.0.1 10.0.0.2 12345 443\r\n", V1, "10.0.0.1:12345", "10.0.0.2:443"},
		"v1 IPv6":                    {"PROXY TCP6 2001:db8::1 2001:db8::2 12345 443\r\n", V1, "[2001:db8::1]:12345", "[2001:db8::2]:443"},
		"v1 IPv4 in IPv6":            {"PROXY TCP6 ::ffff:10.0.0.1 ::ffff:10.0.0.2 1 0\r\n", V1, "10.0.0.1:1", "10.0.0.2:0"},
		"v1 longest":                 {"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", V1, "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"},
		"v1 nothing is known":        {"PROXY UNKNOWN\r\n", V1, "", ""},
		"v1 UNKNOWN with an address": {"PROXY UNKNOWN ::1 ::1 1 2\r\n", V1, "", ""},
		"v2 IPv4":                    {v2(0x21, 0x11, body4), V2, "10.0.0.1:12345", "10.0.0.2:443"},
		"v2 IPv6":                    {v2(0x21, 0x21, body6), V2, "[2001:db8::1]:12345", "[2001:db8::2]:443"},
		"v2 LOCAL":                   {v2(0x20, 0x11, body4), V2, "", ""},
		"v2 LOCAL without addresses": {v2(0x20, 0, ""), V2, "", ""},
		"v2 LOCAL, datagrams":        {v2(0x20, 0x12, body4), V2, "", ""},
		"v2 UNSPEC with anything":    {v2(0x21, 0, "whatever"), V2, "", ""},
		"v2 Unix":                    {v2(0x21, 0x31, strings.Repeat("/", 216)), V2, "", ""},
		"v2 with TLVs":               {v2(0x21, 0x11, body4+"\x01\x00\x02h2\x05\x00\x00"), V2, "10.0.0.1:12345", "10.0.0.2:443"},
		"v2 with a checksum":         {summed(), V2, "10.0.0.1:12345", "10.0.0.2:443"},
	} {
		in := tc.in + "the rest"
		h, n, err := Parse([]byte(in))
		if err != nil || n != len(tc.in) || h != (Header{tc.version, ap(tc.src), ap(tc.dst)}) {
			t.Errorf("%s: %v, %d of %d bytes, %v", name, h, n, len(tc.in), err)
		}
		for i := range tc.in {
			if _, _, err := Parse([]byte(in[:i])); err != ErrShort {
				t.Errorf("%s: %d bytes of it: %v", name, i, err)
			}
		}
	}
}

func TestParseRefuses(t *testing.T) {
	wrongSum := []byte(summed())
	wrongSum[len(wrongSum)-1]++
	for in, want := range map[string]string{
		"GET / HTTP/1.1\r\n":                                       "does not begin",
		"PRI * HTTP/2.0\r\n":                                       "does not begin",
		"proxy TCP4":                                               "does not begin",
		"\r\n\r\n\x00\r\nQUIX":                                     "does not begin",
		"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\n":                       "CR LF",
		"PROXY \n":                                                 "CR LF",
		"PROXY UDP4 10.0.0.1 10.0.0.2 1 2\r\n":                     "neither",
		"PROXY TCP4 10.0.0.1 10.0.0.2 1\r\n":                       "4 fields",
		"PROXY TCP4  10.0.0.1 10.0.0.2 1 2\r\n":                    "6 fields",
		"PROXY TCP4 10.0.0.1 10.0.0.2 1 2 \r\n":                    "6 fields",
		"PROXY TCP4 ::1 ::1 1 2\r\n":                               "not an address of TCP4",
		"PROXY TCP6 10.0.0.1 ::1 1 2\r\n":                          "not an address of TCP6",
		"PROXY TCP6 fe80::1%lo ::1 1 2\r\n":                        "not an address of TCP6",
		"PROXY TCP4 10.0.0.1 10.0.0.256 1 2\r\n":                   "not an address",
		"PROXY TCP4 10.0.0.1 10.0.0.2 1 65536\r\n":                 "not a port",
		"PROXY TCP4 10.0.0.1 10.0.0.2 01 2\r\n":                    "not a port",
		"PROXY TCP4 10.0.0.1 10.0.0.2 -1 2\r\n":                    "not a port",
		"PROXY TCP4 10.0.0.1 10.0.0.2  \r\n":                       "not a port",
		"PROXY TCP4 10.0.0.1 10.0.0.2 1 99999999999999\r\n":        "not a port",
		"PROXY UNKNOWN " + strings.Repeat("x", 100):                "more than 107",
		v2(0x11, 0x11, body4):                                      "version 1",
		v2(0x22, 0x11, body4):                                      "command 2",
		v2(0x21, 0x12, body4):                                      "not those of a stream",
		v2(0x21, 0x11, body4[:11]):                                 "want 12",
		v2(0x21, 0x21, body4):                                      "want 36",
		v2(0x21, 0x11, body4+"\x01"):                               "cut short",
		v2(0x21, 0x11, body4+"\x01\x00\x05abc"):                    "cut short",
		v2(0x21, 0x11, body4+"\x03\x00\x03abc"):                    "a checksum of 3 bytes",
		v2(0x21, 0x11, body4+strings.Repeat("\x01\x00\x00", 2000)): "at most 4096",
		string(wrongSum):                                           "checksum is wrong",
	} {
		_, n, err := Parse([]byte(in))
		if err == nil || n != 0 || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %d, %v; want %q", in, n, err, want)
		}
	}
}

func TestAppend(t *testing.T) {
	for _, tc := range []struct {
		version        Version
		src, dst, want string
	}{
		{V1, "10.0.0.1:12345", "10.0.0.2:443", "PROXY TCP4 10.0.0.1 10.0.0.2 12345 443\r\n"},
		{V1, "[::ffff:10.0.0.1]:12345", "10.0.0.2:443", "PROXY TCP4 10.0.0.1 10.0.0.2 12345 443\r\n"},
		{V1, "[2001:db8::1]:12345", "10.0.0.2:443", "PROXY TCP6 2001:db8::1 ::ffff:10.0.0.2 12345 443\r\n"},
		{V1, "[fe80::1%2]:12345", "[fe80::2%2]:443", "PROXY TCP6 fe80::1 fe80::2 12345 443\r\n"},
		{V1, "", "10.0.0.2:443", "PROXY UNKNOWN\r\n"},
		{V2, "10.0.0.1:12345", "10.0.0.2:443", v2(0x21, 0x11, body4)},
		{V2, "[2001:db8::1]:12345", "[2001:db8::2]:443", v2(0x21, 0x21, body6)},
		{V2, "", "", v2(0x20, 0, "")},
	} {
		if got := string(Append([]byte("x"), tc.version, ap(tc.src), ap(tc.dst))); got != "x"+tc.want {
			t.Errorf("%v from %s to %s: %q, want %q", tc.version, tc.src, tc.dst, got, tc.want)
		}
	}
}

// A decision made on a part of the input holds for all of it; what was read can be
// written and read again.
func FuzzParse(f *testing.F) {
	f.Add([]byte("PROXY TCP4 10.0.0.1 10.0.0.2 12345 443\r\nGET"))
	f.Add([]byte("PROXY TCP6 2001:db8::1 ::ffff:10.0.0.2 1 2\r\n"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add([]byte(v2(0x21, 0x11, body4) + "x"))
	f.Add([]byte(v2(0x21, 0x21, body6+"\x02\x00\x01a")))
	f.Add([]byte(v2(0x20, 0, "")))
	f.Add([]byte(summed()))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, err := Parse(b)
		for _, cut := range []int{n - 1, len(b) / 2, len(b) - 1} {
			if cut < 0 || cut > len(b) {
				continue
			}
			if h2, n2, err2 := Parse(b[:cut]); err2 != ErrShort && (h2 != h || n2 != n || (err2 == nil) != (err == nil)) {
				t.Errorf("%d bytes: %v %d %v; all: %v %d %v", cut, h2, n2, err2, h, n, err)
			}
		}
		switch {
		case err != nil && n != 0, err == nil && (n <= 0 || n > len(b)):
			t.Errorf("%d bytes used, %v", n, err)
		case errors.Is(err, ErrShort) && len(b) > maxHeader2:
			t.Error("it waits for more than the longest header")
		case err == nil:
			for _, v := range []Version{V1, V2} {
				out := Append(nil, v, h.Source, h.Destination)
				if back, n, err := Parse(append(bytes.Clone(out), 'x')); err != nil || n != len(out) || back.Source != h.Source || back.Destination != h.Destination {
					t.Errorf("%v written as %q is read as %v, %v", h, out, back, err)
				}
			}
		}
	})
}
