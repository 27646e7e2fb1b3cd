package http_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/weirmesh/weir/proxy/loop/mem"
)

// peer2 is the test's end of an HTTP/2 connection: frames as text, by the framer of x/net. It acknowledges SETTINGS by
// itself and says nothing of acknowledgements.
//
// The text of a frame is its type, stream, END if it ends the stream, and what is in it:
//
//	HEADERS 1 END          DATA 1 END "hello"      DATA 1 70000 (so many x)      RST_STREAM 1 CANCEL
//	  :method: GET         WINDOW_UPDATE 0 1000    SETTINGS 3=100 4=65535        PING 7      GOAWAY 1 NO_ERROR
type peer2 struct {
	p      *mem.Peer
	step   func() // lets the proxy work
	server bool   // the test is the server
	in     bytes.Buffer
	out    bytes.Buffer
	fr     *http2.Framer
	enc    *hpack.Encoder
	block  bytes.Buffer
	dec    *hpack.Decoder
	began  bool // the client's preface was read
	hello  bool // our SETTINGS were sent
	acks   int  // owed, behind them
}

func newPeer2(p *mem.Peer, step func(), server bool) *peer2 {
	c := &peer2{p: p, step: step, server: server}
	c.fr = http2.NewFramer(&c.out, &c.in)
	c.fr.SetMaxReadFrameSize(1 << 24)
	c.fr.AllowIllegalWrites = true
	c.enc = hpack.NewEncoder(&c.block)
	c.dec = hpack.NewDecoder(4096, nil)
	c.fr.ReadMetaHeaders = c.dec
	c.fr.MaxHeaderListSize = 1 << 20
	return c
}

// begin sends what a connection begins with.
func (c *peer2) begin(t *testing.T, settings string) {
	if !c.server {
		c.out.WriteString(http2.ClientPreface)
	}
	if err := c.write("SETTINGS "+settings, nil); err != nil {
		t.Fatal(err)
	}
	c.flush()
}

func (c *peer2) flush() string {
	for ; c.hello && c.acks > 0; c.acks-- {
		c.fr.WriteSettingsAck()
	}
	for b := c.out.Bytes(); len(b) > 0; {
		n, err := c.p.Send(b)
		if b = b[n:]; err != nil || n == 0 {
			c.out.Reset()
			return fmt.Sprintf("%d bytes were not taken: %v\n", len(b), err)
		}
		c.step()
	}
	c.out.Reset()
	return ""
}

// send sends frames; it says what could not be sent.
func (c *peer2) send(t *testing.T, text string) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	for i := 0; i < len(lines); {
		j := i + 1
		for j < len(lines) && strings.HasPrefix(lines[j], " ") {
			j++
		}
		if err := c.write(lines[i], lines[i+1:j]); err != nil {
			t.Fatalf("%s: %v", lines[i], err)
		}
		i = j
	}
	return c.flush()
}

var errSyntax = errors.New("syntax")

func (c *peer2) write(head string, more []string) error {
	f := strings.Fields(head)
	num := func(i int) uint32 {
		if i >= len(f) {
			return 0
		}
		n, _ := strconv.ParseUint(f[i], 0, 32)
		return uint32(n)
	}
	end := len(f) > 2 && f[2] == "END"
	switch f[0] {
	case "SETTINGS":
		c.hello = true
		var ss []http2.Setting
		for _, s := range f[1:] {
			k, v, _ := strings.Cut(s, "=")
			id, _ := strconv.Atoi(k)
			val, _ := strconv.ParseUint(v, 0, 32)
			ss = append(ss, http2.Setting{ID: http2.SettingID(id), Val: uint32(val)})
		}
		return c.fr.WriteSettings(ss...)
	case "HEADERS":
		c.block.Reset()
		for _, l := range more {
			l = strings.TrimSpace(l)
			i := strings.Index(l[1:], ":") + 1
			if i == 0 {
				return errSyntax
			}
			v, err := strconv.Unquote(`"` + strings.TrimPrefix(l[i+1:], " ") + `"`)
			if err != nil {
				return err
			}
			c.enc.WriteField(hpack.HeaderField{Name: l[:i], Value: v})
		}
		return c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: num(1), BlockFragment: c.block.Bytes(), EndStream: end, EndHeaders: f[len(f)-1] != "OPEN"})
	case "DATA":
		rest := strings.TrimSpace(strings.TrimPrefix(strings.TrimPrefix(head, f[0]+" "+f[1]), " END"))
		var b []byte
		if n, err := strconv.Atoi(rest); err == nil {
			b = bytes.Repeat([]byte{'x'}, n)
		} else if rest != "" {
			s, err := strconv.Unquote(rest)
			if err != nil {
				return err
			}
			b = []byte(s)
		}
		for len(b) > 16<<10 {
			if err := c.fr.WriteData(num(1), false, b[:16<<10]); err != nil {
				return err
			}
			b = b[16<<10:]
		}
		return c.fr.WriteData(num(1), end, b)
	case "RST_STREAM":
		return c.fr.WriteRSTStream(num(1), code(f[2]))
	case "WINDOW_UPDATE":
		return c.fr.WriteWindowUpdate(num(1), num(2))
	case "PING":
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], uint64(num(1)))
		return c.fr.WritePing(len(f) > 2, b)
	case "GOAWAY":
		return c.fr.WriteGoAway(num(1), code(f[2]), nil)
	case "PRIORITY":
		return c.fr.WritePriority(num(1), http2.PriorityParam{StreamDep: num(2)})
	}
	return errSyntax
}

