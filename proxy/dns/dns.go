// Package dns answers a workload's DNS queries: mesh names from the name table, all
// others by asking the resolvers the host uses.
//
// Queries enter on packet connections and listeners the caller opened (inside the
// workload's network namespace, port 15053); answers leave there, forwarded queries
// through the caller's Dial. The proxy owns one Server. Queries are served
// concurrently on goroutines, never on a worker; the name table is read through a
// function that returns the current one.
package dns

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/weirmesh/weir/proxy/dns/names"
)

const (
	// ttl of mesh names. They are virtual addresses that hardly ever change; 30 s is
	// what Istio's DNS proxy answers.
	ttl = 30
	// forwardTimeout is DNS_FORWARD_TIMEOUT of Istio's agent.
	forwardTimeout = 5 * time.Second
	// maxQueries bounds queries under way; more are answered SERVFAIL at once.
	maxQueries = 256
	// maxQuestions a message may carry: resolvers send exactly one.
	maxQuestions = 1
)

// Options are a Server's collaborators.
type Options struct {
	// Names returns the addresses of a mesh host (lower case, no final dot); ok is
	// false for a name that is not the mesh's.
	Names func(host string) (addrs names.Addrs, ok bool)
	// Search are the search domains of the workload ("default.svc.cluster.local").
	Search []string
	// Resolvers answer other names ("192.0.2.53:53"), tried in order. Empty: such
	// names get SERVFAIL.
	Resolvers []string
	// Dial opens a connection to a resolver; nil is a plain net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	Log  *slog.Logger
}

// Server answers queries.
type Server struct {
	o        Options
	inflight atomic.Int64
	Stats    Stats
}

// Stats count queries since the start.
type Stats struct{ Queries, Mesh, Forwarded, Failed atomic.Uint64 }

// New makes a Server.
func New(o Options) *Server {
	if o.Dial == nil {
		o.Dial = (&net.Dialer{Timeout: forwardTimeout}).DialContext
	}
	return &Server{o: o}
}

// Run serves until ctx ends, and closes what it was given.
func (s *Server) Run(ctx context.Context, packets []net.PacketConn, listeners []net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var servers []*dns.Server
	for _, p := range packets {
		// The library would wake up every two seconds to read again.
		servers = append(servers, &dns.Server{PacketConn: p, ReadTimeout: 24 * time.Hour})
	}
	for _, l := range listeners {
		servers = append(servers, &dns.Server{Listener: l, MaxTCPQueries: 128, IdleTimeout: func() time.Duration { return 10 * time.Second }})
	}
	ended := make(chan error, len(servers))
	for _, srv := range servers {
		srv.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { s.serve(ctx, w, q) })
		srv.MsgAcceptFunc = accept
		go func() { ended <- srv.ActivateAndServe() }()
	}
	var err error
	running := len(servers)
	for running > 0 {
		select {
		case <-ctx.Done():
			for _, srv := range servers {
				if srv.PacketConn != nil {
					_ = srv.PacketConn.Close()
				} else {
					_ = srv.Listener.Close()
				}
			}
			for ; running > 0; running-- {
				<-ended
			}
			return err
		case e := <-ended:
			running--
			if e != nil && ctx.Err() == nil {
				err = e
				cancel()
			}
		}
	}
	return err
}

// accept refuses what a stub resolver never sends before it is parsed.
func accept(h dns.Header) dns.MsgAcceptAction {
	if h.Bits&(1<<15) != 0 { // QR: an answer
		return dns.MsgIgnore
	}
	if opcode := int(h.Bits>>11) & 0xf; opcode != dns.OpcodeQuery {
		return dns.MsgRejectNotImplemented
	}
	if h.Qdcount != maxQuestions || h.Ancount > 1 || h.Nscount > 1 || h.Arcount > 3 {
		return dns.MsgReject
	}
	return dns.MsgAccept
}

