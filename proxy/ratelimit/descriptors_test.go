package ratelimit

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever clients send, two descriptors have the same key only if their entries are the same.
func TestKeysTellDescriptorsApart(t *testing.T) {
	text := rapid.StringOfN(rapid.SampledFrom([]rune("ab\x00\x01\x02")), 0, 3, -1)
	entries := rapid.Custom(func(t *rapid.T) []Entry {
		var out []Entry
		for range rapid.IntRange(0, 3).Draw(t, "n") {
			out = append(out, Entry{text.Draw(t, "key"), []byte(text.Draw(t, "value"))})
		}
		return out
	})
	rapid.Check(t, func(t *rapid.T) {
		a, b := entries.Draw(t, "a"), entries.Draw(t, "b")
		same := slices.EqualFunc(a, b, func(x, y Entry) bool { return x.Key == y.Key && string(x.Value) == string(y.Value) })
		if got := string(AppendKey(nil, a)) == string(AppendKey(nil, b)); got != same {
			t.Fatalf("%q and %q: the same key is %v", a, b, got)
		}
	})
}

// Of values that nobody has named as many buckets are kept as may be: those that were used last, each for its value.
func TestBucketsOfAnyValue(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(1, 4).Draw(t, "most")
		d := NewDescriptors(most)
		if err := d.Add([]Entry{{Key: "user"}}, false, func() *Bucket { return NewBucket(1, 1, time.Hour) }); err != nil {
			t.Fatal(err)
		}
		var recent []string // newest first
		known := map[string]*Share{}
		for range rapid.IntRange(1, 50).Draw(t, "requests") {
			user := rapid.StringMatching("[a-f]").Draw(t, "user")
			s := d.Find([]Entry{{"user", []byte(user)}}, nil)
			if kept := slices.Contains(recent, user); kept != (s == known[user]) {
				t.Fatalf("%s, kept %v: %p, was %p", user, kept, s, known[user])
			}
			known[user] = s
			recent = slices.Insert(slices.DeleteFunc(recent, func(u string) bool { return u == user }), 0, user)
			for _, u := range recent[min(most, len(recent)):] {
				delete(known, u)
			}
			recent = recent[:min(most, len(recent))]
		}
		if n := len(d.open[0].of); n != len(recent) {
			t.Fatalf("%d buckets of %d", n, len(recent))
		}
	})
}

// However long values are, what is kept of them is short, and tells them apart.
func TestLongValues(t *testing.T) {
	d := NewDescriptors(10)
	if err := d.Add([]Entry{{Key: "user"}}, false, func() *Bucket { return NewBucket(1, 1, time.Hour) }); err != nil {
		t.Fatal(err)
	}
	long := func(end byte) *Share { return d.Find([]Entry{{"user", append(make([]byte, 100_000), end)}}, nil) }
	if long(1) != long(1) || long(1) == long(2) {
		t.Error("a long value has not its own bucket")
	}
	for key := range d.open[0].of {
		if len(key) > longest {
			t.Errorf("a key of %d bytes is kept", len(key))
		}
	}
}
