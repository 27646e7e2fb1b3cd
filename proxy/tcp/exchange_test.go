package tcp

import (
	"testing"

	"github.com/weirmesh/weir/proxy/observe"
)

// Every cut of a frame waits for the rest; what follows it is left alone.
func TestParseFrame(t *testing.T) {
	b, err := Frame(&observe.Node{ID: "sidecar~1", Workload: "w", Namespace: "n", Labels: map[string]string{"app": "a"}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		if _, _, err := parseFrame(b[:i]); err != errShort {
			t.Fatalf("%d of %d bytes: %v", i, len(b), err)
		}
	}
	n, s, err := parseFrame(append(b, "GET /"...))
	if n != len(b) || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if p := observe.PeerOf(s); p.Workload != "w" || p.App != "a" || p.Namespace != "n" {
		t.Errorf("peer %+v", p)
	}
	for in, want := range map[string]struct {
		n   int
		err error
	}{
		"G":    {0, nil},
		"\x3d": {0, errShort},
		"\x3d\x23\x04\x67\x00\x00\x00\x02\xff\xff": {10, nil}, // taken, and says nothing
		"\x3d\x23\x04\x67\x00\x00\x00\x00":         {8, nil},
		"\x3d\x23\x04\x67\x00\x01\x00\x00":         {0, errLong},
		"\x3d\x23\x04\x68":                         {0, nil},
	} {
		if n, _, err := parseFrame([]byte(in)); n != want.n || err != want.err {
			t.Errorf("%q: %d, %v; want %v", in, n, err, want)
		}
	}
}

func FuzzParseFrame(f *testing.F) {
	b, err := Frame(&observe.Node{ID: "sidecar~1", Workload: "w", Labels: map[string]string{"app": "a"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte{0x3d, 0x23, 4, 0x67, 0, 0, 0, 1, 0})
	f.Add([]byte("\x3d\x23"))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, s, err := parseFrame(b)
		if n < 0 || n > len(b) || err != nil && n != 0 || n == 0 && s != nil {
			t.Errorf("%d of %d, %v, %v", n, len(b), s, err)
		}
		if s != nil {
			observe.NewPeers().FromStruct(s)
		}
		if err == errShort && len(b) >= frameHeader+maxFrame {
			t.Error("waits for more than a frame can have")
		}
	})
}
