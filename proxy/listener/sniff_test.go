package listener

import (
	"bytes"
	stdtls "crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// realHello is the ClientHello that crypto/tls sends.
func realHello(t testing.TB, sni string, protos ...string) []byte {
	t.Helper()
	a, b := net.Pipe()
	go stdtls.Client(a, &stdtls.Config{ServerName: sni, NextProtos: protos, InsecureSkipVerify: true}).Handshake()
	defer a.Close()
	b.SetReadDeadline(time.Now().Add(5 * time.Second))
	head := make([]byte, 5)
	if _, err := io.ReadFull(b, head); err != nil {
		t.Fatal(err)
	}
	body := make([]byte, int(head[3])<<8|int(head[4]))
	if _, err := io.ReadFull(b, body); err != nil {
		t.Fatal(err)
	}
	return append(head, body...)
}

// inRecords cuts the message of a one-record hello into records of n bytes.
func inRecords(b []byte, n int) (out []byte) {
	for msg := b[5:]; len(msg) > 0; {
		k := min(n, len(msg))
		out = append(append(out, 22, 3, 1, byte(k>>8), byte(k)), msg[:k]...)
		msg = msg[k:]
	}
	return out
}

func TestParseHello(t *testing.T) {
	const name = "outbound_.9080_._.reviews.default.svc.cluster.local"
	whole := realHello(t, name, "istio-http/1.1", "istio", "http/1.1")
	scratch := make([]byte, maxHello)
	for _, in := range [][]byte{whole, inRecords(whole, 1), inRecords(whole, 7), inRecords(whole, 300)} {
		var h greeting
		for i := range in {
			if err := parseHello(in[:i], scratch, &h); err != errShort {
				t.Fatalf("%d of %d bytes: %v", i, len(in), err)
			}
		}
		if err := parseHello(append(in, "more behind it"...), scratch, &h); err != nil {
			t.Fatal(err)
		}
		if string(h.sni) != name || string(bytes.Join(h.alpn, []byte(" "))) != "istio-http/1.1 istio http/1.1" {
			t.Errorf("name %q, protocols %q", h.sni, h.alpn)
		}
	}
	var h greeting
	if err := parseHello(realHello(t, ""), scratch, &h); err != nil || h.sni != nil || len(h.alpn) != 0 {
		t.Errorf("%v, %q, %q", err, h.sni, h.alpn)
	}
}

func TestParseHelloRefuses(t *testing.T) {
	whole := realHello(t, "example.com", "h2")
	change := func(f func(b []byte)) []byte {
		b := bytes.Clone(whole)
		f(b)
		return b
	}
	for name, tc := range map[string]struct {
		in   []byte
		want error
	}{
		"http":             {[]byte("GET / HTTP/1.1\r\n"), errNoTLS},
		"one byte":         {[]byte("G"), errNoTLS},
		"server speaks":    {change(func(b []byte) { b[5] = 2 }), errNoTLS},
		"ssl 2":            {[]byte{0x80, 0x2e, 1, 0, 2}, errNoTLS},
		"alert":            {[]byte{21, 3, 3, 0, 2, 1, 0}, errNoTLS},
		"version 4":        {change(func(b []byte) { b[1] = 4 }), errNoTLS},
		"empty record":     {[]byte{22, 3, 1, 0, 0}, errBroken},
		"huge record":      {[]byte{22, 3, 1, 0xff, 0xff}, errBroken},
		"huge message":     {[]byte{22, 3, 1, 0x40, 0, 1, 1, 0, 0}, errBroken},
		"session too long": {change(func(b []byte) { b[5+4+34] = 255 }), errBroken},
		"message cut":      {change(func(b []byte) { b[8] -= 3 }), errBroken},
		"record after it":  {append(inRecords(whole, 100)[:105], 23, 3, 3, 0, 1, 0), errBroken},
	} {
		var h greeting
		if err := parseHello(tc.in, make([]byte, maxHello), &h); !errors.Is(err, tc.want) {
			t.Errorf("%s: %v, want %v", name, err, tc.want)
		}
	}
}

func TestParseHelloDoesNotAllocate(t *testing.T) {
	in := inRecords(realHello(t, "example.com", "h2", "http/1.1"), 100)
	scratch := make([]byte, maxHello)
	h := greeting{alpn: make([][]byte, 0, 8)}
	if a := testing.AllocsPerRun(100, func() {
		if err := parseHello(in, scratch, &h); err != nil {
			t.Fatal(err)
		}
	}); a != 0 {
		t.Errorf("%v allocations", a)
	}
}

// madeHello is a small ClientHello, always the same: fuzzing needs stable seeds.
func madeHello(sni string, protos ...string) []byte {
	vector := func(bytes int, b []byte) []byte {
		n := len(b)
		if bytes == 1 {
			return append([]byte{byte(n)}, b...)
		}
		return append([]byte{byte(n >> 8), byte(n)}, b...)
	}
	var list []byte
	for _, p := range protos {
		list = append(list, vector(1, []byte(p))...)
	}
	names := vector(2, append([]byte{0}, vector(2, []byte(sni))...))
	extensions := append(append([]byte{0, 0}, vector(2, names)...), append([]byte{0, 16}, vector(2, vector(2, list))...)...)
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0, 0, 2, 0x13, 1, 1, 0)
	body = append(body, vector(2, extensions)...)
	msg := append([]byte{1, 0}, vector(2, body)...)
	return append([]byte{22, 3, 1}, vector(2, msg)...)
}

