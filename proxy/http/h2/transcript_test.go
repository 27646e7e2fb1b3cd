package h2

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"golang.org/x/net/http2"
	xhpack "golang.org/x/net/http2/hpack"

	"github.com/weirmesh/weir/proxy/http/message"
)

// held is what a caller keeps for a stream.
type held struct {
	req      message.Request
	resp     message.Response
	trailers message.Headers
	arena    message.Arena
	s        *Stream
	queue    []byte
	end      bool
}

// side is a machine with a caller that notes every event, and a peer made of x/net's HPACK and hand-written frames.
type side struct {
	t       testing.TB
	m       Machine
	now     int64
	in, out []byte
	held    map[uint32]*held
	log     strings.Builder
	events  []Event
	enc     *xhpack.Encoder
	encoded bytes.Buffer
	dec     *xhpack.Decoder
	refuse  bool // do not bind new streams
}

func newSide(t testing.TB) *side {
	d := &side{t: t, held: map[uint32]*held{}, now: int64(time.Hour)}
	d.enc = xhpack.NewEncoder(&d.encoded)
	d.dec = xhpack.NewDecoder(4096, nil)
	return d
}

// run steps until nothing more comes of what was received.
func (d *side) run() {
	for {
		before := len(d.out)
		out, n, ev := d.m.Step(d.out, d.in, d.now)
		d.out, d.in = out, d.in[n:]
		if len(out)-before > StepRoom {
			d.t.Errorf("a Step appended %d bytes", len(out)-before)
		}
		d.event(ev)
		if ev.Kind == More || ev.Kind == Failed {
			return
		}
	}
}

func (d *side) event(ev Event) {
	if ev.Kind == More || ev.Kind == None && ev.Reason == OK {
		return
	}
	d.events = append(d.events, ev)
	fmt.Fprintf(&d.log, "%s", [...]string{"more", "none", "open", "head", "interim", "data", "trailers", "refuse", "reset", "goaway", "settings", "pong", "failed"}[ev.Kind])
	var h *held
	if ev.Stream != nil {
		fmt.Fprintf(&d.log, " %d", ev.Stream.ID())
		h, _ = ev.Stream.Owner.(*held)
	}
	if ev.End {
		d.log.WriteString(" END")
	}
	if ev.Retry {
		d.log.WriteString(" RETRY")
	}
	if ev.Reason != OK {
		fmt.Fprintf(&d.log, " %v", ev.Reason)
	}
	if ev.Kind == Reset || ev.Kind == GoAway || ev.Kind == Failed {
		fmt.Fprintf(&d.log, " %v", ev.Code)
	}
	switch ev.Kind {
	case Open:
		h = &held{s: ev.Stream}
		h.req.Reset()
		h.resp.Reset()
		if ev.Stream.Owner = h; !d.refuse {
			ev.Stream.Request(&h.req, &h.trailers, &h.arena)
			d.held[ev.Stream.ID()] = h
		}
	case Head, Interim:
		d.log.WriteString(" " + describe(h, d.m.is(isServer)))
		if ev.Kind == Interim {
			h.resp.Reset()
		}
	case Data:
		if len(ev.Data) > 40 {
			fmt.Fprintf(&d.log, " (%d bytes)", len(ev.Data))
		} else {
			fmt.Fprintf(&d.log, " %q", ev.Data)
		}
	case Trailers:
		d.log.WriteString(" " + list(&h.trailers))
	case GoAway, Pong:
		fmt.Fprintf(&d.log, " %q", ev.Data)
	}
	d.log.WriteByte('\n')
}

func describe(h *held, request bool) string {
	var b strings.Builder
	if request {
		q := &h.req
		fmt.Fprintf(&b, "%s %s %s %s", q.RawMethod, q.Scheme, q.Authority, q.Path)
		describeBody(&b, q.ContentLength, q.NoBody, q.Upgrade)
		if q.Continue {
			b.WriteString(" continue")
		}
		b.WriteString(list(&q.Headers))
	} else {
		p := &h.resp
		fmt.Fprintf(&b, "%d", p.Status)
		describeBody(&b, p.ContentLength, p.NoBody, p.Upgrade)
		b.WriteString(list(&p.Headers))
	}
	return b.String()
}

func describeBody(b *strings.Builder, length int64, nobody bool, upgrade []byte) {
	if length != message.Unknown {
		fmt.Fprintf(b, " length=%d", length)
	}
	if nobody {
		b.WriteString(" nobody")
	}
	if upgrade != nil {
		fmt.Fprintf(b, " upgrade=%s", upgrade)
	}
}

