package h2

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"golang.org/x/net/http2"
)

// play gives a machine bytes in pieces and does what a caller may do; what happened comes back as text, DATA pieces joined. It checks
// what must hold whatever the peer sends.
func play(t *testing.T, server bool, in []byte, piece int) string {
	d := newSide(t)
	m := &d.m
	if server {
		d.out = m.StartServer(d.out, &Options{MaxStreams: 5, StreamWindow: 3000, HeadBytes: 5000, ExtendedConnect: true}, d.now)
	} else {
		d.out = m.StartClient(d.out, &Options{StreamWindow: 3000, HeadBytes: 5000}, d.now)
		d.call("request 1 GET / END x=y")
		d.call("request 3 POST /post")
		d.call("request 5 HEAD / END")
		d.call("request 7 GET /chat upgrade")
		d.call("data 3 100000 END")
	}
	// The caller sends and consumes at the end of a frame, so that what happens does not depend on the pieces.
	turns := func() {
		for s := m.Ready(); s != nil; s = m.Ready() {
			h := s.Owner.(*held)
			before := len(h.queue)
			d.send(h)
			if len(h.queue) == before {
				t.Fatal("a turn without a byte")
			}
			if s.is(recvDone) && s.is(sendDone) {
				d.out = m.Release(d.out, s, Cancel)
			}
		}
	}
	var story strings.Builder
	body := map[uint32]int{}
	consumed := 0
	steps := 0
	for len(in) > 0 || len(d.in) > 0 {
		n := min(piece, len(in))
		d.in, in = append(d.in, in[:n]...), in[n:]
		for {
			if steps++; steps > 100000 {
				t.Fatal("it does not end")
			}
			before := len(d.out)
			out, used, ev := m.Step(d.out, d.in, d.now)
			d.out, d.in = out, d.in[used:]
			if len(out)-before > StepRoom {
				t.Fatalf("a Step appended %d bytes", len(out)-before)
			}
			if ev.Kind == More {
				break
			}
			if ev.Kind == Data {
				body[ev.Stream.ID()] += len(ev.Data)
				if consumed += len(ev.Data); !m.data.on {
					d.out = m.Consumed(d.out, ev.Stream, consumed)
					consumed = 0
				}
			} else {
				d.log.Reset()
				d.event(ev)
				story.WriteString(d.log.String())
			}
			if ev.Kind == Failed {
				d.in, in = nil, nil
				break
			}
			if ev.Kind == Open {
				continue
			}
			if s := ev.Stream; s != nil {
				if h := s.Owner.(*held); server && (ev.Kind == Refuse || ev.End) {
					h.resp.Status = 200
					room := ResponseRoom(&h.resp)
					before := len(d.out)
					h.resp.NoBody = s.ID()%4 == 1
					d.out = m.Response(d.out, s, &h.resp)
					if len(d.out)-before > room {
						t.Fatalf("a head of %d bytes, announced %d", len(d.out)-before, room)
					}
					if !h.resp.NoBody {
						h.queue, h.end = bytes.Repeat([]byte("d"), 20000), true
						d.send(h)
					}
				}
				if ev.Kind == Reset || s.is(recvDone) && s.is(sendDone) {
					fmt.Fprintf(&story, "body %d\n", body[s.ID()])
					body[s.ID()] = 0
					d.out = m.Release(d.out, s, Cancel)
				}
			}
			turns()
		}
		if len(d.in) > 0 && len(in) == 0 {
			break
		}
		if m.active > m.table.n || m.o.MaxStreams < m.active && server {
			t.Fatalf("%d active of %d", m.active, m.table.n)
		}
		if int(m.recvWindow)+int(m.credit) > int(m.o.ConnWindow) {
			t.Fatalf("window of %d and %d", m.recvWindow, m.credit)
		}
	}
	for s := m.First(); s != nil; s = m.First() {
		d.out = m.Release(d.out, s, Cancel)
	}
	if m.Failed() == OK && (m.table.n != 0 || m.Active() != 0 || m.waiters != 0 || m.ring != nil) {
		t.Fatalf("%d streams, %d active, %d waiting", m.table.n, m.Active(), m.waiters)
	}
	// Whatever came in, what goes out is in order.
	p, _ := bytes.CutPrefix(d.out, []byte(preface))
	fr := http2.NewFramer(nil, bytes.NewReader(p))
	fr.ReadMetaHeaders = d.dec
	for {
		if _, err := fr.ReadFrame(); err != nil {
			if err.Error() != "EOF" {
				t.Fatalf("what we send: %v", err)
			}
			break
		}
	}
	return story.String()
}

