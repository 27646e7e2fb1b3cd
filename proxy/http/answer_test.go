package http_test

import (
	"bytes"
	"testing"

	"github.com/weirmesh/weir/proxy/http"
)

// A response that was there before its request was sent answers nothing: whoever takes it for the answer gives every
// client behind it the answer of somebody else. It makes no difference which of the two the worker sees first.
func TestAnswerBeforeQuestion(t *testing.T) {
	for _, upstreamFirst := range []bool{true, false} {
		p := newPath(t, http.Outbound, getRequest, okResponse(10))
		ask := func() { p.client.Send(p.request) }
		poison := func() { p.upstream.Send([]byte("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison")) }
		if upstreamFirst {
			poison()
			ask()
		} else {
			ask()
			poison()
		}
		p.net.Step()
		second := p.listener.Accept()
		if second == nil {
			t.Fatalf("upstream first %v: the request was not asked again", upstreamFirst)
		}
		if got, _ := p.upstream.Recv(); len(got) > 0 {
			t.Errorf("upstream first %v: the connection was used: %q", upstreamFirst, got)
		}
		p.upstream = second
		p.answer(t)
		if bytes.Contains(p.buf, []byte("poison")) {
			t.Errorf("upstream first %v: the client got %q", upstreamFirst, p.buf)
		}
	}
}
