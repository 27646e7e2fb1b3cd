package http_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/weirmesh/weir/proxy/cluster"
	"github.com/weirmesh/weir/proxy/cluster/outlier"
	"github.com/weirmesh/weir/proxy/conn"
	"github.com/weirmesh/weir/proxy/filter/fault"
	"github.com/weirmesh/weir/proxy/http"
	"github.com/weirmesh/weir/proxy/http/h1"
	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/loop"
	"github.com/weirmesh/weir/proxy/loop/mem"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/outbound"
	"github.com/weirmesh/weir/proxy/route"
	pstate "github.com/weirmesh/weir/proxy/state"
)

// TestScripts runs testdata/scripts/*: conversations of clients and upstreams with
// one worker, on a network in memory and in virtual time. Only commit changes of
// the expected output if you understand what caused them and if they are desired.
//
// Commands (NAME is a connection; data has CRLF line ends and Go's escapes, \c at
// the end of a line is no line end):
//
//	config [edge] [inbound|outbound] [websocket] [grpc-web] [normalize] [idle=D] [header-timeout=D] [request-timeout=D] [stream-idle=D] [max-requests=N]
//	       [max-duration=D] [safe] [connect] [http10] [default-host=H] [names=proper|preserve|preserve-or-proper]
//	cluster name=NAME [endpoints=a:p,…] [max-connections=N] [max-pending=N] [max-requests=N] [max-retries=N] [requests-per-connection=N] [original-dst] [mesh] [refused=OBJECT] [proxy-protocol]
//	       [names=…] [head=BYTES] [stream-max=D] [5xx=N] [gateway=N] [local=N] [sweep=D] [ejection=D] [max-ejected=PERCENT] [panic=PERCENT] [probes=N]
//	       [check=tcp|http|grpc] (every 10s, 1s to answer, 2 in a row) [budget=(PERCENT,MIN)] [next=a:p,…] (of the next priority) [led=a:p]
//	       [names-of=H,…] (endpoints') [destination=HEADER] [port=N] [ring] [round-robin] [hash=header:H|query:Q|cookie:C|source] [maglev]
//	route [host=H] [prefix=P] [path=P] [connect] [terminate] [no-websocket] cluster=A[,B] [weights=1,2] [timeout=D] [retry=CONDITIONS] [attempts=N] [eager] [other-priorities=N] [per-try=D] [per-try-idle=D]
//	      [grpc-timeout=D] [stream-max=D] [stream-grpc=D] [prefix-rewrite=P] [host-rewrite=H] [redirect=PATH] [direct=STATUS] [fault-delay=D] [fault-abort=STATUS] [attempt-count] [answer-attempts]
//	      [endpoint-host] [tell-host] [no-cluster=STATUS] [hash-header=H] [grpc]
//	      (input lines: "request|response set|add|remove name: value")
//	xds cluster|routes|listener (input: the resource as text; see script_xds_test)
//	connect NAME [from=ADDR]    a client connects
//	listen ADDR                 an upstream begins to listen
//	unlisten ADDR               and stops
//	silence ADDR [no]           nothing answers there any more, no refusal either
//	accept ADDR NAME            the upstream's next connection
//	h2 NAME [server] [K=V…]     from now on NAME speaks HTTP/2; it sends its preface and SETTINGS
//	send NAME                   (input: bytes, or frames; see peer2)
//	raw NAME                    (input: bytes, also on an HTTP/2 connection)
//	fill NAME n=N               send N bytes of x, as far as they are taken
//	pump NAME NAME n=N          send N bytes from one to the other, which reads
//	recv NAME [count]           what has arrived
//	eof, close, reset NAME
//	advance D                   time passes
//	join NAME ADDR              a cluster has another endpoint from now on
//	adopt [gone]                the last config is for connections from before, too, or their chain is gone
//	outdated yes|no              what http.Options.Outdated says
//	drain [inbound], retire ADDR, counts, overflows CLUSTER, usable CLUSTER, checked CLUSTER, log
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		s := newScript(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.t = t
			return s.run(d)
		})
		s.end()
	})
}

