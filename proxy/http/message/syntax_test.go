package message

import "testing"

// What is taken as host or host:port.
func TestCheckAuthority(t *testing.T) {
	for want, cases := range map[Fault][]string{
		NoFault: {"", "a", "a:80", "a:", "a:65535", "a:0", "A-b_c.d~!$&'()*+;=", "127.0.0.1", "[::1]", "[::1]:80", "[2001:db8::ffff:1.2.3.4]:1"},
		NoHost: {":", ":80", "a:65536", "a:00080", "a:08", "a:-1", "a:+1", "a:1a", "a:1:2", "a:80/", "a/b", "a?b", "a#b", "a b", "a\\b", "a,b", "a%41", "%", "\"a\"", "caf\xc3\xa9",
			"a\x00", "a\n", "[", "]", "[]", "[a]", "[::1", "::1]", "[::1]a", "[::1]80", "[::1]:x", "[[::1]]", "[::1%25eth0]", "[1.2.3.4]", "::1", "a[::1]"},
		Userinfo: {"u@a", "u:p@a", "@", "@a", "a@", "[::1]@a", "u:80@[::1]"},
	} {
		for _, a := range cases {
			if got := CheckAuthority([]byte(a)); got != want {
				t.Errorf("%q: %v, want %v", a, got, want)
			}
		}
	}
	if got := string(WithoutEmptyPort([]byte("a:"))) + string(WithoutEmptyPort([]byte("b:1"))); got != "ab:1" {
		t.Errorf("an empty port: %s", got)
	}
	for a, want := range map[string]bool{"a:80": true, "[::1]:443": true, "a": false, "a:": false, "a:0": false, "[::1]": false, "": false, ":80": false} {
		if got := HasPort([]byte(a)); got != want {
			t.Errorf("HasPort(%q) = %v", a, got)
		}
	}
	a := []byte("[2001:db8::1]:8080")
	if n := testing.AllocsPerRun(100, func() { CheckAuthority(a) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
