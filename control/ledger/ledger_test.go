package ledger

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)

func at(hours float64) time.Time { return noon.Add(time.Duration(hours * float64(time.Hour))) }

func called(who string) Key { return Key{Namespace: "shop", Workload: "cart", Port: 8080, Caller: who} }

func saw(who string, first, last float64, n uint64) Sighting {
	return Sighting{Key: called(who), First: at(first), Last: at(last), Requests: n}
}

func lines(b Book) string {
	var out []string
	for _, s := range b.Sightings {
		out = append(out, fmt.Sprintf("%s:%d %s %d %g..%g", s.Workload, s.Port, s.Caller, s.Requests, s.First.Sub(noon).Hours(), s.Last.Sub(noon).Hours()))
	}
	return strings.Join(out, ", ")
}

// The observation goes on with what was written as long as there is no gap, and what was seen counts in any case.
func TestContinue(t *testing.T) {
	kept := Book{Since: at(-72), Saved: at(-0.05), Sightings: []Sighting{saw("old", -30, -2, 7), saw("gone", -60, -26, 1), saw("both", -3, -3, 5)}}
	for _, c := range []struct {
		intent    string
		kept, own Book
		since     float64
		want      string
	}{
		{"the first control plane there is", Book{}, Book{Since: at(-1)}, -1, ""},
		{"one that runs on", kept, Book{Since: at(-70)}, -72, "cart:8080 old 7 -30..-2, cart:8080 both 5 -3..-3"},
		{"one that takes another's place adds what it sees itself", kept, Book{Since: at(0), Sightings: []Sighting{saw("new", 0, 0, 1), saw("both", -0.5, -0.5, 9)}}, -72,
			"cart:8080 new 1 0..0, cart:8080 both 9 -3..-0.5, cart:8080 old 7 -30..-2"},
		{"nobody was there for an hour: begun anew, with the callers of before", Book{Since: at(-72), Saved: at(-1), Sightings: kept.Sightings}, Book{Since: at(0)}, 0, "cart:8080 old 7 -30..-2, cart:8080 both 5 -3..-3"},
		{"nobody could write for an hour, and one saw all of it", Book{Since: at(-3), Saved: at(-1)}, Book{Since: at(-5)}, -3, ""},
		{"the clock of who wrote was ahead", Book{Since: at(2), Saved: at(3), Sightings: []Sighting{saw("x", 1, 2, 1)}}, Book{Since: at(-1)}, 0, "cart:8080 x 1 1..0"},
	} {
		got := Continue(c.kept, c.own, noon)
		if !got.Since.Equal(at(c.since)) || lines(got) != c.want {
			t.Errorf("%s: since %g, %s; want %g, %s", c.intent, got.Since.Sub(noon).Hours(), lines(got), c.since, c.want)
		}
	}
}

// Several control planes know as much as the one that knows least far back; calls that each has seen add up, calls that were written
// down are not counted twice.
func TestJoin(t *testing.T) {
	kept := Book{Since: at(-72), Saved: noon, Sightings: []Sighting{saw("batch", -9, -1, 100)}}
	tell := func(own Book) Told { return Told{Own: own, Whole: Continue(kept, own, noon)} }
	one := tell(Book{Since: at(-70), Sightings: []Sighting{saw("batch", -9, -1, 60)}, Secured: []Secured{{Port{"shop", "cart", 8080}, at(-3)}}})
	two := tell(Book{Since: at(-50), Sightings: []Sighting{saw("batch", -8, -2, 50), saw("cron", -7, -7, 1)}, Secured: []Secured{{Port{"shop", "cart", 8080}, at(-2)}}})
	got := Join([]Told{one, two})
	if want := "cart:8080 batch 110 -9..-1, cart:8080 cron 1 -7..-7"; lines(got) != want || !got.Since.Equal(at(-72)) {
		t.Errorf("since %v: %s, want %s", got.Since, lines(got), want)
	}
	if len(got.Secured) != 1 || !got.Secured[0].Last.Equal(at(-2)) {
		t.Errorf("by mutual TLS: %+v", got.Secured)
	}
	two.Whole.Since = at(-1) // it could not read what was written
	if got := Join([]Told{one, two}); !got.Since.Equal(at(-1)) {
		t.Errorf("since %v", got.Since)
	}
}