var front = netip.MustParseAddrPort("10.1.0.1:80")

type script struct {
	t         *testing.T
	net       *mem.Net
	loop      *loop.Loop
	worker    *http.Worker
	outdated  bool // http.Options.Outdated
	checks    *cluster.Checks
	cfg       *http.Config
	state     *state
	hosts     map[string]*route.VirtualHost
	listeners map[string]*mem.Listener
	conns     map[string]*mem.Peer
	frames    map[string]*peer2 // those of conns that speak HTTP/2
	peers     []*mem.Peer       // all there ever were
	log       []string
	begun     int
	listener  *listener
	ids       int32
	answer    string          // the last one that asked saw
	builder   *pstate.Builder // of what xds says
}

type state struct {
	clusters []*cluster.Cluster
	table    *route.Table
}

func (s *state) Cluster(id cluster.ID) *cluster.Cluster {
	if int(id) >= len(s.clusters) {
		return nil
	}
	return s.clusters[id]
}
func (s *state) ClusterNamed(name string) *cluster.Cluster {
	if i := slices.IndexFunc(s.clusters, func(c *cluster.Cluster) bool { return c.Name == name }); i >= 0 {
		return s.clusters[i]
	}
	return nil
}
func (s *state) Table(string) *route.Table { return s.table }

func newScript(t *testing.T) *script {
	s := &script{t: t, net: mem.New(), hosts: map[string]*route.VirtualHost{}, listeners: map[string]*mem.Listener{}, conns: map[string]*mem.Peer{}, frames: map[string]*peer2{}, state: &state{}}
	s.loop = s.net.Loop(loop.Options{})
	s.worker = http.NewWorker(http.Options{Loop: s.loop, Observer: s, Hostname: "node", Outdated: func() bool { return s.outdated }})
	s.checks = cluster.NewChecks(s.loop, s.worker)
	s.cfg = &http.Config{ServerName: []byte("istio-envoy"), Stages: outbound.Stages(outbound.Options{Fault: http.OfFilter("envoy.filters.http.fault", false, fault.Stages(nil)...)}), TableName: "80", Logs: istioLog(t)}
	s.listener = listen(t, s.loop, front, func(c *conn.Conn) { c.HandOver(s.worker.Serve(c, s.cfg)) })
	return s
}

// listener accepts on a loop, as proxy/listener does.
type listener struct {
	l     *loop.Loop
	fd    int
	serve func(c *conn.Conn)
}

func listen(t testing.TB, l *loop.Loop, at netip.AddrPort, serve func(c *conn.Conn)) *listener {
	p := l.Poller()
	fd, _ := p.Socket(loop.IPv4)
	p.Bind(fd, loop.TCP(at))
	if e := p.Listen(fd, 100); e != 0 {
		t.Fatal(e)
	}
	a := &listener{l, fd, serve}
	if _, err := l.Register(fd, a); err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *listener) Ready(loop.Events) {
	for {
		fd, remote, e := a.l.Poller().Accept(a.fd)
		if e != 0 {
			return
		}
		local := a.l.Poller().Local(fd).AddrPort
		a.serve(conn.Accept(a.l, fd, conn.Info{Remote: remote.AddrPort, Local: local, Original: local}, nil))
	}
}

func (s *script) Begin(*http.Exchange) { s.begun++ }

func (s *script) End(x *http.Exchange) {
	s.begun--
	endpoint, path := "-", string(x.Request.Path)
	if x.Endpoint != nil {
		endpoint = x.Endpoint.Addr.String()
	}
	if x.OriginalPath != nil {
		path = string(x.OriginalPath)
	}
	s.log = append(s.log, fmt.Sprintf("%s %s %d %s %s %d/%d bytes %v %d attempts to %s", x.Request.RawMethod, path,
		x.Response.Status, x.Flags, x.Details, x.Received, x.Sent, x.Duration(), x.Attempts, endpoint))
}

