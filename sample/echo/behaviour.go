package echo

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	maxDelay = time.Hour
	maxSize  = 1 << 40
	maxChunk = 1 << 20

	// headerPrefix begins the names of request headers that ask for a behaviour.
	headerPrefix = "x-echo-"
)

// behaviour is what a request asks the server to do. The zero value, after
// defaults, answers 200 with a report.
type behaviour struct {
	Status        int
	Delay         time.Duration // before the head
	BodyDelay     time.Duration // between head and body
	ChunkDelay    time.Duration // between chunks of the body
	Chunk         int           // bytes written at a time
	Size          int64         // of a body of Pattern instead of the report; -1: report
	EchoBody      bool          // the request body instead of the report
	Text          bool          // a report for people
	Framing       string        // "", "length", "chunked" or "close"
	Headers       []Field
	Trailers      []Field
	Informational []int
	Fail          float64 // probability of FailStatus
	FailStatus    int
	End           end   // how the connection ends without a whole answer
	EndAt         point // and when
	CloseAfter    bool  // the connection, after the answer
	Continue      string
	ContinueDelay time.Duration
	ReadBody      string // "before" the answer, "after" it, "none"
	ReadSize      int    // bytes read at a time
	ReadDelay     time.Duration
}

// end is how a connection ends early.
type end int

const (
	endNot   end = iota
	endClose     // FIN
	endReset     // RST
)

// point is a moment of an exchange.
type point string

const (
	atRequest point = "request" // the request's head is read
	atAnswer  point = "answer"  // the request's body is read, nothing is sent
	atHead    point = "head"    // the answer's head is sent
	atBody    point = "body"    // half of the answer's body is sent
)

// knobs lists what can be asked for. Each sets its part of the behaviour from the
// text of a query parameter, or of a header with the prefix.
func knobs() map[string]func(*behaviour, string) error {
	return map[string]func(*behaviour, string) error{
		"status":      func(b *behaviour, s string) (err error) { b.Status, err = number(s, 200, 999); return },
		"delay":       func(b *behaviour, s string) (err error) { b.Delay, err = delay(s); return },
		"body-delay":  func(b *behaviour, s string) (err error) { b.BodyDelay, err = delay(s); return },
		"chunk-delay": func(b *behaviour, s string) (err error) { b.ChunkDelay, err = delay(s); return },
		"chunk":       func(b *behaviour, s string) (err error) { b.Chunk, err = number(s, 1, maxChunk); return },
		"size":        func(b *behaviour, s string) (err error) { b.Size, err = number[int64](s, 0, maxSize); return },
		"body":        func(b *behaviour, s string) (err error) { b.EchoBody, err = either(s, "report", "echo"); return },
		"format":      func(b *behaviour, s string) (err error) { b.Text, err = either(s, "json", "text"); return },
		"framing": func(b *behaviour, s string) (err error) {
			b.Framing, err = oneOf(s, "length", "chunked", "close")
			return
		},
		"header":        func(b *behaviour, s string) (err error) { b.Headers, err = addField(b.Headers, s); return },
		"trailer":       func(b *behaviour, s string) (err error) { b.Trailers, err = addField(b.Trailers, s); return },
		"informational": informational,
		"fail":          fail,
		"fail-status":   func(b *behaviour, s string) (err error) { b.FailStatus, err = number(s, 200, 999); return },
		"close":         func(b *behaviour, s string) error { return b.endAt(endClose, s) },
		"reset":         func(b *behaviour, s string) error { return b.endAt(endReset, s) },
		"connection":    func(b *behaviour, s string) (err error) { b.CloseAfter, err = either(s, "keep-alive", "close"); return },
		"continue": func(b *behaviour, s string) (err error) {
			b.Continue, err = oneOf(s, "auto", "never", "refuse")
			return
		},
		"continue-delay": func(b *behaviour, s string) (err error) { b.ContinueDelay, err = delay(s); return },
		"read": func(b *behaviour, s string) (err error) {
			b.ReadBody, err = oneOf(s, "before", "after", "none")
			return
		},
		"read-size":  func(b *behaviour, s string) (err error) { b.ReadSize, err = number(s, 1, maxChunk); return },
		"read-delay": func(b *behaviour, s string) (err error) { b.ReadDelay, err = delay(s); return },
	}
}

