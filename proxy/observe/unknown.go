package observe

import "time"

// UnknownHost is a host that was asked for and that no virtual host of a route table has.
type UnknownHost struct {
	Table, Host string
	Requests    uint64
	Last        time.Time
}

const (
	// maxUnknown bounds those of a worker: who asks chooses the names. The one that was not asked for longest goes.
	maxUnknown = 64
	// maxHost is what is kept of a name: the longest of DNS with a port.
	maxHost = 253 + len(":65535")
)

// Unknown counts a request for a host that nobody knows; it reports whether that was the first of those it remembers.
func (w *Worker) Unknown(table string, host []byte, now time.Time) bool {
	host = host[:min(len(host), maxHost)]
	oldest := 0
	for i := range w.unknown {
		u := &w.unknown[i]
		if u.Table == table && u.Host == string(host) {
			u.Requests++
			u.Last = now
			return false
		}
		if u.Last.Before(w.unknown[oldest].Last) {
			oldest = i
		}
	}
	n := UnknownHost{Table: table, Host: string(host), Requests: 1, Last: now}
	if len(w.unknown) < maxUnknown {
		w.unknown = append(w.unknown, n)
	} else {
		w.unknown[oldest] = n
	}
	return true
}

// UnknownHosts are those of the worker, which must be asked on its own thread.
func (w *Worker) UnknownHosts() []UnknownHost { return append([]UnknownHost(nil), w.unknown...) }