func (s *Server) serve(ctx context.Context, w dns.ResponseWriter, q *dns.Msg) {
	s.Stats.Queries.Add(1)
	var answer *dns.Msg
	if len(q.Question) == 0 { // the library takes a header alone for a message, whatever it announces
		answer = new(dns.Msg).SetRcodeFormatError(q)
	} else {
		answer = s.answer(q)
	}
	if answer == nil {
		if s.inflight.Add(1) > maxQueries {
			answer = new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
		} else {
			answer = s.forward(ctx, w.RemoteAddr().Network(), q)
		}
		s.inflight.Add(-1)
	}
	if w.RemoteAddr().Network() == "udp" {
		size := dns.MinMsgSize
		if o := q.IsEdns0(); o != nil {
			size = max(size, int(o.UDPSize()))
		}
		answer.Truncate(size)
	}
	if err := w.WriteMsg(answer); err != nil && ctx.Err() == nil {
		s.o.Log.Debug("answering a dns query", "err", err)
	}
}

// answer answers a mesh name, and returns nil for any other.
func (s *Server) answer(q *dns.Msg) *dns.Msg {
	question := q.Question[0]
	if question.Qclass != dns.ClassINET {
		return nil
	}
	host := strings.ToLower(strings.TrimSuffix(question.Name, "."))
	addrs, ok := s.o.Names(host)
	alias := ""
	if !ok {
		// A client with many search domains asks "api.example.com.default.svc.cluster.local"
		// first; answering the bare name at once (as a CNAME) saves it the detour.
		for _, d := range s.o.Search {
			bare, cut := strings.CutSuffix(host, "."+strings.ToLower(d))
			if !cut {
				continue
			}
			if addrs, ok = s.o.Names(bare); ok {
				alias = bare
				break
			}
		}
	}
	if !ok {
		return nil
	}
	s.Stats.Mesh.Add(1)
	m := new(dns.Msg).SetReply(q)
	m.Authoritative, m.RecursionAvailable = true, true
	name := question.Name
	if alias != "" {
		m.Answer = append(m.Answer, &dns.CNAME{Hdr: header(name, dns.TypeCNAME), Target: dns.Fqdn(alias)})
		name = dns.Fqdn(alias)
	}
	for addrs.Len() > 0 {
		var a netip.Addr
		a, addrs = addrs.Next()
		switch {
		case question.Qtype == dns.TypeA && a.Unmap().Is4():
			m.Answer = append(m.Answer, &dns.A{Hdr: header(name, dns.TypeA), A: a.Unmap().AsSlice()})
		case question.Qtype == dns.TypeAAAA && a.Is6() && !a.Is4In6():
			m.Answer = append(m.Answer, &dns.AAAA{Hdr: header(name, dns.TypeAAAA), AAAA: a.AsSlice()})
		}
	}
	// No record of the asked type: NOERROR without an answer, so that the client goes on
	// with the other family (NXDOMAIN would say that the name has no address at all).
	return m
}

func header(name string, t uint16) dns.RR_Header {
	return dns.RR_Header{Name: name, Rrtype: t, Class: dns.ClassINET, Ttl: ttl}
}

var errNoResolver = errors.New("no resolver configured")

func (s *Server) forward(ctx context.Context, network string, q *dns.Msg) *dns.Msg {
	s.Stats.Forwarded.Add(1)
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	err := errNoResolver
	for i, r := range s.o.Resolvers {
		// Each resolver gets its share of the time; the last one what is left.
		share := forwardTimeout / time.Duration(len(s.o.Resolvers)-i+1)
		var m *dns.Msg
		if m, err = s.ask(ctx, network, r, q, share); err == nil {
			return m
		}
	}
	s.Stats.Failed.Add(1)
	s.o.Log.Debug("forwarding a dns query", "name", q.Question[0].Name, "err", err)
	return new(dns.Msg).SetRcode(q, dns.RcodeServerFailure)
}

func (s *Server) ask(ctx context.Context, network, resolver string, q *dns.Msg, share time.Duration) (*dns.Msg, error) {
	c, err := s.o.Dial(ctx, network, resolver)
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	deadline := time.Now().Add(share)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := c.SetDeadline(deadline); err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	dc := &dns.Conn{Conn: c, UDPSize: dns.MaxMsgSize}
	// Our own id towards the resolver: the client's is not ours to expose.
	out := q.Copy()
	out.Id = dns.Id()
	if err := dc.WriteMsg(out); err != nil {
		return nil, err
	}
	for {
		m, err := dc.ReadMsg()
		if err != nil {
			return nil, err
		}
		if m.Id != out.Id || len(m.Question) != 1 || !strings.EqualFold(m.Question[0].Name, q.Question[0].Name) {
			continue // a late or forged answer
		}
		m.Id = q.Id
		return m, nil
	}
}