// behaviourOf reads what the request asks for. Query parameters that are no knob
// are the application's; a header with our prefix that is none is an error.
func behaviourOf(req *request) (*behaviour, error) {
	b := &behaviour{
		Status: 200, FailStatus: 503, Size: -1, Chunk: 16 << 10, ReadSize: 32 << 10,
		Continue: "auto", ReadBody: "before",
	}
	knobs := knobs()
	turn := func(name, value string) error {
		if err := knobs[name](b, value); err != nil {
			return badRequest(fmt.Sprintf("%s=%s: %v", name, value, err))
		}
		return nil
	}
	query, err := url.ParseQuery(req.query)
	if err != nil {
		return nil, badRequest(fmt.Sprintf("query: %v", err))
	}
	for _, name := range slices.Sorted(maps.Keys(query)) {
		for _, value := range query[name] {
			if knobs[name] == nil {
				continue
			}
			if err := turn(name, value); err != nil {
				return nil, err
			}
		}
	}
	for _, f := range req.fields {
		name, ours := strings.CutPrefix(strings.ToLower(f.Name), headerPrefix)
		if !ours {
			continue
		}
		if knobs[name] == nil {
			return nil, badRequest(fmt.Sprintf("%s: there is no such behaviour; known are %s", f.Name, strings.Join(slices.Sorted(maps.Keys(knobs)), ", ")))
		}
		if err := turn(name, f.Value); err != nil {
			return nil, err
		}
	}
	return b, b.check(req)
}

// check refuses what contradicts itself.
func (b *behaviour) check(req *request) error {
	switch {
	case len(b.Trailers) > 0 && b.Framing != "" && b.Framing != "chunked":
		return badRequest("trailer needs framing=chunked")
	case (b.Framing == "chunked" || len(b.Trailers) > 0) && req.proto == "HTTP/1.0":
		return badRequest("framing=chunked and trailer need HTTP/1.1")
	case b.EchoBody && b.ReadBody != "before":
		return badRequest("body=echo needs read=before")
	case b.EchoBody && b.Size >= 0:
		return badRequest("body=echo and size exclude each other")
	case b.EchoBody && b.Framing == "length" && req.length < 0:
		return badRequest("framing=length with body=echo needs a request with Content-Length")
	}
	return nil
}

func number[N int | int64](s string, low, high N) (N, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < int64(low) || n > int64(high) {
		return 0, fmt.Errorf("want a number from %d to %d", low, high)
	}
	return N(n), nil
}

func delay(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > maxDelay {
		return 0, fmt.Errorf("want a duration up to %s, such as 250ms", maxDelay)
	}
	return d, nil
}

func oneOf(s string, choices ...string) (string, error) {
	if !slices.Contains(choices, s) {
		return "", fmt.Errorf("want one of %s", strings.Join(choices, ", "))
	}
	return s, nil
}

// either reports whether s is on.
func either(s, off, on string) (bool, error) {
	_, err := oneOf(s, off, on)
	return s == on, err
}

func addField(fields []Field, s string) ([]Field, error) {
	f, err := parseField(s)
	return append(fields, f), err
}

func informational(b *behaviour, s string) error {
	for field := range strings.SplitSeq(s, ",") {
		n, err := number(field, 102, 199) // 100 is "continue", 101 would end HTTP
		if err != nil {
			return err
		}
		b.Informational = append(b.Informational, n)
	}
	return nil
}

func fail(b *behaviour, s string) error {
	p, err := strconv.ParseFloat(s, 64)
	if err != nil || !(p >= 0 && p <= 1) { // NaN is neither
		return errors.New("want a probability from 0 to 1")
	}
	b.Fail = p
	return nil
}

func (b *behaviour) endAt(how end, s string) error {
	at, err := oneOf(s, string(atRequest), string(atAnswer), string(atHead), string(atBody))
	b.End, b.EndAt = how, point(at)
	return err
}

// bodyless reports whether a status has no body (RFC 9110, 6.4.1).
func bodyless(status int) bool {
	return status == http.StatusNoContent || status == http.StatusNotModified
}

// pattern is what bodies of a given size are made of: byte i is pattern[i%64].
const pattern = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-\n"

// Pattern returns the body of size bytes that ?size= asks for.
func Pattern(size int64) io.Reader {
	return io.LimitReader(&patternReader{}, size)
}

type patternReader struct{ at int }

func (p *patternReader) Read(b []byte) (int, error) {
	for n := 0; n < len(b); {
		n += copy(b[n:], pattern[(p.at+n)%len(pattern):])
	}
	p.at = (p.at + len(b)) % len(pattern)
	return len(b), nil
}