// end looks for what a script left behind.
func (s *script) end() {
	for _, p := range s.peers {
		p.Close()
	}
	for _, l := range s.listeners {
		l.Close()
	}
	s.net.Advance(2 * time.Hour)
	c := s.worker.Pool().Counts()
	if s.begun != 0 || s.worker.Active() != 0 || c.Busy+c.Connecting+c.Waiting+c.Idle != 0 {
		s.t.Errorf("left at the end: %d exchanges in the observer, %d in the worker, pool %+v", s.begun, s.worker.Active(), c)
	}
	for _, cl := range s.state.clusters {
		l := cl.Limits
		if l.Connections.Load() != 0 || l.Pending.Load() != 0 || l.Requests.Load() != 0 || l.Retries.Load() != 0 {
			s.t.Errorf("cluster %s: %d connections, %d pending, %d requests, %d retries at the end", cl.Name, l.Connections.Load(), l.Pending.Load(), l.Requests.Load(), l.Retries.Load())
		}
		for _, e := range cl.Endpoints {
			if n := e.Active.Load(); n != 0 {
				s.t.Errorf("endpoint %v: %d active at the end", e.Addr, n)
			}
		}
	}
	// The listening socket is all that may be open.
	if n := s.net.Open(); n != 1 {
		s.t.Errorf("%d sockets at the end", n)
	}
}

