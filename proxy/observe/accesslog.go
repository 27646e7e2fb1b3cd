package observe

import (
	"context"
	"io"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weirmesh/weir/proxy/http/message"
)

// Record is one finished request or connection, as the access log shows it. Whoever
// finishes it fills it in; byte slices are only read during Log.Write.
type Record struct {
	Start    time.Time
	Duration time.Duration

	// Request is nil for TCP.
	Request      *message.Request
	OriginalPath []byte // before rewriting; nil: as in Request
	ServiceTime  []byte // x-envoy-upstream-service-time of the response

	Status                int
	Flags                 string // "-" or "" when none
	Details               string // RESPONSE_CODE_DETAILS
	Termination           string // CONNECTION_TERMINATION_DETAILS
	UpstreamFailure       string // UPSTREAM_TRANSPORT_FAILURE_REASON
	Received, Sent        int64
	UpstreamHost          netip.AddrPort
	UpstreamPath          string // of a Unix socket, instead
	UpstreamCluster       string
	UpstreamLocal         netip.AddrPort
	DownstreamLocal       netip.AddrPort
	DownstreamRemote      netip.AddrPort
	ServerName, RouteName string
}

// AppendText appends the line of Istio's default format (features of %…% operators in
// MeshConfig.accessLogFormat's default), with its newline.
func (r *Record) AppendText(b []byte) []byte {
	b = append(b, '[')
	b = r.Start.UTC().AppendFormat(b, "2006-01-02T15:04:05.000Z")
	b = append(b, `] "`...)
	if q := r.Request; q != nil {
		b = appendBytes(b, q.RawMethod)
		b = append(b, ' ')
		switch {
		case q.Headers.Get(message.XEnvoyOriginalPath) != nil:
			b = appendBytes(b, q.Headers.Get(message.XEnvoyOriginalPath))
		case r.OriginalPath != nil:
			b = appendBytes(b, r.OriginalPath)
		default:
			b = appendBytes(b, q.Path)
		}
		b = append(append(b, ' '), q.Protocol.String()...)
	} else {
		b = append(b, "- - -"...)
	}
	b = append(b, `" `...)
	b = strconv.AppendInt(b, int64(r.Status), 10)
	b = appendDash(append(b, ' '), r.Flags)
	b = appendDash(append(b, ' '), r.Details)
	b = appendDash(append(b, ' '), r.Termination)
	b = appendDash(append(b, ` "`...), r.UpstreamFailure)
	b = append(b, `" `...)
	b = strconv.AppendInt(b, r.Received, 10)
	b = strconv.AppendInt(append(b, ' '), r.Sent, 10)
	b = strconv.AppendInt(append(b, ' '), r.Duration.Milliseconds(), 10)
	b = appendBytes(append(b, ' '), r.ServiceTime)
	for _, id := range [...]message.ID{message.XForwardedFor, message.UserAgent, message.XRequestID} {
		b = append(b, ` "`...)
		var v []byte
		if r.Request != nil {
			v = r.Request.Headers.Get(id)
		}
		b = append(appendBytes(b, v), '"')
	}
	b = append(b, ` "`...)
	if r.Request != nil {
		b = appendBytes(b, r.Request.Authority)
	} else {
		b = append(b, '-')
	}
	b = append(b, `" "`...)
	if r.UpstreamPath != "" {
		b = appendText(b, r.UpstreamPath)
	} else {
		b = appendAddr(b, r.UpstreamHost)
	}
	b = append(b, `" `...)
	b = appendDash(b, r.UpstreamCluster)
	b = appendAddr(append(b, ' '), r.UpstreamLocal)
	b = appendAddr(append(b, ' '), r.DownstreamLocal)
	b = appendAddr(append(b, ' '), r.DownstreamRemote)
	b = appendDash(append(b, ' '), r.ServerName)
	b = appendDash(append(b, ' '), r.RouteName)
	return append(b, '\n')
}

func appendDash(b []byte, s string) []byte {
	if s == "" {
		return append(b, '-')
	}
	return appendText(b, s)
}

func appendBytes(b, v []byte) []byte {
	if v == nil {
		return append(b, '-')
	}
	return appendText(b, v)
}

// appendText keeps a line a line and its quoting sound, whatever a peer sent: control
// bytes, quotes and backslashes are escaped.
func appendText[S ~string | ~[]byte](b []byte, v S) []byte {
	const hex = "0123456789abcdef"
	for i := range len(v) {
		switch c := v[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c == 0x7f:
			b = append(b, '\\', 'x', hex[c>>4], hex[c&15])
		default:
			b = append(b, c)
		}
	}
	return b
}

func appendAddr(b []byte, a netip.AddrPort) []byte {
	if !a.IsValid() {
		return append(b, '-')
	}
	return a.AppendTo(b)
}

const (
	logChunk = 16 << 10
	// logChunks of logChunk each wait for a slow reader: 4 MiB, then lines are dropped.
	logChunks = 256
)

// Log writes access log lines without ever making a worker wait: lines are gathered in
// chunks, and a goroutine writes them.
type Log struct {
	mu   sync.Mutex
	cur  []byte
	wake chan struct{}
	full [][]byte
	free [][]byte
	// Dropped counts lines that found no room.
	Dropped atomic.Uint64
}

// NewLog makes a Log; Run writes it out.
func NewLog() *Log { return &Log{wake: make(chan struct{}, 1)} }

// Write appends the line of r. It copies what it needs.
func (l *Log) Write(r *Record) {
	l.mu.Lock()
	if len(l.full) >= logChunks {
		l.mu.Unlock()
		l.Dropped.Add(1)
		return
	}
	if l.cur == nil {
		if n := len(l.free); n > 0 {
			l.cur, l.free = l.free[n-1], l.free[:n-1]
		} else {
			l.cur = make([]byte, 0, logChunk+1024)
		}
	}
	l.cur = r.AppendText(l.cur)
	if len(l.cur) >= logChunk {
		l.full = append(l.full, l.cur)
		l.cur = nil
	}
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Run writes lines to w until ctx ends, then what is left. An error of w drops the
// lines at hand and is not fatal: the next ones may pass.
func (l *Log) Run(ctx context.Context, w io.Writer) error {
	for {
		select {
		case <-ctx.Done():
			l.flush(w)
			return nil
		case <-l.wake:
			l.flush(w)
		}
	}
}

func (l *Log) flush(w io.Writer) {
	l.mu.Lock()
	chunks := l.full
	if len(l.cur) > 0 {
		chunks = append(chunks, l.cur)
		l.cur = nil
	}
	l.full = nil
	l.mu.Unlock()
	for _, c := range chunks {
		if _, err := w.Write(c); err != nil {
			l.Dropped.Add(1)
		}
	}
	l.mu.Lock()
	for _, c := range chunks {
		if len(l.free) < 4 && cap(c) <= 4*logChunk { // a few chunks serve the usual rate
			l.free = append(l.free, c[:0])
		}
	}
	l.mu.Unlock()
}
