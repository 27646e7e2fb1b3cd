// Package records is what the exchanges and connections of a worker came to: the newest that failed, and a sample of those that
// went well, for whoever asks why.
//
// A finished one enters as a Record that its Observer fills in place; copies leave when somebody asks. A Recorder belongs to one
// worker and is touched on its loop only: who asks posts a closure there, so that there is no lock and nothing is torn. Records hold
// strings and interned pointers that configuration owns, and nothing that would keep an old configuration alive. Memory is taken in
// pieces when it is first needed and never given back: an idle proxy holds none.
package records

import (
	"net/netip"
	"time"

	"github.com/weirmesh/weir/api/causes"
	"github.com/weirmesh/weir/proxy/observe"
)

const (
	// How many records a process keeps, divided among its workers: 1.4 MB in all.
	keptFailed, keptWell = 1024, 512
	// One in so many of those that went well is kept, and each that took so long.
	sample = 64
	slow   = time.Second
	// piece is how many are allocated at once, 29 KB.
	piece = 32
)

// Record is one finished request or connection.
type Record struct {
	ID    Text // x-request-id
	Trace Text
	Start time.Time
	// Since Start; 0: did not happen.
	RequestEnded, ResponseBegan, Ended time.Duration

	Labels observe.Labels
	Cause  causes.Cause
	Method, Authority,
	Path Text // without its query

	Details string // RESPONSE_CODE_DETAILS
	// What was decided: by name, and from which object.
	Listener, Host, Route, Cluster string
	RouteOrigin, ClusterOrigin     observe.Origin

	Client, Asked Addr
	Attempts      uint32
	// Tries are the first three attempts and the last.
	Tries [4]Attempt
}

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

// longest is what is kept of a text.
const longest = 63

// Text is a copy of bytes that belong to somebody else, cut where it is too long.
type Text struct {
	n uint8
	b [longest]byte
}

// Set copies b.
func (t *Text) Set(b []byte) { t.n = uint8(copy(t.b[:], b)) }

// Is reports whether t is what s leaves.
func (t *Text) Is(s string) bool { return string(t.b[:t.n]) == s[:min(len(s), longest)] }

func (t *Text) String() string { return string(t.b[:t.n]) }

// Addr is an address in less room; the zero value is none.
type Addr struct {
	ip   [16]byte
	port uint16
}

// AddrOf is a in less room, without its zone.
func AddrOf(a netip.AddrPort) Addr {
	if !a.IsValid() {
		return Addr{}
	}
	return Addr{a.Addr().As16(), a.Port()}
}

// String is the address, "" for none.
func (a Addr) String() string {
	if a == (Addr{}) {
		return ""
	}
	return netip.AddrPortFrom(netip.AddrFrom16(a.ip).Unmap(), a.port).String()
}

// Recorder keeps the records of one worker.
type Recorder struct {
	failed, well ring
	passed       uint32 // since one of those that went well was kept
}

// New makes the Recorder of one of so many workers.
func New(workers int) *Recorder {
	share := func(n int) int { return max(piece, n/max(1, workers)/piece*piece) }
	return &Recorder{failed: ring{size: share(keptFailed)}, well: ring{size: share(keptWell)}, passed: sample - 1}
}

// Failed is the place of a record of something that failed, to be filled in.
func (r *Recorder) Failed() *Record { return r.failed.next() }

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
	var address Addr
	if a, err := netip.ParseAddrPort(id); err == nil {
		address = AddrOf(a)
	}
	is := func(c *Record) {
		if len(out) < most && id != "" && (c.ID.Is(id) || c.Trace.Is(id) || address != (Addr{}) && c.Client == address) {
			out = append(out, *c)
		}
	}
	r.failed.each(is)
	r.well.each(is)
	return out
}

// LastFailed are copies of so many records of what failed, the newest first.
func (r *Recorder) LastFailed(most int) []Record {
	var out []Record
	r.failed.each(func(c *Record) {
		if len(out) < most {
			out = append(out, *c)
		}
	})
	return out
}

// ring holds the newest size records.
type ring struct {
	size   int
	count  int // ever
	pieces []*[piece]Record
}

func (g *ring) next() *Record {
	c := g.at(g.count)
	g.count++
	*c = Record{}
	return c
}

func (g *ring) at(i int) *Record {
	i %= g.size
	if p := i / piece; p == len(g.pieces) {
		g.pieces = append(g.pieces, new([piece]Record))
	}
	return &g.pieces[i/piece][i%piece]
}

// each visits the records, the newest first.
func (g *ring) each(visit func(*Record)) {
	for i := g.count - 1; i >= max(0, g.count-g.size); i-- {
		visit(g.at(i))
	}
}
