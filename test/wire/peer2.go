package wire

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"golang.org/x/net/http2"

	"github.com/weirmesh/weir/proxy/loop/mem"
)

// client2 speaks HTTP/2.
type client2 struct {
	*frames
	chain   *Chain
	p       *mem.Peer
	next    uint32 // stream
	streams []*stream
	heads   map[uint32]bool // streams that ask with HEAD
	goAway  string
	err     error
	problem string
}

func newClient2(c *Chain, p *mem.Peer) *client2 {
	k := &client2{frames: newFrames(), chain: c, p: p, next: 1, heads: map[uint32]bool{}}
	k.out.WriteString(http2.ClientPreface)
	_ = k.w.WriteSettings()
	k.flush()
	return k
}

func (c *client2) Ask(method, host, path string) {
	c.Send(fmt.Appendf(nil, "HEADERS %d END_STREAM\n :method: %s\n :scheme: http\n :authority: %s\n :path: %s\n", c.next, method, host, path))
}

// Send writes frames, and lets everything happen that follows. Streams are numbered from 1 on.
func (c *client2) Send(text []byte) {
	if err := c.write(string(text)); err != nil {
		c.chain.t.Fatal(err)
	}
	for line := range strings.SplitSeq(string(text), "\n") {
		var kind string
		var id uint32
		if n, _ := fmt.Sscanf(line, "%s %d", &kind, &id); n == 2 && line[0] != ' ' && id >= c.next {
			c.next = id + 2
		}
		if line == " :method: HEAD" {
			c.heads[c.next-2] = true
		}
	}
	c.flush()
}

func (c *client2) flush() {
	for c.out.Len() > 0 && c.err == nil {
		n, err := c.p.Send(c.out.Bytes())
		c.out.Next(n)
		c.chain.Settle()
		c.Read()
		if err != nil || n == 0 {
			c.out.Reset()
			return
		}
	}
}

// Read is described at Client.
func (c *client2) Read() {
	for {
		b, err := c.p.Recv()
		c.in = append(c.in, b...)
		if err != nil && c.err == nil {
			c.err = err
		}
		if len(b) == 0 || err != nil {
			break
		}
		c.chain.Settle()
	}
	for c.problem == "" {
		fr, err := c.frames.next()
		if err == nil && fr == nil {
			break
		}
		if err == nil {
			err = c.take(fr)
		}
		if err != nil {
			c.problem = err.Error()
		}
	}
	c.flush()
}

func (c *client2) take(fr http2.Frame) error {
	if answersPeer(c.frames, fr) {
		return nil
	}
	if g, ok := fr.(*http2.GoAwayFrame); ok {
		c.goAway = g.ErrCode.String()
	}
	id := fr.Header().StreamID
	if id == 0 {
		return nil
	}
	i := slices.IndexFunc(c.streams, func(s *stream) bool { return s.id == id })
	if i < 0 {
		i = len(c.streams)
		c.streams = append(c.streams, &stream{id: id, toHead: c.heads[id]})
	}
	return c.streams[i].take(c.frames, fr, true)
}

// answersPeer acknowledges what must be, and reports whether that was all there is to the frame.
func answersPeer(f *frames, fr http2.Frame) bool {
	switch fr := fr.(type) {
	case *http2.SettingsFrame:
		if !fr.IsAck() {
			_ = f.w.WriteSettingsAck()
		}
		return true
	case *http2.PingFrame:
		if !fr.IsAck() {
			_ = f.w.WritePing(true, fr.Data)
		}
		return true
	}
	return false
}

// Answers is described at Client.
func (c *client2) Answers() (final []*Message) {
	for _, s := range c.streams {
		if s.now != nil {
			final = append(final, s.now)
		}
	}
	return final
}

// Ready is described at Client.
func (c *client2) Ready() bool {
	return c.err == nil && c.problem == "" && c.goAway == "" &&
		!slices.ContainsFunc(c.streams, func(s *stream) bool { return s.reset == "" && (s.now == nil || !s.now.Complete) })
}

