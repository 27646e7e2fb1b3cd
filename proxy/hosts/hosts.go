// Package hosts knows the addresses of names that only clients name: those of clusters that find out where a call goes when it
// is made (ServiceEntry resolution DYNAMIC_DNS).
//
// A name enters by Find, from any worker, when a call needs it; addresses leave by Find, too, once they are known: until then
// the call waits (demand.Hold), and Options.Changed has all who wait look again. What is known is found without a lock or an
// allocation. Run asks DNS, for as many names at once as AtOnce. Names come from clients and answers from name servers of whoever
// has the name, so both are bounded and distrusted: at most MaxNames names, MaxAddrs addresses of each, none that leads back to
// this machine or its link (Options.Permit). Nothing is ever asked for an address.
package hosts

import (
	"context"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Limits, and how long what was learned holds. The resolver tells no TTL.
const (
	MaxNames = 1024             // Envoy's (DnsCacheConfig.max_hosts)
	MaxAddrs = 16               // of a name
	AtOnce   = 16               // names asked for at once
	Timeout  = 4 * time.Second  // of a question: less than a call waits (demand.Patience)
	Fresh    = 10 * time.Second // an answer is used without asking again, as of DNS clusters
	Failed   = 5 * time.Second  // so is a failure
	Kept     = 5 * time.Minute  // a name that is not used, or an answer that cannot be renewed (Envoy's host_ttl)
	spare    = 10 * time.Second // a name unused for so long gives its place to another
)

// Errors of names and answers.
var (
	ErrName    = errors.New("is not a name that may be asked for")
	ErrFull    = errors.New("too many names are known already")
	ErrAddress = errors.New("leads to no address that may be called")
)

// Options are what Hosts needs of others.
type Options struct {
	Find    func(ctx context.Context, name string) ([]netip.Addr, error)
	Permit  func(netip.Addr) bool // nil: Foreign
	Changed func()                // something became known; called by Run
}

// Hosts are the names that one process knows.
type Hosts struct {
	o    Options
	wake chan struct{}
	view atomic.Pointer[map[string]*Entry]

	mu    sync.Mutex // of what follows, and of changing view
	queue []*Entry   // to be asked for
	stats Stats
}

// Stats count what became of questions.
type Stats struct{ Asked, Failed, Refused, Overflow uint64 }

// Entry is a name. All but the atomic fields are immutable; another takes its place when its answer comes.
type Entry struct {
	Name  string
	Addrs []netip.Addr // nil: none, because of Err
	Err   error
	// Pending: nothing was ever answered.
	Pending bool

	at    time.Time // of the answer
	used  *atomic.Int64
	asked *atomic.Bool // is queued, or asked for
}

// Addresses are those known; e may be nil.
func (e *Entry) Addresses() []netip.Addr {
	if e == nil {
		return nil
	}
	return e.Addrs
}

// Reason is why there are none; e may be nil.
func (e *Entry) Reason() string {
	switch {
	case e == nil:
		return "the name asked for is none that may be resolved here, or too many are"
	case e.Err != nil:
		if d := (*net.DNSError)(nil); errors.As(e.Err, &d) {
			return d.Err // the rest is the name, and a server that need not be the one that was asked
		}
		return e.Err.Error()
	}
	return "the name server did not answer in time"
}

// New makes Hosts that know nothing.
func New(o Options) *Hosts {
	if o.Permit == nil {
		o.Permit = Foreign
	}
	h := &Hosts{o: o, wake: make(chan struct{}, 1)}
	h.view.Store(&map[string]*Entry{})
	return h
}

// Find returns what is known of a name in the form of AppendName; wait: it is being asked for. Without an entry there is no room
// for it.
func (h *Hosts) Find(name []byte) (e *Entry, wait bool) {
	now := time.Now()
	e = (*h.view.Load())[string(name)]
	if e == nil {
		if e = h.add(string(name), now); e == nil {
			return nil, false
		}
	}
	if last := e.used.Load(); now.UnixNano()-last > int64(time.Second) {
		e.used.Store(now.UnixNano())
	}
	age := now.Sub(e.at)
	switch {
	case e.Pending:
		return e, true
	case e.Addrs == nil && age >= Failed:
		h.again(e)
		return e, true
	case age >= Kept:
		h.again(e)
		return e, true
	case e.Addrs != nil && age >= Fresh:
		h.again(e) // while the old addresses serve
	}
	return e, false
}

// add makes an entry, whose name is asked for; nil: there is no room.
func (h *Hosts) add(name string, now time.Time) *Entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := *h.view.Load()
	if e := old[name]; e != nil {
		return e
	}
	next := maps.Clone(old)
	if len(next) >= MaxNames && !leave(next, now) {
		h.stats.Overflow++
		return nil
	}
	e := &Entry{Name: name, Pending: true, at: now, used: &atomic.Int64{}, asked: &atomic.Bool{}}
	e.used.Store(now.UnixNano())
	next[name] = e
	h.view.Store(&next)
	h.ask(e)
	return e
}

