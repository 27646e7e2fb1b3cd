package message

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// The switch and the table of names must say the same, or a header set by ID is not found by name.
func TestNamesAndIDsAgree(t *testing.T) {
	for id := OtherHeader + 1; id < numIDs; id++ {
		name := id.String()
		if name == "" || name != strings.ToLower(name) {
			t.Errorf("ID %d has name %q", id, name)
		}
		if IDOf(name) != id || IDOf([]byte(name)) != id {
			t.Errorf("IDOf(%q) = %d, want %d", name, IDOf(name), id)
		}
	}
	for _, n := range []string{"", "x-custom", "Host", "content-lengt", "x-envoy-"} {
		if IDOf(n) != OtherHeader {
			t.Errorf("IDOf(%q) = %v, want none", n, IDOf(n))
		}
	}
}

func dump(h *Headers) string {
	var b strings.Builder
	for _, f := range h.Fields() {
		fmt.Fprintf(&b, "%s=%s ", f.Name, f.Value)
	}
	return strings.TrimSpace(b.String())
}

func TestHeaders(t *testing.T) {
	v := func(s string) []byte { return []byte(s) }
	for _, c := range []struct {
		what string
		do   func(*Headers)
		want string
	}{
		{"order is kept and one name may come twice",
			func(h *Headers) { h.Add(Accept, v("a")); h.AddName(v("x-q"), v("1")); h.Add(Accept, v("b")) },
			"accept=a x-q=1 accept=b"},
		{"set replaces all of the name, in the place of the first",
			func(h *Headers) {
				h.Add(Accept, v("a"))
				h.Add(Via, v("p"))
				h.Add(Accept, v("b"))
				h.Set(Accept, v("c"))
			},
			"accept=c via=p"},
		{"set by name finds the well-known header",
			func(h *Headers) { h.Add(Accept, v("a")); h.SetName(v("accept"), v("z")) },
			"accept=z"},
		{"set by name replaces all of an unknown name",
			func(h *Headers) {
				h.AddName(v("x-q"), v("1"))
				h.AddName(v("x-r"), v("2"))
				h.AddName(v("x-q"), v("3"))
				h.SetName(v("x-q"), v("4"))
			},
			"x-q=4 x-r=2"},
		{"set adds when missing",
			func(h *Headers) { h.Set(Via, v("p")); h.SetName(v("x-q"), v("1")) },
			"via=p x-q=1"},
		{"remove takes all of the name and no other",
			func(h *Headers) {
				h.Add(Accept, v("a"))
				h.AddName(v("x-q"), v("1"))
				h.Add(Accept, v("b"))
				h.AddName(v("x-r"), v("2"))
				h.Remove(Accept)
				h.RemoveName("x-r")
				h.RemoveName("via")
			},
			"x-q=1"},
		{"remove by function",
			func(h *Headers) {
				h.Add(Accept, v("a"))
				h.AddName(v("x-q"), v("1"))
				h.RemoveFunc(func(f *Field) bool { return f.ID == Accept })
			},
			"x-q=1"},
		{"a name removed may come again",
			func(h *Headers) { h.Add(Accept, v("a")); h.Remove(Accept); h.Add(Accept, v("b")) },
			"accept=b"},
		{"reset empties",
			func(h *Headers) { h.Add(Accept, v("a")); h.Reset() },
			""},
	} {
		var h Headers
		c.do(&h)
		if got := dump(&h); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
		for _, f := range h.Fields() {
			if h.GetName(string(f.Name)) == nil || f.ID != OtherHeader && !h.Has(f.ID) {
				t.Errorf("%s: %s is in the list and not found", c.what, f.Name)
			}
		}
		if h.Has(Referer) || h.Get(Referer) != nil || h.GetName("x-none") != nil {
			t.Errorf("%s: found what is not there", c.what)
		}
	}
}

func TestJoined(t *testing.T) {
	var h Headers
	h.AddName([]byte("x-a"), []byte("1"))
	h.Add(Accept, []byte("p"))
	h.AddName([]byte("x-a"), []byte("2"))
	h.AddName([]byte("x-a"), []byte("3"))
	for _, c := range []struct {
		name, want string
		ok         bool
	}{{"x-a", "1,2,3", true}, {"accept", "p", true}, {"via", "", false}, {"x-b", "", false}} {
		got, ok := h.Joined(c.name, make([]byte, 0, 8))
		if string(got) != c.want || ok != c.ok {
			t.Errorf("Joined(%q) = %q, %v, want %q, %v", c.name, got, ok, c.want, c.ok)
		}
	}
}

func TestPathQueryAndPseudo(t *testing.T) {
	r := Request{Path: []byte("/a?b?c"), Authority: []byte("h:1"), Scheme: []byte("http")}
	r.SetMethod([]byte("GET"))
	p, q := r.PathQuery()
	if string(p) != "/a" || string(q) != "b?c" || r.Method != GET {
		t.Errorf("PathQuery() = %q, %q, method %v", p, q, r.Method)
	}
	for name, want := range map[string]string{":method": "GET", ":path": "/a?b?c", ":authority": "h:1", "host": "h:1", ":scheme": "http", "accept": ""} {
		if got, ok := r.Pseudo(name); string(got) != want || ok != (want != "") {
			t.Errorf("Pseudo(%q) = %q, %v", name, got, ok)
		}
	}
}

// What the arena handed out must not change until Reset, whatever is asked for later and however much.
func TestArenaKeepsWhatItGave(t *testing.T) {
	var a Arena
	for round := range 3 {
		var got, want [][]byte
		for i := range 300 {
			b := bytes.Repeat([]byte{byte(i)}, i*7%600)
			got, want = append(got, a.Copy(b)), append(want, b)
			grown := a.Open(4)
			for range i % 50 {
				grown = append(grown, byte(i))
			}
			got, want = append(got, a.Close(grown)), append(want, bytes.Repeat([]byte{byte(i)}, i%50))
		}
		for i := range got {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("round %d: slice %d changed", round, i)
			}
			_ = append(got[i], "overrun"...) // must not reach the neighbour
		}
		for i := range got {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("round %d: slice %d was overrun by its neighbour", round, i)
			}
		}
		a.Reset()
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	var a Arena
	var h Headers
	name, long := []byte("x-a-name-longer-than-thirty-two-bytes"), []byte("/a/../b")
	if n := testing.AllocsPerRun(100, func() {
		a.Reset()
		h.Reset()
		for range 30 {
			h.Add(Accept, a.CopyString("value"))
		}
		h.SetName(name, a.Copy(long))
		h.SetName(name, a.Copy(long))
		h.GetName("x-other")
		h.Set(XRequestID, a.CopyString("value"))
		h.RemoveName("accept")
		CanonicalPath(long, PathOptions{Normalize: true}, &a)
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}

func BenchmarkIDOf(b *testing.B) {
	names := [][]byte{[]byte("user-agent"), []byte("x-request-id"), []byte("accept"), []byte("x-custom-thing")}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		IDOf(names[i&3])
	}
}