// What was found in a part of the input is found in all of it, and nothing panics.
func FuzzParseHello(f *testing.F) {
	whole := madeHello("example.com", "h2", "http/1.1")
	f.Add(whole)
	f.Add(inRecords(whole, 50))
	f.Add(whole[:60])
	f.Add([]byte{22, 3, 1, 0, 5, 1, 0, 0, 1, 0})
	scratch, scratch2 := make([]byte, maxHello), make([]byte, maxHello)
	f.Fuzz(func(t *testing.T, b []byte) {
		var h, again greeting
		err := parseHello(b, scratch, &h)
		if err == nil && len(h.sni) > 255 {
			t.Errorf("name of %d bytes", len(h.sni))
		}
		for _, cut := range []int{len(b) / 2, len(b) - 1} {
			if cut < 0 || cut > len(b) {
				continue
			}
			switch e := parseHello(b[:cut], scratch2, &again); {
			case e == errShort:
			case e != err:
				t.Errorf("%d bytes: %v, all %d: %v", cut, e, len(b), err)
			case e == nil && !bytes.Equal(h.sni, again.sni):
				t.Errorf("name %q, then %q", again.sni, h.sni)
			}
		}
	})
}

func TestSniffHTTP(t *testing.T) {
	for in, want := range map[string]string{
		"":                              "?",
		"GET / HTTP/1.1\r\n":            "http/1.1",
		"GET / HTTP/1.1\n":              "http/1.1",
		"\r\nPOST /x HTTP/1.0\r\nHost:": "http/1.0",
		"M-SEARCH * HTTP/1.1\r\n":       "http/1.1",
		"GET / HT":                      "?",
		"GE":                            "?",
		"PRI":                           "?",
		preface:                         "h2c",
		preface + "\x00\x00\x12":        "h2c",
		"PRI * HTTP/1.1\r\n":            "http/1.1",
		"PRINT something\r\n":           "",
		"get key\r\n":                   "",
		"*1\r\n$4\r\nPING\r\n":          "",
		"EHLO mail.example.com\r\n":     "",
		"SSH-2.0-OpenSSH_9.2\r\n":       "",
		"\x16\x03\x01":                  "",
		"GET / HTTP/2.0\r\n":            "",
		"GET " + strings.Repeat("a", maxRequestLine): "",
		strings.Repeat("A", 21):                      "",
	} {
		got, err := sniffHTTP([]byte(in))
		if err == errShort {
			got = "?"
		}
		if got != want {
			t.Errorf("%.40q: %q, want %q", in, got, want)
		}
	}
}

func FuzzSniffHTTP(f *testing.F) {
	for _, s := range []string{"GET / HTTP/1.1\r\n", preface, "\r\n\r\nA", "HELO\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		got, err := sniffHTTP(b)
		if err == errShort && len(bytes.TrimLeft(b, "\r\n")) > maxRequestLine {
			t.Errorf("waits for more than %d bytes", maxRequestLine)
		}
		for cut := range min(len(b), 64) {
			if p, e := sniffHTTP(b[:cut]); e == nil && (p != got || err != nil) {
				t.Errorf("%q after %d bytes, %q after all", p, cut, got)
			}
		}
	})
}
