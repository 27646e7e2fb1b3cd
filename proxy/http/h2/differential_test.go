package h2

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	xhpack "golang.org/x/net/http2/hpack"

	"github.com/weirmesh/weir/proxy/http/hpack"
)

// stricter are the reasons for which we refuse what x/net's Framer takes, or end the connection where it ends a stream.
var stricter = map[Reason]string{
	// The Framer knows frames; streams, windows and roles are its users' business.
	IdleStream:           "the Framer has no streams",
	EndedStream:          "the Framer has no streams",
	AfterEnd:             "the Framer has no streams",
	TrailersWithoutEnd:   "the Framer has no streams",
	InvalidStreamID:      "the Framer does not know which side opens streams",
	MissingSettings:      "the Framer does not know which frame comes first",
	UnexpectedPush:       "the Framer serves clients too",
	WindowOverflow:       "the Framer has no windows",
	StreamWindowOverflow: "the Framer has no windows",
	StreamWindowExceeded: "the Framer has no windows",
	LengthMismatch:       "the Framer does not count bodies",
	InvalidSetting:       "the Framer does not look at settings",
	SelfDependency:       "RFC 7540 section 5.3.1; x/net's server looks at it, not the Framer",

	// The Framer checks the form of fields; what they mean is the business of x/net's server.
	MissingPseudo:           "the Framer does not demand pseudo-headers",
	UnexpectedPseudo:        "the Framer does not know CONNECT and trailers",
	ConnectionField:         "the Framer does not look at RFC 9113 section 8.2.2",
	InvalidTE:               "the Framer does not look at RFC 9113 section 8.2.2",
	InvalidMethod:           "the Framer does not look at values",
	InvalidScheme:           "the Framer does not look at values",
	InvalidPath:             "the Framer does not look at values",
	InvalidAuthority:        "the Framer does not look at values",
	UserinfoInAuthority:     "the Framer does not look at values",
	InvalidProtocol:         "the Framer does not look at values",
	InvalidContentLength:    "the Framer does not look at values",
	DifferingContentLengths: "the Framer does not look at values",
	MissingAuthority:        "the Framer does not look at values",
	UnknownExpectation:      "the Framer does not look at values",
	DuplicateHost:           "the Framer does not look at Host",
	DifferingHost:           "the Framer does not look at Host",

	// Where we ask for more.
	InvalidFrameSize:                     "HEADERS whose padding leaves no room for the priority; x/net makes it an error of the stream",
	InvalidPadding:                       "RFC 9113 section 6.2 makes it an error of the connection; x/net of the stream",
	PaddedValue:                          "RFC 9113 section 8.2.1 forbids white space around values; x/net takes it",
	ofCompression(hpack.LateSizeUpdate):  "see package hpack",
	ofCompression(hpack.ManySizeUpdates): "see package hpack",
	ofCompression(hpack.IntegerTooLarge): "see package hpack",
}

// lenient are the errors of x/net's Framer where we refuse nothing, or end a stream where it ends the connection.
var lenient = map[string]string{
	"connection error: PROTOCOL_ERROR behind a malformed head": "x/net gives up where CONTINUATION follows a field that is malformed; we reset the stream",
	"connection error: FRAME_SIZE_ERROR of PRIORITY":           "RFC 9113 section 6.3 makes it an error of the stream, and there is none; priorities are ignored",
	"an error of PRIORITY_UPDATE":                              "we do not know RFC 9218; priorities are ignored",
	"COMPRESSION_ERROR where nobody reads":                     "of a message that is refused anyway we read what enters the table, and do not look at other strings",
	"stream error on a stream that is over":                    "a header block there is read for the table only, other frames are of no interest",
}

// anEmptyPort is what we see differently in a request that both take.
const anEmptyPort = "an authority with an empty port"

var different = map[string]string{
	anEmptyPort: "it is the authority without (RFC 3986 section 6.2.3), and compared as such; the Framer does not look at values",
}