func (s *script) run(d *datadriven.TestData) string {
	name := ""
	if len(d.CmdArgs) > 0 {
		name = d.CmdArgs[0].Key
	}
	out := ""
	switch d.Cmd {
	case "send", "fill", "eof", "close", "reset":
		if s.conns[name] == nil {
			return "no such connection\n"
		}
	}
	switch d.Cmd {
	case "config":
		s.configure(d)
	case "cluster":
		s.addCluster(d)
	case "route":
		s.addRoute(d)
	case "xds":
		if err := s.xds(name, d.Input); err != nil {
			return err.Error() + "\n"
		}
	case "connect":
		from := "10.9.0.9:5555"
		d.MaybeScanArgs(s.t, "from", &from)
		p, err := s.net.DialFrom(netip.MustParseAddrPort(from), front, netip.AddrPort{})
		if err != nil {
			d.Fatalf(s.t, "%v", err)
		}
		s.conns[name] = p
		delete(s.frames, name)
		s.peers = append(s.peers, p)
	case "listen":
		l, err := s.net.Listen(netip.MustParseAddrPort(name))
		if err != nil {
			d.Fatalf(s.t, "%v", err)
		}
		s.listeners[name] = l
	case "unlisten":
		s.listeners[name].Close()
		delete(s.listeners, name)
	case "silence":
		s.net.Silence(netip.MustParseAddrPort(name), !d.HasArg("no"))
	case "accept":
		p := s.listeners[name].Accept()
		delete(s.frames, d.CmdArgs[1].Key)
		if p == nil {
			delete(s.conns, d.CmdArgs[1].Key)
			return "nobody\n"
		}
		s.conns[d.CmdArgs[1].Key] = p
		s.peers = append(s.peers, p)
	case "h2":
		s.frames[name] = newPeer2(s.conns[name], func() { s.net.Step() }, d.HasArg("server"))
		var settings []string
		for _, a := range d.CmdArgs[1:] {
			if len(a.Vals) > 0 {
				settings = append(settings, a.Key+"="+a.Vals[0])
			}
		}
		if !d.HasArg("silent") {
			s.frames[name].begin(s.t, strings.Join(settings, " "))
		}
	case "send":
		if f := s.frames[name]; f != nil {
			out = f.send(s.t, d.Input)
			break
		}
		out = s.send(name, wire(s.t, d.Input))
	case "fill":
		var n int
		d.ScanArgs(s.t, "n", &n)
		out = s.fill(d, name, n)
	case "pump":
		var n int
		d.ScanArgs(s.t, "n", &n)
		return s.pump(d, name, d.CmdArgs[1].Key, n)
	case "recv":
		s.net.Step()
		return s.recv(d, name)
	case "raw":
		out = s.send(name, wire(s.t, d.Input))
	case "eof":
		s.conns[name].CloseWrite()
	case "close":
		s.conns[name].Close()
		delete(s.conns, name)
	case "reset":
		s.conns[name].Reset()
		delete(s.conns, name)
	case "advance":
		by, err := time.ParseDuration(name)
		if err != nil {
			d.Fatalf(s.t, "%v", err)
		}
		s.net.Advance(by)
	case "drain":
		if name == "inbound" {
			s.worker.DrainInbound()
		} else {
			s.worker.Drain()
		}
	case "adopt":
		next := s.cfg
		if d.HasArg("gone") {
			next = nil
		}
		s.worker.Adopt(func(*http.Config, *conn.Info) *http.Config { return next }, 45*time.Second)
	case "outdated":
		s.outdated = name == "yes"
	case "join":
		i := slices.IndexFunc(s.state.clusters, func(c *cluster.Cluster) bool { return c.Name == name })
		next := *s.state.clusters[i]
		next.Leaving = false
		next.Endpoints = append(slices.Clone(next.Endpoints), &cluster.Endpoint{ID: s.ids, Addr: netip.MustParseAddrPort(d.CmdArgs[1].Key), Limits: next.Limits})
		s.ids++
		next.Seal()
		s.setCluster(&next)
	case "retire":
		for _, c := range s.state.clusters {
			for i, e := range c.Endpoints {
				if e.Addr.String() == name {
					e.Gone.Store(true)
					next := *c
					next.Endpoints = slices.Delete(slices.Clone(c.Endpoints), i, i+1)
					next.Seal()
					s.setCluster(&next)
					s.worker.Pool().Retire(e, func() { s.log = append(s.log, "unused: "+name) })
					break
				}
			}
		}
	case "counts":
		c := s.worker.Pool().Counts()
		return fmt.Sprintf("idle %d busy %d connecting %d waiting %d\n", c.Idle, c.Busy, c.Connecting, c.Waiting)
	case "usable": // how many endpoints of a cluster may be chosen, and who is ejected
		c := s.state.clusters[s.clusterID(name)]
		out := fmt.Sprintf("%d", c.View().Usable())
		for _, e := range c.Endpoints {
			if e.Outlier.Phase() == outlier.Open {
				out += " without " + e.Addr.String()
			}
		}
		return out + "\n"
	case "checked": // what health checks of a cluster came to
		h := &s.state.clusters[s.clusterID(name)].Health.Checked
		return fmt.Sprintf("attempts %d successes %d failures %d network %d\n", h.Attempts.Load(), h.Successes.Load(), h.Failures.Load(), h.NetworkFailures.Load())
	case "overflows": // connections, requests and retries that the limits of a cluster did not permit
		l := s.state.clusters[s.clusterID(name)].Limits
		return fmt.Sprintf("cx %d rq %d retry %d\n", l.CxOverflow.Load(), l.PendingOverflow.Load()+l.RqOverflow.Load(), l.RetryOverflow.Load())
	case "log":
		s.net.Step()
		out := strings.Join(s.log, "\n")
		s.log = nil
		if out == "" {
			return "-\n"
		}
		return out + "\n"
	default:
		d.Fatalf(s.t, "unknown command")
	}
	s.net.Step()
	return out
}

func (s *script) send(name string, b []byte) string {
	if n, err := s.conns[name].Send(b); err != nil || n < len(b) {
		return fmt.Sprintf("sent %d of %d: %v\n", n, len(b), err)
	}
	return ""
}

