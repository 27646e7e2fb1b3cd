// Package records is what the exchanges and connections of a worker came to: the newest that failed or were refused, and a sample of
// those that went well, for whoever asks why.
//
// A finished one enters as a Record that its Observer fills in place; copies leave when somebody asks. A Recorder belongs to one
// worker and is touched on its loop only: who asks posts a closure there, so that there is no lock and nothing is torn. Records hold
// strings and interned pointers that configuration owns, and nothing that would keep an old configuration alive. Memory is taken in
// pieces when it is first needed and never given back: an idle proxy holds none.
package records

import (
	"math/bits"
	"net/netip"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/observe"
)

const (
	// How many records a process keeps, divided among its workers: 2 MB in all with refusals.
	keptFailed, keptWell = 1024, 512
	// Refusals have room of their own: who scans ports makes more of them than there are requests. And of one cause not more than so
	// many a second are kept, so that those of others stay for a while.
	keptRefused, refusedASecond = 128, 8
	// One in so many of those that went well is kept, and each that took so long.
	sample = 64
	slow   = time.Second
	// mostPiece is how many are allocated at once, 37 KB; fewer where a worker's share is less.
	mostPiece = 32
)

// Record is one finished request or connection. To make one costs what it costs to reach its lines of cache. So what every one has comes
// first, texts lie behind each other, attempts lie elsewhere, and what is not set is not touched.
type Record struct {
	Facts
	texts [int(texts) * longest]byte
	tries *[MostTries]Attempt // nil: none yet, outside of a ring
}

// Facts are what every Record has.
type Facts struct {
	Start time.Time
	// Since Start; 0: did not happen.
	RequestEnded, ResponseBegan, Ended time.Duration

	Labels  observe.Labels
	Details string // RESPONSE_CODE_DETAILS
	// What was decided: by name, and from which object.
	Listener, Host, Route, Cluster string
	RouteOrigin, ClusterOrigin     observe.Origin
	Deciders                       []observe.Origin // besides; the configuration's

	Client, Asked Addr
	Attempts      uint32
	Cause         causes.Cause
	Said          causes.Said // by another proxy of the mesh, whose answer was passed on
	Stopped       Stopped
	tried         uint8
	used          uint16 // of texts
	places        [texts]place
}

// Text is one of the texts of a Record: copies of bytes that belong to somebody else, cut where they are too long.
type Text uint8

const (
	ID Text = iota // x-request-id
	Trace
	Method
	Authority
	Path // without its query
	texts
)

// longest is what is kept of a text.
const longest = 63

type place struct {
	at uint16
	n  uint8
}

// Set copies b, once for each Text.
func (c *Record) Set(t Text, b []byte) {
	n := copy(c.texts[c.used:min(int(c.used)+longest, len(c.texts))], b)
	c.places[t] = place{c.used, uint8(n)}
	c.used += uint16(n)
}

func (c *Record) bytes(t Text) []byte { return c.texts[c.places[t].at:][:c.places[t].n] }

// Text is what was copied; "" for nothing.
func (c *Record) Text(t Text) string { return string(c.bytes(t)) }

// is reports whether a text is what s leaves.
func (c *Record) is(t Text, s string) bool { return string(c.bytes(t)) == s[:min(len(s), longest)] }

// MostTries is how many attempts of a request are kept: the first ones, and the last.
const MostTries = 4

// Tries are the first three attempts and the last.
func (c *Record) Tries() []Attempt {
	if c.tries == nil {
		return nil
	}
	return c.tries[:c.tried]
}

// Try is the place of another attempt, at most MostTries, to be filled in.
func (c *Record) Try() *Attempt {
	if c.tries == nil {
		c.tries = new([MostTries]Attempt)
	}
	c.tried++
	return &c.tries[c.tried-1]
}

// copied is c for somebody else.
func (c *Record) copied() Record {
	out := *c
	out.tries, out.tried = nil, 0
	for _, a := range c.Tries() {
		*out.Try() = a
	}
	return out
}

// Stopped is what ended the attempts at a request that failed.
type Stopped uint8

// What can end them.
const (
	Unstopped   Stopped = iota // nothing: it did not fail, or failed before there was an attempt
	ByPolicy                   // the route asks for no retries
	ByCondition                // the policy's conditions (retryOn) are about something else
	ByAttempts                 // all that the policy permits were made
	ByBudget                   // the destination's limit of retries, or its budget, is used up
	ByBody                     // more of the request's body was sent than is kept to be sent again
	ByAnswer                   // the answer had begun
	ByDeadline                 // the time for all attempts was over
	ByUpstream                 // it said that it has too much to do
	ByCaller                   // the caller's proxy is to try others: here is but one
	numStopped
)

var stopped = [numStopped]string{"", "policy", "condition", "attempts", "budget", "body", "answer", "deadline", "upstream", "caller"}

// String is its word.
func (s Stopped) String() string { return stopped[s] }