// Whatever proxies claim, memory is bounded, and what there is no room for is kept with less detail; who takes all his room takes none of
// others.
func TestBounds(t *testing.T) {
	tab := New(at(-50))
	long := strings.Repeat("x", 500)
	for i := range uint32(2000) {
		tab.Plain("talker", Key{ByCaller: true, Service: fmt.Sprint("shop/", i), Port: 80, CallerNamespace: "shop", Caller: "talker"}, 1, noon)
		tab.Plain("server", Key{Namespace: "shop", Workload: "server", Port: i + 1}, 1, noon)
		tab.Plain("liar", Key{Namespace: "evil", Workload: long + fmt.Sprint(i), Port: i + 1, Caller: long}, 1, noon)
		tab.TLS("liar", Port{"evil", long + fmt.Sprint(i), i}, noon)
	}
	all := uint64(0)
	for k, s := range tab.seen {
		if k.Namespace == "shop" && k.Workload == "server" {
			all += s.Requests
		}
	}
	if s := tab.seen[Key{Namespace: "shop", Workload: "server"}]; s == nil || all != 2000 {
		t.Errorf("of a server's 2000 calls %d are known, %+v without their ports", all, s)
	}
	if s := tab.seen[Key{Namespace: "evil"}]; s == nil || s.Requests < 1000 {
		t.Errorf("of a whole namespace: %+v", s)
	}
	if n := len(tab.seen); n > 1500 {
		t.Errorf("%d sightings of three identities", n)
	}
	if tab.Plain("batch", called("batch"), 1, noon); tab.seen[called("batch")] == nil {
		t.Error("there is no room for another identity")
	}
	// Many liars together take no more than there is; of a namespace it is known all the same.
	for i := range uint32(40_000) {
		by := fmt.Sprint("liar-", i%200)
		tab.Plain(by, Key{Namespace: fmt.Sprint("evil-", i%200), Workload: long + fmt.Sprint(i), Port: i + 1, Caller: long}, 1, noon)
		tab.TLS(by, Port{"evil", long + fmt.Sprint(i), i}, noon)
	}
	bytes := 0
	for k := range tab.seen {
		bytes += k.weight()
	}
	for p := range tab.secured {
		bytes += weight + len(p.Workload)
	}
	if bytes > allSeen+allCoarse+allPorts+300*weight {
		t.Errorf("%d bytes", bytes)
	}
	if s := tab.seen[Key{Namespace: "evil-199"}]; s == nil {
		t.Error("nothing is known of a namespace of liars")
	}
	// What is written is bounded, too: then less far back is known to the next one.
	b := tab.Book(noon)
	text, err := b.Marshal()
	if err != nil || len(text) > maxText+200 {
		t.Fatalf("%d bytes, %v", len(text), err)
	}
	read, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	left := b.Sightings[len(read.Sightings)] // the newest of those that were left out
	if len(read.Sightings) == 0 || !read.Since.After(left.Last) || read.Since.After(left.Last.Add(2*time.Second)) {
		t.Errorf("%d of %d are written, since %v; %v was left out", len(read.Sightings), len(b.Sightings), read.Since, left.Last)
	}
	// A day later all is forgotten, and there is room again.
	now := noon.Add(Age + time.Hour)
	if tab.Plain("late", called("late"), 1, now); tab.seen[called("late")] == nil {
		t.Error("there is no room a day later")
	}
	if b := tab.Book(now); len(b.Sightings) != 1 || len(b.Secured) != 0 || fmt.Sprint(tab.rooms[coarsely], tab.rooms[ofPorts]) != fmt.Sprint(New(noon).rooms[coarsely], New(noon).rooms[ofPorts]) {
		t.Errorf("a day later: %d sightings, rooms %v", len(b.Sightings), tab.rooms[1:])
	}
}

// What is damaged is nothing, and is said to be damaged; what is closed takes nothing.
func TestParseAndClose(t *testing.T) {
	if b, err := Parse(nil); err != nil || !b.Saved.IsZero() {
		t.Errorf("%+v %v", b, err)
	}
	if b, err := Parse([]byte(`{"since": "2026-11-21T12:00:00Z", "sightings": [`)); err == nil || !b.Since.IsZero() {
		t.Errorf("%+v %v", b, err)
	}
	tab := New(noon)
	if !tab.Plain("cart", called("batch"), 1, noon) || !tab.News() || tab.News() {
		t.Error("the first call is news, once")
	}
	if tab.Plain("cart", called("batch"), 1, noon); tab.News() {
		t.Error("another call is news")
	}
	tab.Close()
	if tab.Plain("cart", called("late"), 1, noon) || tab.News() {
		t.Error("taken after the end")
	}
}