// fill sends n bytes as long as they are taken.
func (s *script) fill(d *datadriven.TestData, name string, n int) string {
	chunk := bytes.Repeat([]byte{'x'}, 16<<10)
	sent := 0
	for sent < n {
		k, err := s.conns[name].Send(chunk[:min(len(chunk), n-sent)])
		if err != nil {
			d.Fatalf(s.t, "%v", err)
		}
		sent += k
		s.net.Step()
		if k == 0 {
			return fmt.Sprintf("%d of %d bytes were taken\n", sent, n)
		}
	}
	return ""
}

// pump sends n bytes while the other end reads.
func (s *script) pump(d *datadriven.TestData, from, to string, n int) string {
	chunk := bytes.Repeat([]byte{'x'}, 16<<10)
	got, sent := 0, 0
	for range 10 * (n/len(chunk) + 1) {
		k, err := s.conns[from].Send(chunk[:min(len(chunk), n-sent)])
		if err != nil {
			d.Fatalf(s.t, "%v", err)
		}
		sent += k
		s.net.Step()
		b, _ := s.conns[to].Recv()
		got += len(b)
	}
	return fmt.Sprintf("%d bytes sent, %d received\n", sent, got)
}

var (
	uuid = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`)
	fill = regexp.MustCompile(`x{100,}`)
)

func (s *script) recv(d *datadriven.TestData, name string) string {
	p := s.conns[name]
	if p == nil {
		return "no such connection\n"
	}
	var all []byte
	var err error
	for {
		var b []byte
		b, err = p.Recv()
		all = append(all, b...)
		s.net.Step()
		if len(b) == 0 || err != nil {
			break
		}
	}
	var out strings.Builder
	if f := s.frames[name]; f != nil {
		out.WriteString(f.recv(s.t, all))
		s.net.Step()
	} else if d.HasArg("count") {
		fmt.Fprintf(&out, "%d bytes\n", len(all))
	} else {
		text := uuid.ReplaceAllString(string(all), "<uuid>")
		text = fill.ReplaceAllStringFunc(text, func(s string) string { return fmt.Sprintf("<%d x>", len(s)) })
		for _, l := range strings.SplitAfter(text, "\n") {
			if l == "" {
				continue
			}
			l = strings.Trim(strconv.Quote(l), `"`)
			if h, ok := strings.CutSuffix(l, `\r\n`); ok {
				l = h
			} else {
				l += `\c`
			}
			fmt.Fprintf(&out, "< %s\n", l)
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		out.WriteString("end\n")
	case err != nil:
		fmt.Fprintf(&out, "%v\n", err)
	case out.Len() == 0:
		out.WriteString("nothing\n")
	}
	return out.String()
}

func wire(t *testing.T, text string) []byte {
	var b []byte
	for line := range strings.SplitSeq(text, "\n") {
		end := "\r\n"
		if l, ok := strings.CutSuffix(line, `\c`); ok {
			line, end = l, ""
		}
		s, err := strconv.Unquote(`"` + strings.ReplaceAll(line, `"`, `\"`) + `"`)
		if err != nil {
			t.Fatalf("line %q: %v", line, err)
		}
		b = append(append(b, s...), end...)
	}
	return b
}