// leave lets the name go that was not used for longest; false: all of them are in use.
func leave(m map[string]*Entry, now time.Time) bool {
	var out *Entry
	for _, e := range m {
		if !e.asked.Load() && (out == nil || e.used.Load() < out.used.Load()) {
			out = e
		}
	}
	if out == nil || now.UnixNano()-out.used.Load() < int64(spare) {
		return false
	}
	delete(m, out.Name)
	return true
}

func (h *Hosts) again(e *Entry) {
	if e.asked.Load() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if (*h.view.Load())[e.Name] == e {
		h.ask(e)
	}
}

// ask queues an entry. The lock is held.
func (h *Hosts) ask(e *Entry) {
	if e.asked.Swap(true) {
		return
	}
	h.queue = append(h.queue, e)
	select {
	case h.wake <- struct{}{}:
	default:
	}
}

// Run asks for names until ctx ends.
func (h *Hosts) Run(ctx context.Context) error {
	type answer struct {
		e     *Entry
		addrs []netip.Addr
		err   error
	}
	done := make(chan answer)
	asking := 0
	t := time.NewTimer(Kept)
	defer t.Stop()
	for {
		for asking < AtOnce {
			e := h.next()
			if e == nil {
				break
			}
			asking++
			go func() {
				short, cancel := context.WithTimeout(ctx, Timeout)
				defer cancel()
				addrs, err := h.o.Find(short, e.Name)
				done <- answer{e, addrs, err}
			}()
		}
		select {
		case <-ctx.Done():
			for range asking {
				<-done
			}
			return nil
		case <-h.wake:
		case <-t.C:
			h.forget(time.Now())
			t.Reset(Kept)
		case a := <-done:
			asking--
			h.answered(a.e, a.addrs, a.err, time.Now())
			if h.o.Changed != nil {
				h.o.Changed()
			}
		}
	}
}

func (h *Hosts) next() *Entry {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.queue) == 0 {
		return nil
	}
	e := h.queue[0]
	h.queue = h.queue[1:]
	h.stats.Asked++
	return e
}

// answered notes an answer. One that cannot be renewed holds for as long as a name that is not used.
func (h *Hosts) answered(e *Entry, addrs []netip.Addr, err error, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	next := &Entry{Name: e.Name, at: now, used: e.used, asked: &atomic.Bool{}}
	if err == nil {
		next.Addrs = h.permitted(addrs)
		if next.Addrs == nil {
			err = ErrAddress
			h.stats.Refused++
		}
	}
	if err != nil {
		h.stats.Failed++
		// A name server that fails does not take away what is known. One that names forbidden addresses does.
		if e.Addrs != nil && now.Sub(e.at) < Kept && !errors.Is(err, ErrAddress) {
			e.asked.Store(false)
			return
		}
		next.Err = err
	}
	m := maps.Clone(*h.view.Load())
	m[e.Name] = next
	h.view.Store(&m)
}

