package h2

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	get1  = "; :method: GET; :scheme: http; :authority: svc; :path: /"
	post1 = "; :method: POST; :scheme: http; :authority: svc; :path: /"
)

// flood repeats lines, in which %d is the next stream, until the connection ends, and says after how many times and why.
func (d *side) flood(t *testing.T, first, max int, lines ...string) (n int, r Reason) {
	t.Helper()
	for n = range max {
		for _, l := range lines {
			if strings.HasPrefix(l, "call ") {
				d.call(strings.ReplaceAll(l[5:], "%d", fmt.Sprint(first+2*n)))
				continue
			}
			d.receive(strings.ReplaceAll(l, "%d", fmt.Sprint(first+2*n)))
			d.run()
		}
		d.log.Reset()
		d.out = d.out[:0]
		if r := d.m.Failed(); r != OK {
			return n, r
		}
	}
	return max, OK
}

func begin(t *testing.T, server bool, o *Options) *side {
	d := newSide(t)
	if server {
		d.out = d.m.StartServer(d.out, o, d.now)
		d.receive("preface")
	} else {
		d.out = d.m.StartClient(d.out, o, d.now)
	}
	d.receive("SETTINGS")
	d.receive("SETTINGS ack")
	d.run()
	return d
}

// Without time or useful work each flood ends where its budget does, with a reason of its own.
func TestFloods(t *testing.T) {
	for _, c := range []struct {
		intention string
		client    bool
		before    []string
		lines     []string
		want      int
		reason    Reason
	}{
		{"rapid reset: streams opened and reset at once (CVE-2023-44487)", false, nil,
			[]string{"HEADERS %d END" + get1, "RST_STREAM %d 8", "call release %d 0"}, 1024, ResetFlood},
		{"resets that we are made to send, by a window (CVE-2025-8671)", false, nil,
			[]string{"HEADERS %d" + post1, "WINDOW_UPDATE %d 0", "call release %d 0"}, 1024, ErrorFlood},
		{"resets that we are made to send, by DATA behind the end", false, nil,
			[]string{"HEADERS %d END" + get1, "DATA %d x", "call release %d 0"}, 1024, ErrorFlood},
		{"malformed requests", false, nil,
			[]string{"HEADERS %d END" + get1 + "; connection: x", "call release %d 0"}, 1024, ErrorFlood},
		{"empty HEADERS", false, nil, []string{"HEADERS %d END", "call release %d 0"}, 1024, ErrorFlood},
		{"refused streams", false, []string{"call refuse"}, []string{"HEADERS %d END" + get1}, 1024, ErrorFlood},
		{"HEADERS on a stream the client has reset", false, []string{"HEADERS 1" + post1, "RST_STREAM 1 8"},
			[]string{"HEADERS 1; x: y"}, 1000, DeadStreamFlood},
		{"PING", false, nil, []string{"PING 12345678"}, 1000, PingFlood},
		{"SETTINGS", false, nil, []string{"SETTINGS 1=100"}, 100, SettingsFlood},
		{"SETTINGS that change every stream's window", false, []string{"HEADERS 1" + post1}, []string{"SETTINGS 4=1"}, 100, SettingsFlood},
		{"SETTINGS ACK that nobody waits for", false, nil, []string{"SETTINGS ack"}, 1000, UnknownFrameFlood},
		{"answers to no PING", false, nil, []string{"PING ack 12345678"}, 1000, UnknownFrameFlood},
		{"PRIORITY", false, nil, []string{"PRIORITY 1 3"}, 1000, PriorityFlood},
		{"WINDOW_UPDATE of the connection", false, nil, []string{"WINDOW_UPDATE 0 1"}, 1000, WindowUpdateFlood},
		{"WINDOW_UPDATE of a stream", false, []string{"HEADERS 1" + post1}, []string{"WINDOW_UPDATE 1 1"}, 1000, WindowUpdateFlood},
		{"DATA without data", false, []string{"HEADERS 1" + post1}, []string{"DATA 1"}, 1000, EmptyDataFlood},
		{"DATA with padding of no bytes", false, []string{"HEADERS 1" + post1}, []string{"DATA 1 pad=0"}, 1000, EmptyDataFlood},
		{"DATA with nothing but padding", false, []string{"HEADERS 1" + post1}, []string{"DATA 1 pad=255"}, 1000, EmptyDataFlood},
		{"DATA on a stream that we have reset, beyond its window", false, []string{"HEADERS 1" + post1, "call release 1 2"}, []string{"DATA 1 " + strings.Repeat("x", 256)}, 1024 + 1000, DeadStreamFlood},
		{"DATA without data on a stream that we have reset", false, []string{"HEADERS 1" + post1, "call release 1 2"}, []string{"DATA 1"}, 1000, DeadStreamFlood},
		{"DATA on a stream that the client has reset", false, []string{"HEADERS 1" + post1, "RST_STREAM 1 8"}, []string{"DATA 1 x"}, 1000, DeadStreamFlood},
		{"RST_STREAM again and again", false, []string{"HEADERS 1" + post1, "RST_STREAM 1 8"}, []string{"RST_STREAM 1 8"}, 1000, DeadStreamFlood},
		{"unknown frames", false, nil, []string{"FRAME 77 0 0"}, 1000, UnknownFrameFlood},
		{"GOAWAY again and again", false, []string{"GOAWAY 0 0"}, []string{"GOAWAY 0 0"}, 100, UnknownFrameFlood},
		{"CONTINUATION without end (CVE-2024-27316)", false, []string{"HEADERS 1 MORE" + get1}, []string{"CONTINUATION 1 MORE; x: y"}, 64, ContinuationFlood},
		{"CONTINUATION of nothing", false, []string{"HEADERS 1 MORE" + get1}, []string{"CONTINUATION 1 MORE"}, 64, ContinuationFlood},
		{"CONTINUATION with much in it", false, []string{"HEADERS 1 MORE" + get1}, []string{"CONTINUATION 1 MORE; x: **16000"}, 9, HeadersTooLarge},
		{"interim responses", true, []string{"call request 1 GET / END"}, []string{"HEADERS 1; :status: 103"}, 1000, InterimFlood},
		{"a server that makes us reset", true, nil, []string{"call request %d GET / END", "HEADERS %d; x: y", "call release %d 0"}, 1024, ErrorFlood},
	} {
		d := begin(t, !c.client, &Options{})
		for _, l := range c.before {
			if rest, ok := strings.CutPrefix(l, "call "); ok {
				d.call(rest)
			} else {
				d.receive(l)
				d.run()
			}
		}
		n, r := d.flood(t, 1, 5000, c.lines...)
		// A stream that was opened before has paid in for a few frames more, up to the limit.
		if r != c.reason || n < c.want-1 || n > c.want+11 {
			t.Errorf("%s: %v after %d, want %v after %d", c.intention, r, n, c.reason, c.want)
		}
	}
}

