package http_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/http"
)

// unforwarded is a request that is answered by the proxy itself.
const unforwarded = "OPTIONS * HTTP/1.1\r\nHost: reviews:9080\r\nMax-Forwards: 0\r\n\r\n"

// pour sends b from the client, over and over, until no more of it is taken.
func (p *path) pour(t *testing.T, b []byte) (taken int) {
	t.Helper()
	const tooMuch = 1 << 20
	for off := 0; taken < tooMuch; {
		n, err := p.client.Send(b[off:])
		if err != nil {
			t.Fatal(err)
		}
		p.net.Step()
		if n == 0 {
			return taken
		}
		taken += n
		off = (off + n) % len(b)
	}
	t.Fatalf("%d KiB of requests were taken from a client that reads no answer", taken>>10)
	return 0
}

// drink reads all that p's client gets.
func (p *path) drink() (got []byte) {
	for {
		b, _ := p.client.Recv()
		if len(b) == 0 {
			return got
		}
		got = append(got, b...)
		p.net.Step()
	}
}

// Small answers pass no watermark of a body: whoever asks again and again without reading must find nobody who listens.
func TestUnreadAnswersAreBounded(t *testing.T) {
	p := newPath(t, http.Outbound, getRequest, okResponse(10))
	taken := p.pour(t, bytes.Repeat([]byte(unforwarded), 100))
	got := p.drink()
	if cut := taken % len(unforwarded); cut > 0 {
		p.client.Send([]byte(unforwarded[cut:]))
		p.net.Step()
		got = append(got, p.drink()...)
		taken += len(unforwarded) - cut
	}
	p.net.Advance(http.DefaultHeaderTimeout) // who has read may be silent for longer
	if _, err := p.client.Recv(); err != nil {
		t.Error(err)
	}
	if asked, answered := taken/len(unforwarded), bytes.Count(got, []byte("HTTP/1.1 200")); answered != asked {
		t.Errorf("%d requests, %d answers", asked, answered)
	}
}

// A client that goes on reading nothing is let go of.
func TestUnreadAnswersAreNotKeptForEver(t *testing.T) {
	p := newPath(t, http.Outbound, getRequest, okResponse(10))
	p.pour(t, bytes.Repeat([]byte(unforwarded), 100))
	open := p.net.Open()
	p.net.Advance(http.DefaultHeaderTimeout - time.Second)
	if n := p.net.Open(); n != open {
		t.Errorf("%d sockets, before %d: it is too early", n, open)
	}
	p.net.Advance(12 * time.Second) // Close takes 10 to give up
	if n := p.net.Open(); n != open-1 {
		t.Errorf("%d sockets, before %d", n, open)
	}
}

// BenchmarkPipeline is 100 requests at once, answered here to a client that reads: what one costs the user code.
func BenchmarkPipeline(b *testing.B) {
	p := newPath(b, http.Outbound, getRequest, okResponse(10))
	p.request = bytes.Repeat([]byte(unforwarded), 100)
	b.ReportAllocs()
	for b.Loop() {
		p.client.Send(p.request)
		p.net.Step()
		if n := bytes.Count(p.buf[:p.client.Take(p.buf)], []byte("HTTP/1.1 200")); n != 100 {
			b.Fatalf("%d answers", n)
		}
	}
}