func list(h *message.Headers) string {
	var b strings.Builder
	for _, f := range h.Fields() {
		v := string(f.Value)
		if len(v) > 60 {
			v = fmt.Sprintf("(%d bytes)", len(v))
		}
		fmt.Fprintf(&b, "; %s: %s", f.Name, v)
		if f.Never {
			b.WriteString(" (never)")
		}
	}
	return b.String()
}

// frames describes what the machine has sent since the last call.
func (d *side) frames() string {
	var b strings.Builder
	p := d.out
	d.out = d.out[:0]
	if bytes.HasPrefix(p, []byte(preface)) {
		b.WriteString("> preface\n")
		p = p[len(preface):]
	}
	fr := http2.NewFramer(nil, bytes.NewReader(p))
	fr.ReadMetaHeaders = d.dec
	fr.MaxHeaderListSize = 1 << 20
	for {
		f, err := fr.ReadFrame()
		if err != nil {
			return b.String()
		}
		h := f.Header()
		fmt.Fprintf(&b, "> %v", h.Type)
		if h.StreamID != 0 {
			fmt.Fprintf(&b, " %d", h.StreamID)
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if f.IsAck() {
				b.WriteString(" ACK")
			}
			f.ForeachSetting(func(s http2.Setting) error { fmt.Fprintf(&b, " %v=%d", s.ID, s.Val); return nil })
		case *http2.WindowUpdateFrame:
			fmt.Fprintf(&b, " %d", f.Increment)
		case *http2.RSTStreamFrame:
			fmt.Fprintf(&b, " %v", f.ErrCode)
		case *http2.GoAwayFrame:
			fmt.Fprintf(&b, " last=%d %v %q", f.LastStreamID, f.ErrCode, f.DebugData())
		case *http2.PingFrame:
			if f.IsAck() {
				b.WriteString(" ACK")
			}
			fmt.Fprintf(&b, " %x", f.Data)
		case *http2.DataFrame:
			if f.StreamEnded() {
				b.WriteString(" END")
			}
			if len(f.Data()) > 40 {
				fmt.Fprintf(&b, " (%d bytes)", len(f.Data()))
			} else {
				fmt.Fprintf(&b, " %q", f.Data())
			}
		case *http2.MetaHeadersFrame:
			if f.StreamEnded() {
				b.WriteString(" END")
			}
			for _, hf := range f.Fields {
				v := hf.Value
				if len(v) > 60 {
					v = fmt.Sprintf("(%d bytes)", len(v))
				}
				fmt.Fprintf(&b, "; %s: %s", hf.Name, v)
			}
		}
		b.WriteByte('\n')
	}
}