func (s *script) configure(d *datadriven.TestData) {
	c := *s.cfg
	for _, a := range d.CmdArgs {
		switch a.Key {
		case "inbound":
			c.Direction = http.Inbound
		case "outbound":
			c.Direction = http.Outbound
		case "edge":
			c.Edge = true
		case "grpc-web":
			c.Stages = outbound.Stages(outbound.Options{GRPCWeb: true})
		case "websocket":
			c.Upgrades = []string{"websocket"}
		case "normalize":
			c.Path = message.PathOptions{Normalize: true}
		case "idle":
			c.IdleTimeout = duration(s.t, a)
		case "header-timeout":
			c.HeaderTimeout = duration(s.t, a)
		case "request-timeout":
			c.RequestTimeout = duration(s.t, a)
		case "stream-idle":
			c.StreamIdle = duration(s.t, a)
		case "stream-max":
			c.StreamMax = duration(s.t, a)
		case "max-requests":
			c.MaxRequests = uint32(number(s.t, a))
		case "max-duration":
			c.MaxDuration = duration(s.t, a)
		case "safe":
			c.SafeMaxDuration = true
		case "connect":
			c.Upgrades = append(slices.Clone(c.Upgrades), "connect")
		case "http10":
			c.HTTP1.HTTP10 = true
		case "default-host":
			c.HTTP1.DefaultHost = a.Vals[0]
		case "names":
			c.HTTP1.Names = names[a.Vals[0]]
		case "ping":
			c.HTTP2.PingEvery, c.HTTP2.PingTimeout = duration(s.t, a), time.Second
		case "streams":
			c.HTTP2.MaxStreams = uint32(number(s.t, a))
		default:
			d.Fatalf(s.t, "unknown %s", a.Key)
		}
	}
	s.cfg = &c
}

var names = map[string]h1.Names{"lower": h1.LowerCase, "proper": h1.ProperCase, "preserve": h1.PreserveCase, "preserve-or-proper": h1.PreserveOrProperCase}