// generate makes what a client sends, with x/net's Framer and encoder: mostly requests, some of them malformed, and frames of all kinds.
func generate(r *rand.Rand) []byte {
	var out, block bytes.Buffer
	fr := http2.NewFramer(&out, nil)
	fr.AllowIllegalWrites = true
	enc := xhpack.NewEncoder(&block)
	fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(r.IntN(100000))})
	next, pick := uint32(1), func(s ...string) string { return s[r.IntN(len(s))] }
	stream := func() uint32 {
		if r.IntN(20) == 0 {
			return uint32(r.IntN(int(next) + 3))
		}
		if next == 1 {
			return 1
		}
		return uint32(r.IntN(int(next)/2))*2 + 1
	}
	for range 1 + r.IntN(12) {
		switch r.IntN(12 + r.IntN(20)/19) {
		default:
			block.Reset()
			f := [][2]string{{":method", pick("GET", "POST", "HEAD", "OPTIONS", "PUT")}, {":scheme", pick("http", "https")}, {":authority", pick("svc", "svc:80", "[::1]:80", "svc:")},
				{":path", pick("/", "/a", "/a?b=c", "/%20")}}
			for range r.IntN(6) {
				f = append(f, [][2]string{{"te", "trailers"}, {"expect", "100-continue"}, {"cookie", pick("a=b", "c")}, {"user-agent", strings.Repeat("v", 200)},
					{pick("x-a", "x-b", "accept"), pick("a", "b", "", "c; d")}}[r.IntN(5)])
			}
			if r.IntN(4) == 0 { // something is wrong
				f = append(f, [2]string{pick("X-A", "a b", ":foo", ":path", "connection", "content-length", "te", "", "a:b", "transfer-encoding", ":status", ":protocol", "host", "expect"),
					pick("a", "1", "2", " a", "a\x01", "a\r\nb", "a\x00", "é", "a ", "-1", "svc")})
			}
			if r.IntN(6) == 0 {
				i := r.IntN(len(f))
				switch f[i][1] = pick("", "CONNECT", "*", "http://a/", "a b", "u@h", "x", "/#a"); r.IntN(3) {
				case 0:
					f = append(f[:i:i], f[i+1:]...)
				case 1:
					r.Shuffle(len(f), func(i, j int) { f[i], f[j] = f[j], f[i] })
				}
			}
			if r.IntN(5) == 0 {
				f = append(f, [2]string{"content-length", pick("0", "1", "5000", "9000")})
			}
			if r.IntN(50) == 0 {
				f = append(f, [2]string{"host", "svc"}, [2]string{"host", "svc"})
			}
			for _, kv := range f {
				enc.WriteField(xhpack.HeaderField{Name: kv[0], Value: kv[1]})
			}
			id := next
			if r.IntN(6) == 0 {
				id = stream()
			} else {
				next += 2
			}
			p := http2.HeadersFrameParam{StreamID: id, EndStream: r.IntN(2) == 0, EndHeaders: true, BlockFragment: bytes.Clone(block.Bytes()), PadLength: uint8(r.IntN(2) * r.IntN(20))}
			if r.IntN(100) == 0 {
				p.BlockFragment = unusual(r.IntN(4), p.BlockFragment)
			}
			if r.IntN(8) == 0 {
				p.Priority = http2.PriorityParam{StreamDep: stream(), Weight: 1}
			}
			if cut := p.BlockFragment; r.IntN(4) == 0 && len(cut) > 1 {
				k := r.IntN(len(cut))
				p.BlockFragment, p.EndHeaders = cut[:k], false
				fr.WriteHeaders(p)
				fr.WriteContinuation(id, r.IntN(20) > 0, cut[k:])
				break
			}
			fr.WriteHeaders(p)
		case 6, 7:
			fr.WriteDataPadded(stream(), r.IntN(3) == 0, make([]byte, r.IntN(3)*r.IntN(9000)), make([]byte, r.IntN(2)*r.IntN(200)))
		case 12: // more than a window
			for id := stream(); out.Len() < 90_000; {
				fr.WriteData(id, false, make([]byte, maxFrame))
			}
		case 8:
			fr.WriteRSTStream(stream(), http2.ErrCodeCancel)
		case 9:
			fr.WriteWindowUpdate(stream(), uint32(r.IntN(3))*uint32(r.IntN(1<<30)))
		case 10:
			switch r.IntN(5) {
			case 0:
				fr.WritePing(r.IntN(2) == 0, [8]byte{1})
			case 1:
				fr.WriteSettings(http2.Setting{ID: http2.SettingID(r.IntN(9)), Val: uint32(r.IntN(3)) * r.Uint32()})
			case 2:
				fr.WritePriority(stream(), http2.PriorityParam{StreamDep: stream()})
			case 3:
				fr.WriteGoAway(uint32(r.IntN(10)), http2.ErrCodeNo, []byte("bye"))
			case 4:
				fr.WriteSettingsAck()
			}
		case 11:
			fr.WriteRawFrame(http2.FrameType(r.IntN(14)), http2.Flags(r.IntN(256)), stream(), make([]byte, r.IntN(20)))
		}
	}
	b := out.Bytes()
	if r.IntN(3) == 0 {
		for range 1 + r.IntN(3) {
			i := r.IntN(len(b))
			switch r.IntN(3) {
			case 0:
				b[i] = byte(r.Uint32())
			case 1:
				b[i] ^= 1 << r.IntN(8)
			case 2:
				b = append(b[:i:i], b[min(len(b), i+1+r.IntN(3)):]...)
			}
			if len(b) == 0 {
				return b
			}
		}
	}
	return b
}