// receive appends the frame that a line describes to the input:
//
//	preface | SETTINGS [ack] [id=value …] | PING [ack] 8bytes | WINDOW_UPDATE id n | RST_STREAM id code | GOAWAY last code [debug]
//	PRIORITY id dependency | DATA id [END] [pad=n] text|bytes=n | FRAME type flags id hex
//	HEADERS id [END] [MORE] [pad=n] [dep=n] [; name: value]… | CONTINUATION id [MORE] [; name: value]…
func (d *side) receive(line string) {
	head, rest, _ := strings.Cut(line, ";")
	words := strings.Fields(head)
	if words[0] == "preface" {
		d.in = append(d.in, preface...)
		return
	}
	var flags uint8
	var id uint64
	var pad, dep, number = -1, -1, -1
	var text []string
	for i, w := range words[1:] {
		switch {
		case w == "END" || w == "ack":
			flags |= flagEnd
		case w == "MORE":
			flags |= flagEndHeaders // inverted below
		case strings.HasPrefix(w, "pad="):
			pad, _ = strconv.Atoi(w[4:])
		case strings.HasPrefix(w, "dep="):
			dep, _ = strconv.Atoi(w[4:])
		case strings.HasPrefix(w, "bytes="):
			number, _ = strconv.Atoi(w[6:])
		case i == 0 && words[0] != "SETTINGS" && words[0] != "PING" && words[0] != "GOAWAY" && words[0] != "FRAME":
			id, _ = strconv.ParseUint(w, 10, 32)
		default:
			text = append(text, w)
		}
	}
	if number >= 0 {
		text = []string{strings.Repeat("x", number)}
	}
	atoi := func(i int) uint32 {
		n, err := strconv.ParseUint(text[i], 10, 32)
		if err != nil {
			d.t.Fatalf("%s: %v", line, err)
		}
		return uint32(n)
	}
	var p []byte
	typ := map[string]frameType{"DATA": frameData, "HEADERS": frameHeaders, "PRIORITY": framePriority, "RST_STREAM": frameReset, "SETTINGS": frameSettings,
		"PING": framePing, "GOAWAY": frameGoAway, "WINDOW_UPDATE": frameWindowUpdate, "CONTINUATION": frameContinuation}[words[0]]
	switch words[0] {
	case "SETTINGS":
		for _, s := range text {
			k, v, _ := strings.Cut(s, "=")
			a, _ := strconv.Atoi(k)
			b, _ := strconv.ParseUint(v, 10, 32)
			p = appendSetting(p, uint16(a), uint32(b))
		}
	case "PING":
		p = append(p, text[0]...)
	case "WINDOW_UPDATE", "RST_STREAM":
		p = binary.BigEndian.AppendUint32(p, atoi(0))
	case "PRIORITY":
		p = append(binary.BigEndian.AppendUint32(p, atoi(0)), 16)
	case "GOAWAY":
		p = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(p, atoi(0)), atoi(1))
		p = append(p, strings.Join(text[2:], " ")...)
	case "DATA":
		p = append(p, strings.Join(text, " ")...)
	case "HEADERS", "CONTINUATION":
		flags ^= flagEndHeaders
		d.encoded.Reset()
		for f := range strings.SplitSeq(rest, ";") {
			if f == "" {
				continue
			}
			f = strings.TrimPrefix(f, " ")
			i := strings.Index(f[1:], ":") + 1
			name, value := f[:i], strings.TrimPrefix(f[i+1:], " ")
			if n, ok := strings.CutPrefix(value, "**"); ok { // **n: a value of n bytes
				k, _ := strconv.Atoi(n)
				value = strings.Repeat("v", k)
			}
			value = strings.NewReplacer(`\0`, "\x00", `\r`, "\r", `\n`, "\n", `\s`, " ").Replace(value)
			d.enc.WriteField(xhpack.HeaderField{Name: strings.ReplaceAll(name, `\s`, " "), Value: value})
		}
		if dep >= 0 {
			flags |= flagPriority
			p = append(binary.BigEndian.AppendUint32(p, uint32(dep)), 16)
		}
		p = append(p, d.encoded.Bytes()...)
	case "FRAME":
		typ = frameType(atoi(0))
		flags = uint8(atoi(1))
		id = uint64(atoi(2))
		if len(text) > 3 {
			p, _ = hex.DecodeString(text[3])
		}
	default:
		d.t.Fatalf("unknown frame %q", line)
	}
	if pad >= 0 {
		flags |= flagPadded
		p = append(append([]byte{byte(pad)}, p...), make([]byte, pad)...)
	}
	d.in = append(appendFrame(d.in, len(p), typ, flags, uint32(id)), p...)
}

func (d *side) fields(args []string, h *message.Headers) {
	for _, a := range args {
		if k, v, ok := strings.Cut(a, "="); ok {
			h.AddName([]byte(k), []byte(v))
		}
	}
}

// call does what a caller does, described by a line.
func (d *side) call(line string) {
	w := strings.Fields(line)
	num := func(i int) int { n, _ := strconv.Atoi(w[i]); return n }
	var h *held
	if len(w) > 1 {
		h = d.held[uint32(num(1))]
	}
	flag := func(s string) bool { return strings.Contains(" "+line+" ", " "+s+" ") }
	switch w[0] {
	case "respond": // id status [END] name=value…
		h.resp.Reset()
		h.resp.Status, h.resp.NoBody = num(2), flag("END")
		d.fields(w[3:], &h.resp.Headers)
		if flag("upgrade") {
			h.resp.Upgrade = h.req.Upgrade
		}
		d.out = d.m.Response(d.out, h.s, &h.resp)
	case "request": // id method path [END] [upgrade] name=value…
		h = &held{}
		h.req.Reset()
		h.resp.Reset()
		h.req.SetMethod([]byte(w[2]))
		h.req.Scheme, h.req.Authority, h.req.Path, h.req.NoBody = schemeHTTP, []byte("svc:80"), []byte(w[3]), flag("END")
		if flag("upgrade") {
			h.req.Upgrade = []byte("websocket")
		}
		d.fields(w[4:], &h.req.Headers)
		h.s, d.out = d.m.Request(d.out, &h.req, &h.resp, &h.trailers, &h.arena, d.now)
		if h.s == nil {
			d.log.WriteString("no capacity\n")
			return
		}
		h.s.Owner = h
		d.held[h.s.ID()] = h
	case "data": // id bytes [END]
		h.queue = append(h.queue, bytes.Repeat([]byte("d"), num(2))...)
		h.end = flag("END")
		d.send(h)
	case "trailers":
		var t message.Headers
		d.fields(w[2:], &t)
		d.out = d.m.Trailers(d.out, h.s, &t)
	case "ready": // one turn
		s := d.m.Ready()
		if s == nil {
			d.log.WriteString("nobody\n")
			return
		}
		d.send(s.Owner.(*held))
	case "flush": // all turns
		for s := d.m.Ready(); s != nil; s = d.m.Ready() {
			d.send(s.Owner.(*held))
		}
	case "consumed":
		d.out = d.m.Consumed(d.out, h.s, num(2))
	case "release": // id code
		d.out = d.m.Release(d.out, h.s, Code(num(2)))
		delete(d.held, uint32(num(1)))
	case "drain":
		d.out = d.m.Drain(d.out, d.now)
	case "close":
		d.out = d.m.Close(d.out, NoError)
	case "ping":
		d.out = d.m.Ping(d.out, 1)
	case "wait":
		t, _ := time.ParseDuration(w[1])
		d.now += int64(t)
		out, ev := d.m.Tick(d.out, d.now)
		d.out = out
		d.event(ev)
	case "upgrade": // h1 request with HTTP2-Settings in hex
		p, _ := hex.DecodeString(w[1])
		s, out, r := d.m.Upgrade(d.out, p, d.now)
		d.out = out
		if r != OK {
			fmt.Fprintf(&d.log, "%v\n", r)
			return
		}
		h = &held{s: s}
		s.Owner, d.held[1] = h, h
	case "refuse":
		d.refuse = true
	case "state":
		fmt.Fprintf(&d.log, "active=%d capacity=%d draining=%v\n", d.m.Active(), d.m.Capacity(), d.m.Draining())
	default:
		d.t.Fatalf("unknown call %q", line)
	}
}