// What honest peers do goes on for ever, without any help of the clock.
func TestHonestWorkEarnsWhatItSpends(t *testing.T) {
	for _, c := range []struct {
		intention string
		before    []string
		lines     []string
	}{
		{"every other request is cancelled", nil, []string{"HEADERS %d END" + get1, "call respond %d 200", "RST_STREAM %d 8", "call release %d 0"}},
		{"a gRPC stream with a PING for each message, and a reader that opens both windows for each of ours",
			[]string{"HEADERS 1" + post1, "call respond 1 200"},
			[]string{"DATA 1 message", "call consumed 1 7", "PING 12345678", "call data 1 10", "WINDOW_UPDATE 1 10", "WINDOW_UPDATE 0 10"}},
		{"uploads of small messages that are refused while they come", nil,
			append([]string{"HEADERS %d" + post1, "call respond %d 413 END", "call release %d 0"}, slices.Repeat([]string{"DATA %d message"}, 40)...)},
		{"requests with priorities", nil, []string{"HEADERS %d END dep=0" + get1, "PRIORITY %d 0", "call respond %d 200 END", "call release %d 0"}},
		{"a body whose end is an empty DATA", nil, []string{"HEADERS %d" + post1, "DATA %d x", "DATA %d END", "call respond %d 200 END", "call release %d 0"}},
	} {
		d := begin(t, true, &Options{})
		for _, l := range c.before {
			if rest, ok := strings.CutPrefix(l, "call "); ok {
				d.call(rest)
			} else {
				d.receive(l)
				d.run()
			}
		}
		if n, r := d.flood(t, 1, 20000, c.lines...); r != OK {
			t.Errorf("%s: %v after %d", c.intention, r, n)
		}
	}
}

// Time gives 100 frames and 64 resets a second, and no more than the budgets hold.
func TestTimeRefills(t *testing.T) {
	d := begin(t, true, &Options{})
	d.now += int64(time.Hour)
	if n, _ := d.flood(t, 1, 999, "PING 12345678"); n != 999 {
		t.Fatalf("%d frames", n)
	}
	d.now += int64(time.Second)
	if n, r := d.flood(t, 1, 5000, "PING 12345678"); r != PingFlood || n < 100 || n > 102 {
		t.Errorf("%v after %d frames in the next second", r, n)
	}
	d = begin(t, true, &Options{})
	next := 1
	for range 10 {
		if n, r := d.flood(t, next, 64, "HEADERS %d END"+get1, "RST_STREAM %d 8", "call release %d 0"); r != OK {
			t.Fatalf("%v after %d", r, n)
		}
		next += 128
		d.now += int64(time.Second)
	}
	if n, r := d.flood(t, next, 5000, "HEADERS %d END"+get1, "RST_STREAM %d 8", "call release %d 0"); r != ResetFlood || n < 1020 || n > 1030 {
		t.Errorf("%v after %d", r, n)
	}
	// Streams that lived a second may be cancelled without end: so does who waits for news.
	d = begin(t, true, &Options{})
	for i := range 3000 {
		d.receive(fmt.Sprintf("HEADERS %d END"+get1, 2*i+1))
		d.run()
		if i >= 100 {
			d.receive(fmt.Sprintf("RST_STREAM %d 8", 2*(i-100)+1))
			d.run()
			d.call(fmt.Sprintf("release %d 0", 2*(i-100)+1))
		}
		d.now += int64(10 * time.Millisecond)
		d.out = d.out[:0]
	}
	if r := d.m.Failed(); r != OK {
		t.Error(r)
	}
}

func TestEveryReasonHasANameAndSentence(t *testing.T) {
	names := map[string]bool{}
	for r := range compression {
		if r.String() == "" || names[r.String()] || r != OK && (r.Sentence() == "" || r.Status() < 400) {
			t.Errorf("reason %d: %q, %q", r, r, r.Sentence())
		}
		names[r.String()] = true
	}
}