func fuzz(f *testing.F, server bool, seeds ...[]string) {
	add := func(b []byte) {
		f.Add(b, 1<<20)
		f.Add(b, 7)
	}
	for _, lines := range seeds {
		d := newSide(f)
		for _, l := range lines {
			d.receive(l)
		}
		add(d.in)
	}
	if server {
		for seed := range uint64(20) {
			add(append([]byte(preface), generate(rand.New(rand.NewPCG(seed, 9)))...))
		}
	}
	f.Fuzz(func(t *testing.T, in []byte, piece int) {
		if len(in) > 200000 {
			return
		}
		whole := play(t, server, in, 1<<20)
		if piece = 1 + (piece&0x7fffffff)%20000; len(in)/piece > 20000 {
			return
		}
		if got := play(t, server, in, piece); got != whole {
			t.Fatalf("in pieces of %d:\n%s\nat once:\n%s", piece, got, whole)
		}
	})
}

// What happens does not depend on how the bytes are cut, nothing a client sends breaks what must hold, and all we send is valid.
func FuzzServer(f *testing.F) {
	fuzz(f, true,
		[]string{"preface", "SETTINGS 4=10", "HEADERS 1 END" + get1, "SETTINGS ack", "WINDOW_UPDATE 1 100", "PING 12345678"},
		[]string{"preface", "SETTINGS", "HEADERS 1 MORE pad=3" + post1, "CONTINUATION 1; x: y; cookie: a; cookie: b", "DATA 1 pad=4 bytes=2000", "HEADERS 1 END; a: b"},
		[]string{"preface", "SETTINGS", "HEADERS 1" + post1, "RST_STREAM 1 8", "DATA 1 x", "HEADERS 3" + post1 + "; x: **9000", "DATA 3 END x", "GOAWAY 0 0"},
		[]string{"preface", "SETTINGS 1=0 4=0", "HEADERS 1; :method: CONNECT; :protocol: websocket; :scheme: http; :authority: svc; :path: /", "DATA 1 bytes=4000", "SETTINGS 4=100000"},
		[]string{"preface", "SETTINGS", "HEADERS 1 END" + get1, "HEADERS 3 END" + get1, "HEADERS 5 END" + get1, "WINDOW_UPDATE 0 100000", "WINDOW_UPDATE 3 0"})
}

// FuzzClient is FuzzServer for what a server sends to a client with four requests under way.
func FuzzClient(f *testing.F) {
	fuzz(f, false,
		[]string{"SETTINGS 8=1", "SETTINGS ack", "HEADERS 1; :status: 103", "HEADERS 1; :status: 200; content-length: 3", "DATA 1 END abc"},
		[]string{"SETTINGS", "HEADERS 3; :status: 200", "DATA 3 pad=2 bytes=100", "HEADERS 3 END; grpc-status: 0", "WINDOW_UPDATE 3 100000", "WINDOW_UPDATE 0 1000000"},
		[]string{"SETTINGS", "HEADERS 5; :status: 200; content-length: 9", "DATA 5 END", "HEADERS 7; :status: 200", "DATA 7 x", "GOAWAY 1 0"},
		[]string{"SETTINGS 3=1 4=0", "RST_STREAM 1 7", "HEADERS 3 END; :status: 204", "GOAWAY 2147483647 0", "GOAWAY 3 0", "SETTINGS 4=2147483647"})
}