func (h *Hosts) permitted(addrs []netip.Addr) (out []netip.Addr) {
	for _, a := range addrs {
		if a = a.Unmap(); a.Zone() == "" && h.o.Permit(a) && !slices.Contains(out, a) && len(out) < MaxAddrs {
			out = append(out, a)
		}
	}
	return out
}

// forget lets go of names that were not used for long.
func (h *Hosts) forget(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	m := maps.Clone(*h.view.Load())
	maps.DeleteFunc(m, func(_ string, e *Entry) bool {
		return !e.asked.Load() && now.UnixNano()-e.used.Load() >= int64(Kept)
	})
	h.view.Store(&m)
}

// Stats are those since the beginning, and how many names are known.
func (h *Hosts) Stats() (s Stats, names int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stats, len(*h.view.Load())
}

// nat64 is RFC 6052's prefix, whose last 32 bits are an IPv4 address; sixToFour RFC 3056's, which has one after it.
var (
	nat64     = netip.MustParsePrefix("64:ff9b::/96")
	sixToFour = netip.MustParsePrefix("2002::/16")
	broadcast = netip.MustParseAddr("255.255.255.255")
	thisHost  = netip.MustParsePrefix("0.0.0.0/8") // RFC 1122 section 3.2.1.3: Linux takes it for itself
)

// Foreign reports whether an address is neither this machine's own nor of its link (where clouds have their metadata servers), nor
// that of many: whoever answers for a name must not make the proxy call what trusts it for where it is.
func Foreign(a netip.Addr) bool {
	b := a.As16()
	switch a = a.Unmap(); {
	case nat64.Contains(a):
		return Foreign(netip.AddrFrom4([4]byte(b[12:])))
	case sixToFour.Contains(a):
		return Foreign(netip.AddrFrom4([4]byte(b[2:6])))
	case a.Is4() && thisHost.Contains(a), a == broadcast:
		return false
	}
	return a.IsValid() && !a.IsLoopback() && !a.IsUnspecified() && !a.IsLinkLocalUnicast() && !a.IsMulticast() && !a.IsInterfaceLocalMulticast()
}

// maxName is the longest name of DNS (RFC 1035 section 2.3.4), without the dot at its end.
const maxName = 253

// AppendName appends the name in an authority (or server name) as it is asked for: without port, in lower case, without a dot at the
// end. ok: it is one of DNS, and covered by pattern, which is a name or "*." and one. Addresses are none.
func AppendName(dst, authority []byte, pattern string) (name []byte, ok bool) {
	from := len(dst)
	host := authority
	for i, c := range authority {
		if c == ':' {
			host = authority[:i]
			if !digits(authority[i+1:]) {
				return dst, false
			}
			break
		}
	}
	if n := len(host); n > 0 && host[n-1] == '.' {
		host = host[:n-1]
	}
	if len(host) == 0 || len(host) > maxName {
		return dst, false
	}
	label, numeric := 0, true
	for i, c := range host {
		switch {
		case c == '.':
			if label == 0 || host[i-1] == '-' {
				return dst[:from], false
			}
			dst, label, numeric = append(dst, c), 0, true
			continue
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '_', c == '-' && label > 0:
		default:
			return dst[:from], false
		}
		if label++; label > 63 {
			return dst[:from], false
		}
		numeric = numeric && '0' <= c && c <= '9'
		dst = append(dst, c)
	}
	name = dst[from:]
	// What ends in a number is, or is taken for, an address (WHATWG URL, "ends in a number"; hexadecimal ones, too).
	last := name[len(name)-label:]
	if label == 0 || numeric || name[len(name)-1] == '-' || label > 1 && last[0] == '0' && last[1] == 'x' || !Covers(pattern, name) {
		return dst[:from], false
	}
	return dst, true
}

func digits(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(b) > 0 && len(b) <= 5
}

// Covers reports whether a name, in lower case, is the pattern's: of "*.example", whatever ends in ".example".
func Covers(pattern string, name []byte) bool {
	suffix, wild := strings.CutPrefix(pattern, "*")
	if !wild {
		return string(name) == pattern
	}
	return suffix != "" && len(name) > len(suffix) && string(name[len(name)-len(suffix):]) == suffix
}
