package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// FuzzServe lets any bytes be a client's query and a resolver's answer to it. Every query that is accepted is answered, with
// what can be sent, under the client's id.
func FuzzServe(f *testing.F) {
	pack := func(m *dns.Msg) []byte {
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	outside := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
	answer := new(dns.Msg).SetReply(outside)
	answer.Answer = append(answer.Answer, &dns.A{Hdr: header("example.org.", dns.TypeA), A: net.IPv4(192, 0, 2, 1)})
	f.Add(pack(outside), pack(answer))
	f.Add(pack(new(dns.Msg).SetQuestion("dual.default.svc.cluster.local.", dns.TypeAAAA)), []byte{})
	f.Add(pack(new(dns.Msg).SetQuestion("Api.example.com.default.svc.cluster.local.", dns.TypeA).SetEdns0(512, true)), []byte{})
	f.Add(pack(outside)[:12], pack(answer)[:12]) // a question is announced and does not come
	f.Fuzz(func(t *testing.T, query, answer []byte) {
		h, ok := headerOf(query)
		q := new(dns.Msg)
		if !ok || accept(h) != dns.MsgAccept || q.Unpack(query) != nil {
			return // dns.Server answers
		}
		s := New(Options{Names: table.Find, Search: []string{"default.svc.cluster.local"}, Resolvers: []string{"resolver:53"}, Log: slog.New(slog.DiscardHandler),
			Dial: func(context.Context, string, string) (net.Conn, error) {
				return &resolver{answer: slices.Clone(answer)}, nil
			}})
		for _, network := range []string{"udp", "tcp"} {
			w := &writer{network: network}
			s.serve(t.Context(), w, q.Copy())
			if w.sent == nil {
				t.Fatal("no answer")
			}
			if w.sent.Id != q.Id {
				t.Errorf("the answer to %d has the id %d", q.Id, w.sent.Id)
			}
		}
	})
}

func headerOf(b []byte) (h dns.Header, ok bool) {
	_, err := binary.Decode(b, binary.BigEndian, &h)
	return h, err == nil
}

// writer takes one answer.
type writer struct {
	dns.ResponseWriter
	network string
	sent    *dns.Msg
}

func (w *writer) RemoteAddr() net.Addr {
	if w.network == "udp" {
		return &net.UDPAddr{}
	}
	return &net.TCPAddr{}
}

func (w *writer) WriteMsg(m *dns.Msg) error { w.sent = m; return nil }

// resolver answers the query that is written to it, and ends.
type resolver struct {
	net.Conn
	answer []byte
	out    bytes.Buffer
}

func (r *resolver) Write(b []byte) (int, error) {
	if len(b) >= 4 && len(r.answer) >= 2 {
		copy(r.answer, b[2:4]) // the id; in front is the length
	}
	r.out.Write(binary.BigEndian.AppendUint16(nil, uint16(len(r.answer))))
	r.out.Write(r.answer)
	return len(b), nil
}

func (r *resolver) Read(b []byte) (int, error)  { return r.out.Read(b) }
func (r *resolver) SetDeadline(time.Time) error { return nil }
func (r *resolver) Close() error                { return nil }
