package sockbroker

import (
	"errors"
	"net/netip"
	"strings"
	"syscall"
	"testing"
)

var requests = []request{
	{kind: Stream, family: IPv4, count: 1},
	{kind: Datagram, family: IPv6, count: MaxBatch},
	{kind: Listen, family: IPv4, count: 2, reusePort: true, addr: netip.MustParseAddrPort("127.0.0.1:8080")},
	{kind: Bind, family: IPv6, count: 1, addr: netip.MustParseAddrPort("[::1]:15053")},
	{kind: fork, count: 1, rights: MayFork},
}

func TestRequestSurvivesTheWire(t *testing.T) {
	for _, want := range requests {
		got, err := parseRequest(want.marshal())
		if err != nil || got != want {
			t.Errorf("%v: got %v, %v", want, got, err)
		}
	}
}

func TestParseRequestRefuses(t *testing.T) {
	stream := requests[0].marshal()
	with := func(i int, v byte) []byte {
		b := append([]byte(nil), stream...)
		b[i] = v
		return b
	}
	mapped := requests[3].marshal()
	copy(mapped[8:], netip.MustParseAddr("::ffff:127.0.0.1").AsSlice())
	for _, c := range []struct {
		name string
		b    []byte
		want string
	}{
		{"empty", nil, "0 bytes"},
		{"short", stream[:23], "23 bytes"},
		{"long", append(stream, 0), "25 bytes"},
		{"kind 0", with(0, 0), "kind 0"},
		{"kind 6", with(0, 6), "kind 6"},
		{"family", with(1, 5), "family 5"},
		{"none", with(2, 0), "request for 0"},
		{"too many", with(2, MaxBatch+1), "request for 65"},
		{"two forks", []byte{byte(fork), 0, 2, 23: 0}, "request for 2"},
		{"flags", with(3, 2), "flags"},
		{"reserved", with(5, 1), "flags"},
		{"rights", with(4, 4), "rights 0x4"},
		{"mapped address", mapped, "IPv6 form"},
	} {
		if _, err := parseRequest(c.b); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", c.name, err, c.want)
		}
	}
}

func TestReplyKeepsTheErrno(t *testing.T) {
	long := strings.Repeat("x", 2*maxText)
	for _, c := range []struct {
		err   error
		errno syscall.Errno
		text  string
	}{
		{&Error{syscall.EACCES, "not allowed"}, syscall.EACCES, "not allowed"},
		{errors.Join(errors.New("binding"), syscall.EADDRINUSE), syscall.EADDRINUSE, "binding\naddress already in use"},
		{errors.New(long), syscall.EINVAL, long[:maxText]},
	} {
		err := parseReply(marshalReply(c.err))
		if !errors.Is(err, c.errno) || err.Error() != c.text {
			t.Errorf("%q came back as %q", c.err, err)
		}
	}
	if err := parseReply(marshalReply(nil)); err != nil {
		t.Errorf("success came back as %v", err)
	}
}

func FuzzParseRequest(f *testing.F) {
	for _, r := range requests {
		f.Add(r.marshal())
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseRequest(b)
		if err != nil {
			return
		}
		if again, err := parseRequest(r.marshal()); err != nil || again != r {
			t.Errorf("%v became %v, %v", r, again, err)
		}
		if r.bound() && FamilyOf(r.addr.Addr()) != r.family {
			t.Errorf("address %v of family %d", r.addr, r.family)
		}
	})
}

func FuzzParseReply(f *testing.F) {
	f.Add(marshalReply(nil))
	f.Add(marshalReply(&Error{syscall.EACCES, "not allowed"}))
	f.Add([]byte{1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var e *Error
		if err := parseReply(b); errors.As(err, &e) && (e.Errno == 0 || len(e.Text) > maxText) {
			t.Errorf("%x is error %d with %d bytes of text", b, e.Errno, len(e.Text))
		}
	})
}