// unusual adds to a block what no encoder writes.
func unusual(what int, block []byte) []byte {
	switch what {
	case 0: // a size update to 31, written longer than need be
		return append([]byte{0x3f, 0x80, 0x80, 0x80, 0x80, 0}, block...)
	case 1: // three size updates, to 0
		return append([]byte{0x20, 0x20, 0x20}, block...)
	case 2: // one behind the fields
		return append(block, 0x20)
	}
	return append(block, "\x00\x01a\x84\xff\xff\xff\xff"...) // EOS in a string
}

// unit is the length of the next frame, or of HEADERS with all its CONTINUATION; 0: there is no whole one. What interrupts them is a
// part of it.
func unit(b []byte) int {
	n := 0
	for {
		if len(b)-n < frameHead {
			return 0
		}
		size := int(b[n])<<16 | int(b[n+1])<<8 | int(b[n+2])
		typ, flags := frameType(b[n+3]), b[n+4]
		first := n == 0
		if n += frameHead + size; n > len(b) || size > maxFrame {
			return 0
		}
		if first && typ != frameHeaders || !first && typ != frameContinuation || flags&flagEndHeaders != 0 {
			return n
		}
	}
}

// verdict is what becomes of a unit.
type verdict uint8

const (
	taken verdict = iota
	streamEnds
	connectionEnds
)

// ours is what we say to a unit, and the request when it is one.
func ours(d *side, b []byte) (v verdict, r Reason, head *held) {
	d.in = append(d.in, b...)
	d.events = d.events[:0]
	d.log.Reset()
	d.run()
	for _, ev := range d.events {
		switch {
		case ev.Kind == Failed:
			return connectionEnds, ev.Reason, nil
		case ev.Kind == Refuse, ev.Kind == Reset && ev.Reason != PeerReset:
			v, r = streamEnds, ev.Reason
		case ev.Kind == Head:
			head = ev.Stream.Owner.(*held)
		}
	}
	return v, r, head
}

// theirs is what x/net's Framer says to a unit.
func theirs(dec *xhpack.Decoder, b []byte) (verdict, *http2.MetaHeadersFrame, error) {
	fr := http2.NewFramer(io.Discard, bytes.NewReader(b))
	fr.ReadMetaHeaders = dec
	fr.MaxHeaderListSize = DefaultHeadBytes
	fr.SetMaxReadFrameSize(maxFrame)
	frame, err := fr.ReadFrame()
	var se http2.StreamError
	switch {
	case errors.As(err, &se):
		return streamEnds, nil, err
	case err != nil:
		return connectionEnds, nil, err
	}
	m, _ := frame.(*http2.MetaHeadersFrame)
	return taken, m, nil
}