func duration(t *testing.T, a datadriven.CmdArg) time.Duration {
	d, err := time.ParseDuration(a.Vals[0])
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func number(t *testing.T, a datadriven.CmdArg) int {
	n, err := strconv.Atoi(a.Vals[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func (s *script) setCluster(c *cluster.Cluster) {
	next := *s.state
	next.clusters = slices.Clone(s.state.clusters)
	if int(c.ID) == len(next.clusters) {
		next.clusters = append(next.clusters, c)
	} else {
		next.clusters[c.ID] = c
	}
	s.setState(&next)
}

func (s *script) setState(st *state) {
	s.state = st
	s.worker.SetState(st)
}

func (s *script) clusterID(name string) cluster.ID {
	for _, c := range s.state.clusters {
		if c.Name == name {
			return c.ID
		}
	}
	return 999
}

func (s *script) addRoute(d *datadriven.TestData) {
	host := "*"
	e := &route.Entry{Name: "r", When: route.When{Kind: route.PathPrefix, Path: "/", Per1M: 1_000_000}}
	f := &route.Forward{}
	retry := &route.Retry{Attempts: 1, HostAttempts: 3, OtherHosts: true, Eager: true, BackoffBase: 25 * time.Millisecond, BackoffMax: 250 * time.Millisecond}
	var fault route.Fault
	fault.AbortGRPC = -1
	count, answer := false, false
	for _, a := range d.CmdArgs {
		switch a.Key {
		case "host":
			host = a.Vals[0]
		case "name":
			e.Name = a.Vals[0]
		case "prefix":
			e.When.Path = a.Vals[0]
		case "path":
			e.When.Kind, e.When.Path = route.PathExact, a.Vals[0]
		case "cluster":
			for _, v := range a.Vals {
				f.Clusters = append(f.Clusters, route.Weighted{Cluster: s.clusterID(v), Name: v, Weight: 1})
			}
			f.Total = uint32(len(f.Clusters))
			e.Forward = f
		case "timeout":
			f.Timeout = duration(s.t, a)
		case "retry":
			retry.On, retry.StatusCodes, _ = route.ParseRetryOn(strings.Join(a.Vals, ","))
			f.Retry = retry
		case "eager": // the first time at once, and elsewhere
			retry.Eager, retry.OtherHosts = true, true
		case "other-priorities":
			retry.OtherPriorities = number(s.t, a)
		case "attempts":
			retry.Attempts = uint32(number(s.t, a))
		case "grpc-timeout":
			f.GRPC = &route.Asked{Max: duration(s.t, a)}
		case "stream-max":
			d := duration(s.t, a)
			f.StreamMax = &d
		case "stream-grpc":
			f.StreamGRPC = &route.Asked{Max: duration(s.t, a), Offset: time.Second}
		case "per-try":
			retry.PerTryTimeout = duration(s.t, a)
		case "per-try-idle":
			retry.PerTryIdle = duration(s.t, a)
		case "connect":
			e.When = route.When{Kind: route.PathConnect, Per1M: 1_000_000}
		case "terminate":
			f.Upgrades = []route.Upgrade{{Name: "connect", Enabled: true, Terminate: true}}
		case "no-websocket":
			f.Upgrades = []route.Upgrade{{Name: "websocket"}}
		case "prefix-rewrite":
			f.PrefixRewrite = a.Vals[0]
		case "host-rewrite":
			f.HostRewrite = a.Vals[0]
		case "endpoint-host":
			f.HostOfEndpoint, f.TellHost = true, true
		case "tell-host":
			f.TellHost = true
		case "no-cluster":
			f.NoCluster = number(s.t, a)
		case "hash-header":
			f.Hash = []cluster.HashKey{{Header: a.Vals[0]}}
		case "grpc":
			e.When.GRPC = true
		case "answer-attempts":
			answer = true
		case "redirect":
			e.Redirect = &route.Redirect{Path: a.Vals[0], Status: 301}
		case "direct":
			e.Direct = &route.Direct{Status: number(s.t, a), Body: []byte("direct\n")}
		case "fault-delay":
			fault.Delay, fault.DelayPer1M = duration(s.t, a), 1_000_000
			e.Fault = &fault
		case "fault-abort":
			fault.AbortStatus, fault.AbortPer1M = number(s.t, a), 1_000_000
			e.Fault = &fault
		case "fault-header":
			fault.HeaderAbort, fault.HeaderDelay, fault.AbortPer1M, fault.DelayPer1M = true, true, 1_000_000, 1_000_000
			e.Fault = &fault
		case "attempt-count":
			count = true
		default:
			d.Fatalf(s.t, "unknown %s", a.Key)
		}
	}
	var ops route.Headers
	for line := range strings.Lines(d.Input) {
		var on, what string
		rest := strings.TrimSpace(line)
		on, rest, _ = strings.Cut(rest, " ")
		what, rest, _ = strings.Cut(rest, " ")
		name, value, _ := strings.Cut(rest, ": ")
		v, err := observe.ParseText(value, true)
		if err != nil {
			d.Fatalf(s.t, "%v", err)
		}
		h := route.HeaderValue{Name: name, Value: v}
		switch on + " " + what {
		case "request set", "request replace":
			h.IfPresent = what == "replace"
			ops.RequestSet = append(ops.RequestSet, h)
		case "request add":
			ops.RequestAdd = append(ops.RequestAdd, h)
		case "request remove":
			ops.RequestRemove = append(ops.RequestRemove, name)
		case "response set", "response replace":
			h.IfPresent = what == "replace"
			ops.ResponseSet = append(ops.ResponseSet, h)
		case "response add":
			ops.ResponseAdd = append(ops.ResponseAdd, h)
		case "response remove":
			ops.ResponseRemove = append(ops.ResponseRemove, name)
		default:
			d.Fatalf(s.t, "unknown %s %s", on, what)
		}
	}
	if d.Input != "" {
		e.Headers = []route.Headers{ops}
	}
	vh := s.hosts[host]
	if vh == nil {
		vh = &route.VirtualHost{Name: host, Domains: []string{host}}
		s.hosts[host] = vh
	}
	vh.AttemptCount, vh.AnswerAttempts = vh.AttemptCount || count, vh.AnswerAttempts || answer
	vh.Entries = append(vh.Entries, e)
	var hosts []*route.VirtualHost
	for _, h := range s.hosts {
		hosts = append(hosts, h)
	}
	table, err := route.New("80", "1", false, hosts)
	if err != nil {
		d.Fatalf(s.t, "%v", err)
	}
	next := *s.state
	next.table = table
	s.setState(&next)
}