// Attempt is one attempt at an endpoint.
type Attempt struct {
	Endpoint Addr
	Local    Addr         // ours on the connection; zero: there was none
	Cause    causes.Cause // why it failed
	Status   uint16       // of an answer that was not passed on
	Failure  string       // what TLS or the kernel said
	// How many requests the connection had carried before, and how old it was.
	Requests     uint32
	Age          time.Duration
	Began, Ended time.Duration // since Start
}

// Addr is an address as somebody had it, mapped or not; the zero value is none. Its sixteen bytes would be half of it, but to take them
// out costs 10 ns (2026-11): the processor waits where what was written as two words is read as one.
type Addr struct{ at netip.AddrPort }

// AddrOf is a.
func AddrOf(a netip.AddrPort) Addr { return Addr{a} }

// is compares as people do.
func (a Addr) is(b netip.AddrPort) bool {
	return a.at.Port() == b.Port() && a.at.Addr().Unmap() == b.Addr().Unmap()
}

// String is the address, "" for none.
func (a Addr) String() string {
	if !a.at.IsValid() {
		return ""
	}
	return netip.AddrPortFrom(a.at.Addr().Unmap(), a.at.Port()).String()
}

// Recorder keeps the records of one worker.
type Recorder struct {
	failed, well, refused ring
	passed                uint32 // since one of those that went well was kept
	refusals              map[causes.Cause]*second
}

// second is how many connections were refused for a cause in a second.
type second struct {
	of    int64
	count int
}

// New makes the Recorder of one of so many workers: all of them together have the same room, however many they are.
func New(workers int) *Recorder {
	share := func(n int) ring { return newRing(max(1, n/max(1, workers))) }
	return &Recorder{failed: share(keptFailed), well: share(keptWell), refused: share(keptRefused), passed: sample - 1, refusals: map[causes.Cause]*second{}}
}

// Failed is the place of a record of something that failed, to be filled in.
func (r *Recorder) Failed() *Record { return r.failed.next() }

// Refused is the place of a record of a connection that was refused, to be filled in; nil: of its cause there are enough in this second.
func (r *Recorder) Refused(c causes.Cause, now time.Time) *Record {
	s := r.refusals[c]
	if s == nil {
		s = &second{}
		r.refusals[c] = s
	}
	if of := now.Unix(); s.of != of {
		*s = second{of: of}
	}
	if s.count++; s.count > refusedASecond {
		return nil
	}
	return r.refused.next()
}

// Well is the place of a record of something that went well and took so long; nil: this one is not kept.
func (r *Recorder) Well(took time.Duration) *Record {
	if r.passed++; r.passed < sample && took < slow {
		return nil
	}
	r.passed = 0
	return r.well.next()
}

// Find are copies of the records of a request, of a trace, or of the connections from an address, at most so many, the newest first.
func (r *Recorder) Find(id string, most int) []Record {
	var out []Record
	address, err := netip.ParseAddrPort(id)
	is := func(c *Record) {
		if len(out) < most && id != "" && (c.is(ID, id) || c.is(Trace, id) || err == nil && c.Client.is(address)) {
			out = append(out, c.copied())
		}
	}
	r.failed.each(is)
	r.refused.each(is)
	r.well.each(is)
	return out
}

// LastFailed are copies of so many records of what failed, the newest first.
func (r *Recorder) LastFailed(most int) []Record { return r.failed.last(most) }

// LastRefused are those of connections that were refused.
func (r *Recorder) LastRefused(most int) []Record { return r.refused.last(most) }

// ring holds the newest size records, in pieces of 1<<shift.
type ring struct {
	size   int
	shift  int
	count  int // ever
	pieces []piece
}

type piece struct {
	records []Record
	tries   [][MostTries]Attempt
}

// newRing makes one of at most size records, of as many as fill pieces.
func newRing(size int) ring {
	shift := bits.Len(uint(min(size, mostPiece))) - 1
	return ring{size: size >> shift << shift, shift: shift}
}

func (g *ring) next() *Record {
	c := g.at(g.count)
	g.count++
	c.Facts = Facts{}
	return c
}

func (g *ring) at(i int) *Record {
	i %= g.size
	if i>>g.shift == len(g.pieces) {
		of := piece{make([]Record, 1<<g.shift), make([][MostTries]Attempt, 1<<g.shift)}
		for i := range of.records {
			of.records[i].tries = &of.tries[i]
		}
		g.pieces = append(g.pieces, of)
	}
	return &g.pieces[i>>g.shift].records[i&(1<<g.shift-1)]
}

func (g *ring) last(most int) (out []Record) {
	g.each(func(c *Record) {
		if len(out) < most {
			out = append(out, c.copied())
		}
	})
	return out
}

// each visits the records, the newest first.
func (g *ring) each(visit func(*Record)) {
	for i := g.count - 1; i >= max(0, g.count-g.size); i-- {
		visit(g.at(i))
	}
}