// Report is described at Client.
func (c *client2) Report() string {
	var parts []string
	answered := 0
	for _, s := range c.streams {
		for _, m := range s.heads {
			if m != s.now {
				parts = append(parts, m.Start[9:12]+shown(m.Fields))
			}
		}
		text := ""
		why := c.chain.why(answered)
		if s.now != nil {
			text = s.now.Start[9:12] + s.now.report(why)
		}
		if s.reset != "" && (s.now == nil || !s.now.Complete || s.reset != "NO_ERROR") {
			if s.now == nil {
				text = why
			}
			text += " reset " + s.reset
		}
		answered++
		if text != "" {
			parts = append(parts, strings.TrimSpace(text))
		}
	}
	if len(parts) == 0 {
		parts = append(parts, "nothing")
	}
	if c.problem != "" {
		parts = append(parts, "UNREADABLE: "+c.problem)
	}
	if c.goAway != "" {
		parts = append(parts, "GOAWAY "+c.goAway)
	}
	switch {
	case c.err == nil:
		parts = append(parts, "open")
	case errors.Is(c.err, io.EOF):
		parts = append(parts, "closed")
	default:
		parts = append(parts, "reset")
	}
	return joined(parts)
}

// Close is described at Client.
func (c *client2) Close() {
	c.p.Close()
	c.chain.Settle()
}

// backConn2 is a connection of a back end that speaks HTTP/2.
type backConn2 struct {
	*frames
	b        *Backend
	p        *mem.Peer
	prefaced bool
	streams  map[uint32]*stream
	ended    bool
}

func newBackConn2(b *Backend, p *mem.Peer) *backConn2 {
	c := &backConn2{frames: newFrames(), b: b, p: p, streams: map[uint32]*stream{}}
	_ = c.w.WriteSettings(http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1})
	return c
}

func (c *backConn2) work() bool {
	if c.ended {
		return false
	}
	got, err := c.p.Recv()
	c.in = append(c.in, got...)
	c.read()
	said := c.out.Len() > 0
	if said && err == nil {
		n, _ := c.p.Send(c.out.Bytes())
		c.out.Next(n)
	}
	if err != nil {
		c.ended = true
		c.p.Close()
	}
	return len(got) > 0 || said
}

func (c *backConn2) read() {
	if !c.prefaced {
		if len(c.in) < len(http2.ClientPreface) {
			return
		}
		if !strings.HasPrefix(string(c.in), http2.ClientPreface) {
			c.b.problem("%q is not the preface", c.in[:len(http2.ClientPreface)])
		}
		c.in, c.prefaced = c.in[len(http2.ClientPreface):], true
	}
	for {
		fr, err := c.next()
		if err == nil && fr == nil {
			return
		}
		if err == nil {
			err = c.take(fr)
		}
		if err != nil {
			c.b.problem("%v", err)
			return
		}
	}
}

func (c *backConn2) take(fr http2.Frame) error {
	id := fr.Header().StreamID
	if answersPeer(c.frames, fr) || id == 0 {
		return nil
	}
	s := c.streams[id]
	if s == nil {
		s = &stream{id: id}
		c.streams[id] = s
	}
	had := s.now != nil
	if err := s.take(c.frames, fr, false); err != nil {
		return err
	}
	if s.now == nil {
		return nil
	}
	if !had {
		c.b.Requests = append(c.b.Requests, s.now)
	}
	tunnel := strings.HasPrefix(s.now.Start, "CONNECT ")
	if s.now.Complete && s.reset == "" || !had && (c.b.Early || tunnel) {
		c.answer(s, tunnel)
	}
	return nil
}

func (c *backConn2) answer(s *stream, tunnel bool) {
	if s.answered {
		return
	}
	s.answered = true
	if len(c.b.Answer) > 0 {
		text := c.b.Answer[0]
		c.b.Answer = c.b.Answer[1:]
		c.say(text)
		return
	}
	status, body := "200", s.now.Start[:min(len(s.now.Start), 1000)]
	if tunnel {
		status = "404" // else it would be open
	}
	end := strings.HasPrefix(s.now.Start, "HEAD ")
	_ = c.w.WriteHeaders(http2.HeadersFrameParam{StreamID: s.id, EndHeaders: true, EndStream: end,
		BlockFragment: c.encode([]Field{{":status", status}, {"content-length", fmt.Sprint(len(body))}})})
	if !end {
		_ = c.w.WriteData(s.id, true, []byte(body))
	}
}

func (c *backConn2) say(text []byte) {
	if err := c.write(string(text)); err != nil {
		c.b.problem("%v", err)
	}
	n, _ := c.p.Send(c.out.Bytes())
	c.out.Next(n)
}

func (c *backConn2) open() bool { return !c.ended }

func (c *backConn2) close() {
	if !c.ended {
		c.p.Close()
	}
}