func (d *side) send(h *held) {
	before := len(d.out)
	out, n := d.m.Data(d.out, h.s, h.queue, h.end)
	if len(out)-before > DataRoom(n) {
		d.t.Errorf("%d bytes of body made %d, announced %d", n, len(out)-before, DataRoom(n))
	}
	d.out, h.queue = out, h.queue[n:]
}

func options(args []datadriven.CmdArg) *Options {
	o := &Options{}
	for _, a := range args {
		n := 1
		if len(a.Vals) > 0 {
			n, _ = strconv.Atoi(a.Vals[0])
		}
		switch a.Key {
		case "streams":
			o.MaxStreams = n
		case "bytes":
			o.HeadBytes = n
		case "fields":
			o.Fields = n
		case "window":
			o.StreamWindow = uint32(n)
		case "connwindow":
			o.ConnWindow = uint32(n)
		case "connect":
			o.ExtendedConnect = true
		}
	}
	return o
}

// Transcripts: what comes in, as frames, and what is called; what goes out, as frames (>), and what the caller is told. With -rewrite
// the answers are written anew: only commit them if you understand what changed and want it.
//
//	server|client [option=n]…  begins a connection; "raw" leaves out the peer's preface and SETTINGS
//	recv                       frames, one a line; "×n" in front repeats
//	call                       calls, one a line
func TestTranscripts(t *testing.T) {
	datadriven.Walk(t, "testdata/transcripts", func(t *testing.T, path string) {
		var d *side
		datadriven.RunTest(t, path, func(t *testing.T, c *datadriven.TestData) string {
			switch c.Cmd {
			case "server", "client":
				d = newSide(t)
				raw := c.HasArg("raw")
				if c.Cmd == "server" {
					d.out = d.m.StartServer(d.out, options(c.CmdArgs), d.now)
					if !raw {
						d.receive("preface")
					}
				} else {
					d.out = d.m.StartClient(d.out, options(c.CmdArgs), d.now)
				}
				if !raw {
					d.receive("SETTINGS")
					d.receive("SETTINGS ack")
					d.run()
					d.log.Reset()
					d.frames()
				}
			case "recv":
				for line := range strings.SplitSeq(strings.TrimSpace(c.Input), "\n") {
					n := 1
					if rest, ok := strings.CutPrefix(line, "×"); ok {
						count, frame, _ := strings.Cut(rest, " ")
						n, _ = strconv.Atoi(count)
						line = frame
					}
					for i := range n {
						// A frame in two pieces shows that nothing depends on where input ends.
						d.receive(strings.ReplaceAll(line, "%d", strconv.Itoa(2*i+1)))
						all := d.in
						d.in = all[: len(all)/2 : len(all)/2]
						d.run()
						d.in = append(d.in, all[len(all)/2:]...)
						d.run()
					}
				}
			case "call":
				for line := range strings.SplitSeq(strings.TrimSpace(c.Input), "\n") {
					d.call(line)
				}
			}
			out := d.log.String() + d.frames()
			d.log.Reset()
			return out
		})
	})
}