// Generated and mutated connections mean the same to us and to x/net, frame by frame, until one of the two ends the connection; every
// disagreement is explained.
//
// WEIR_DIFFERENTIAL is the number of connections (make differential: 1,000,000), WEIR_SEED chooses others.
func TestDifferential(t *testing.T) {
	n, seeds := number(t, "WEIR_DIFFERENTIAL", 3000), number(t, "WEIR_SEED", 1)
	seen := map[string]int{}
	heads := 0
	for seed := range n {
		b := generate(rand.New(rand.NewPCG(uint64(seed), uint64(seeds))))
		d := newSide(t)
		d.out = d.m.StartServer(d.out, &Options{}, d.now)
		d.receive("preface")
		d.run()
		dec := xhpack.NewDecoder(4096, nil)
		for n := unit(b); n > 0; n = unit(b) {
			u := b[:n]
			b = b[n:]
			live := d.m.table.get(binary.BigEndian.Uint32(u[5:])&maxID) != nil
			we, reason, head := ours(d, u)
			they, f, err := theirs(dec, u)
			var why string
			switch {
			case we > they:
				why = stricter[reason]
				seen[reason.String()]++
			case we < they:
				key := "stream error on a stream that is over"
				switch {
				case u[3] == 0x10:
					key = "an error of PRIORITY_UPDATE"
				case they == connectionEnds && frameType(u[3]) == framePriority:
					key = "connection error: FRAME_SIZE_ERROR of PRIORITY"
				case they == connectionEnds && frameType(u[3]) == frameHeaders && errors.Is(err, http2.ConnectionError(http2.ErrCodeProtocol)) && u[4]&flagEndHeaders == 0:
					key = "connection error: PROTOCOL_ERROR behind a malformed head"
				case errors.Is(err, http2.ConnectionError(http2.ErrCodeCompression)) && (we == streamEnds || !live):
					key = "COMPRESSION_ERROR where nobody reads"
				case they == connectionEnds || live:
					key = err.Error()
				}
				why = lenient[key]
				seen[key]++
			case head != nil && f != nil:
				heads++
				if key := sameHead(t, seed, head, f); key != "" {
					seen[key]++
				}
				continue
			default:
				why = "agreed"
			}
			if why == "" {
				t.Fatalf("seed %d: we say %v, %v; x/net says %v\n%x", seed, we, reason, err, u)
			}
			if we == connectionEnds || they == connectionEnds {
				break
			}
		}
	}
	t.Logf("%d requests read by both", heads)
	explained := maps.Clone(lenient)
	maps.Copy(explained, different)
	for r, why := range stricter {
		explained[r.String()] = why
	}
	for _, k := range slices.Sorted(maps.Keys(explained)) {
		if t.Logf("%7d × %s: %s", seen[k], k, explained[k]); seen[k] == 0 && n >= 1_000_000 {
			t.Errorf("%q explains nothing", k)
		}
	}
}

func number(t *testing.T, name string, n int) int {
	s := os.Getenv(name)
	if s == "" {
		return n
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// sameHead compares a request with the fields x/net read. It returns what of different it met.
func sameHead(t *testing.T, seed int, h *held, f *http2.MetaHeadersFrame) (met string) {
	t.Helper()
	q := &h.req
	authority, host, cookies := f.PseudoValue("authority"), "", []string{}
	var fields []string
	at := -1
	expect := false
	for _, hf := range f.RegularFields() {
		switch hf.Name {
		case "host":
			host = hf.Value
		case "cookie":
			if at < 0 {
				at = len(fields)
				fields = append(fields, "")
			}
			cookies = append(cookies, hf.Value)
		case "expect":
			expect = !f.StreamEnded()
		case "content-length":
			if fl := "; content-length: " + hf.Value; !slices.Contains(fields, fl) { // one is enough
				fields = append(fields, fl)
			}
		default:
			fields = append(fields, "; "+hf.Name+": "+short(hf.Value))
		}
	}
	if at >= 0 {
		fields[at] = "; cookie: " + short(strings.Join(cookies, "; "))
	}
	if authority == "" {
		authority = host
	}
	if bare, ok := strings.CutSuffix(authority, ":"); ok {
		authority, met = bare, anEmptyPort
	}
	want := fmt.Sprintf("%s %s %s %s %v %v", f.PseudoValue("method"), strings.ToLower(f.PseudoValue("scheme")), authority, f.PseudoValue("path"), expect, strings.Join(fields, ""))
	got := fmt.Sprintf("%s %s %s %s %v %v", q.RawMethod, q.Scheme, q.Authority, q.Path, q.Continue, list(&q.Headers))
	if got != want {
		t.Fatalf("seed %d: we have %q, x/net has %q", seed, got, want)
	}
	return met
}

func short(v string) string {
	if len(v) > 60 {
		return fmt.Sprintf("(%d bytes)", len(v))
	}
	return v
}