func code(name string) http2.ErrCode {
	for c := http2.ErrCodeNo; c <= http2.ErrCodeHTTP11Required; c++ {
		if c.String() == name {
			return c
		}
	}
	return 99
}

// recv tells the frames that have come.
func (c *peer2) recv(t *testing.T, b []byte) string {
	c.in.Write(b)
	var s strings.Builder
	if c.server && !c.began && c.in.Len() >= len(http2.ClientPreface) {
		c.began = true
		if string(c.in.Next(len(http2.ClientPreface))) != http2.ClientPreface {
			t.Error("the connection does not begin with the preface")
		}
	}
	folded := map[uint32]int{}
	fold := func() {
		for id, n := range folded {
			fmt.Fprintf(&s, "DATA %d %d bytes\n", id, n)
			delete(folded, id)
		}
	}
	for {
		rest := bytes.Clone(c.in.Bytes())
		f, err := c.fr.ReadFrame()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			c.in.Reset()
			c.in.Write(rest)
			break
		}
		if err != nil {
			fmt.Fprintf(&s, "%v\n", err)
			break
		}
		h := f.Header()
		end := ""
		if h.Flags.Has(http2.FlagDataEndStream) && (h.Type == http2.FrameData || h.Type == http2.FrameHeaders) {
			end = " END"
		}
		if d, ok := f.(*http2.DataFrame); ok && end == "" && len(d.Data()) > 100 {
			folded[h.StreamID] += len(d.Data())
			continue
		}
		fold()
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			fmt.Fprintf(&s, "HEADERS %d%s\n", h.StreamID, end)
			for _, x := range f.Fields {
				v := uuid.ReplaceAllString(x.Value, "<uuid>")
				fmt.Fprintf(&s, "  %s: %s\n", x.Name, strings.Trim(strconv.Quote(v), `"`))
			}
		case *http2.DataFrame:
			if len(f.Data()) > 100 {
				fmt.Fprintf(&s, "DATA %d%s %d bytes\n", h.StreamID, end, len(f.Data()))
			} else {
				fmt.Fprintf(&s, "DATA %d%s %q\n", h.StreamID, end, f.Data())
			}
		case *http2.RSTStreamFrame:
			fmt.Fprintf(&s, "RST_STREAM %d %v\n", h.StreamID, f.ErrCode)
		case *http2.WindowUpdateFrame:
			fmt.Fprintf(&s, "WINDOW_UPDATE %d %d\n", h.StreamID, f.Increment)
		case *http2.PingFrame:
			if !f.IsAck() {
				fmt.Fprintf(&s, "PING\n")
				c.fr.WritePing(true, f.Data)
			} else {
				fmt.Fprintf(&s, "PING %d ACK\n", binary.BigEndian.Uint64(f.Data[:]))
			}
		case *http2.GoAwayFrame:
			fmt.Fprintf(&s, "GOAWAY %d %v %s\n", f.LastStreamID, f.ErrCode, f.DebugData())
		case *http2.SettingsFrame:
			if f.IsAck() {
				continue
			}
			s.WriteString("SETTINGS")
			f.ForeachSetting(func(x http2.Setting) error {
				fmt.Fprintf(&s, " %d=%d", x.ID, x.Val)
				return nil
			})
			s.WriteString("\n")
			c.acks++
		default:
			fmt.Fprintf(&s, "%v\n", h)
		}
	}
	fold()
	c.flush() // the other end may be gone
	return s.String()
}
