package hpack

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	xhpack "golang.org/x/net/http2/hpack"

	"github.com/weirmesh/weir/proxy/http/message"
)

// decodeAll renders a block's fields as "name: value", faults and "never indexed" marked.
func decodeAll(d *Decoder, block []byte) (out []string, r Reason) {
	var a message.Arena
	var f Field
	for d.Begin(block); d.Next(&a, &f); {
		s := string(f.Name) + ": " + string(f.Value)
		if f.Never {
			s += " (never)"
		}
		if f.Fault != NoFault {
			s += fmt.Sprintf(" (fault %d)", f.Fault)
		}
		out = append(out, s)
	}
	return out, d.Reason()
}

func bin(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The blocks of RFC 7541 appendix C, each sequence on one connection.
func TestBlocksOfTheRFC(t *testing.T) {
	for _, c := range []struct {
		intention string
		size      uint32
		blocks    []string
		want      []string
	}{
		{"C.3 requests without Huffman", 4096, []string{
			"8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
			"8286 84be 5808 6e6f 2d63 6163 6865",
			"8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
		}, []string{
			":method: GET|:scheme: http|:path: /|:authority: www.example.com",
			":method: GET|:scheme: http|:path: /|:authority: www.example.com|cache-control: no-cache",
			":method: GET|:scheme: https|:path: /index.html|:authority: www.example.com|custom-key: custom-value",
		}},
		{"C.4 requests with Huffman", 4096, []string{
			"8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
			"8286 84be 5886 a8eb 1064 9cbf",
			"8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
		}, []string{
			":method: GET|:scheme: http|:path: /|:authority: www.example.com",
			":method: GET|:scheme: http|:path: /|:authority: www.example.com|cache-control: no-cache",
			":method: GET|:scheme: https|:path: /index.html|:authority: www.example.com|custom-key: custom-value",
		}},
		{"C.6 responses with Huffman and a table of 256, which evicts", 256, []string{
			"4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
			"4883 640e ffc1 c0bf",
			"88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
		}, []string{
			":status: 302|cache-control: private|date: Mon, 21 Oct 2013 20:13:21 GMT|location: https://www.example.com",
			":status: 307|cache-control: private|date: Mon, 21 Oct 2013 20:13:21 GMT|location: https://www.example.com",
			":status: 200|cache-control: private|date: Mon, 21 Oct 2013 20:13:22 GMT|location: https://www.example.com|content-encoding: gzip|set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
		}},
		{"C.2.3 a literal never indexed", 4096, []string{"1008 7061 7373 776f 7264 0673 6563 7265 74"}, []string{"password: secret (never)"}},
	} {
		var d Decoder
		d.Init()
		d.table.resize(c.size)
		for i, b := range c.blocks {
			got, r := decodeAll(&d, bin(t, b))
			if diff := cmp.Diff(c.want[i], strings.Join(got, "|")); diff != "" || r != OK {
				t.Errorf("%s, block %d: %v (-want +got)\n%s", c.intention, i, r, diff)
			}
		}
	}
}

// What ends a connection, and what only ends a message.
func TestDecoderRefuses(t *testing.T) {
	for _, c := range []struct {
		intention string
		block     string
		want      Reason
		fields    string
	}{
		{"index 0 is no field", "80", InvalidIndex, ""},
		{"the first index behind an empty table", "be", InvalidIndex, ""},
		{"a literal whose name is behind an empty table", "7e 01 61", InvalidIndex, ""},
		{"an integer without its end", "ff 80 80", Truncated, ""},
		{"an integer of 29 bits", "ff 80 80 80 80 01", IntegerTooLarge, ""},
		{"an integer with endless zeros", "ff 80 80 80 80 80 80 80 80 00", IntegerTooLarge, ""},
		{"a string longer than the block", "40 05 61", Truncated, ""},
		{"a literal without a value", "40 01 61", Truncated, ""},
		{"a literal without anything", "40", Truncated, ""},
		{"Huffman padding with zeros", "40 81 18 01 61", InvalidHuffman, ""}, // "a" is 00011, then 000
		{"Huffman padding of 8 bits", "40 82 1f ff 01 61", InvalidHuffman, ""},
		{"Huffman with EOS inside", "40 84 ff ff ff ff 01 61", InvalidHuffman, ""},
		{"size update behind a field", "82 20", LateSizeUpdate, ":method: GET"},
		{"size update beyond the setting", "3f e2 1f", LargeSizeUpdate, ""},
		{"two size updates", "20 3f e1 1f 82", OK, ":method: GET"},
		{"three size updates", "20 20 20", ManySizeUpdates, ""},
		{"upper case in a name", "00 01 41 01 61", OK, "A: a (fault 1)"},
		{"a space in a name", "00 02 61 20 01 61", OK, "a : a (fault 2)"},
		{"an empty name", "00 00 01 61", OK, ": a (fault 2)"},
		{"a colon inside a name", "00 03 61 3a 62 01 61", OK, "a:b: a (fault 2)"},
		{"CR in a value", "00 01 61 02 61 0d", OK, "a: a\r (fault 3)"},
		{"NUL in a value", "00 01 61 01 00", OK, "a: \x00 (fault 3)"},
		{"white space before a value", "00 01 61 02 20 61", OK, "a:  a (fault 4)"},
		{"an indexed fault is remembered", "40 01 41 01 61 be", OK, "A: a (fault 1)|A: a (fault 1)"},
		{"a faulty value is no fault of the next value", "40 01 61 01 0a 7e 01 62", OK, "a: \n (fault 3)|a: b"},
		{"an entry larger than the table empties it", "3f 06 40 01 61 01 62 40 01 63 05 31 32 33 34 35 be", InvalidIndex, "a: b|c: 12345"},
		{"an entry named by the one it pushes out", "3f 09 40 04 6e 61 6d 65 01 62 7e 02 63 64 be", OK, "name: b|name: cd|name: cd"},
	} {
		var d Decoder
		d.Init()
		got, r := decodeAll(&d, bin(t, c.block))
		if r != c.want || strings.Join(got, "|") != c.fields {
			t.Errorf("%s: %v %q, want %v %q", c.intention, r, got, c.want, c.fields)
		}
	}
}

func TestTableMustShrinkWhenTold(t *testing.T) {
	var d Decoder
	d.Init()
	d.SetLimit(100)
	if _, r := decodeAll(&d, []byte{0x82}); r != MissingSizeUpdate {
		t.Errorf("a block without a size update: %v", r)
	}
	d.Init()
	d.SetLimit(100)
	if _, r := decodeAll(&d, append(appendInteger(nil, 0x20, 5, 100), 0x82)); r != OK {
		t.Errorf("a block with a size update: %v", r)
	}
}

func TestEveryReasonHasASentence(t *testing.T) {
	for r := range numReasons {
		if r.String() == "" || r != OK && r.Sentence() == "" {
			t.Errorf("reason %d has no name or sentence", r)
		}
	}
}

// The code that follows from the lengths is the code of the RFC as x/net has it.
func TestHuffmanCode(t *testing.T) {
	for c := range 256 {
		for _, s := range []string{string([]byte{byte(c)}), "ab" + string([]byte{byte(c)}) + "cd"} {
			want := xhpack.AppendHuffmanString(nil, s)
			got := appendHuffman(nil, []byte(s))
			if !bytes.Equal(got, want) || huffmanSize([]byte(s)) != len(want) {
				t.Fatalf("%q: %x, want %x", s, got, want)
			}
			dst := make([]byte, maxDecoded(len(got)))
			if n, ok := decodeHuffman(dst, got); !ok || string(dst[:n]) != s {
				t.Fatalf("%q decodes to %q, %v", s, dst[:n], ok)
			}
		}
	}
}

func TestHuffmanLikeXNet(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		s := make([]byte, r.IntN(40))
		for i := range s {
			s[i] = byte(r.IntN(256))
			if r.IntN(4) > 0 {
				s[i] = byte(' ' + r.IntN(95))
			}
		}
		if enc := appendHuffman(nil, s); !bytes.Equal(enc, xhpack.AppendHuffmanString(nil, string(s))) {
			t.Fatalf("%q: %x", s, enc)
		}
		want, err := xhpack.HuffmanDecodeToString(s)
		dst := make([]byte, maxDecoded(len(s)))
		n, ok := decodeHuffman(dst, s)
		if ok != (err == nil) || ok && string(dst[:n]) != want {
			t.Fatalf("%x: %q %v, want %q %v", s, dst[:n], ok, want, err)
		}
	}
}

var typicalRequest = []message.Field{
	{ID: message.UserAgent, Value: []byte("Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0")},
	{ID: message.Accept, Value: []byte("*/*")},
	{ID: message.AcceptEncoding, Value: []byte("gzip, deflate, br")},
	{ID: message.XForwardedProto, Value: []byte("http")},
	{ID: message.XRequestID, Value: []byte("5f9c1d1e-7a64-4c5f-9d6c-0a3f6f1b2c3d")},
	{ID: message.Traceparent, Value: []byte("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")},
	{Name: []byte("x-app-version"), Value: []byte("v42")},
	{ID: message.Cookie, Value: []byte("session=3f6b0c1e5a7d4e1c9b2a")},
}

func withNames(fields []message.Field) []message.Field {
	out := append([]message.Field(nil), fields...)
	for i := range out {
		if out[i].ID != message.OtherHeader {
			out[i].Name = out[i].ID.Bytes()
		}
	}
	return out
}

func encodeRequest(e *Encoder, dst []byte, fields []message.Field) []byte {
	dst = e.Begin(dst)
	dst = e.Pseudo(dst, Method, []byte("GET"))
	dst = e.Pseudo(dst, Scheme, []byte("http"))
	dst = e.Pseudo(dst, Authority, []byte("reviews.default.svc.cluster.local:9080"))
	dst = e.Pseudo(dst, Path, []byte("/reviews/0"))
	for i := range fields {
		dst = e.Field(dst, &fields[i])
	}
	return dst
}

// What repeats becomes one byte; what never repeats pays for its value only; credentials are never indexed.
func TestEncoderIndexes(t *testing.T) {
	var e Encoder
	var d Decoder
	e.Init(DefaultTableSize)
	d.Init()
	fields := append(withNames(typicalRequest),
		message.Field{ID: message.Authorization, Name: message.Authorization.Bytes(), Value: []byte("Bearer abcdefghijklmnopqrstuvwxyz")},
		message.Field{ID: message.Cookie, Name: message.Cookie.Bytes(), Value: []byte("pin=1234")},
		message.Field{Name: []byte("x-secret"), Value: []byte("s"), Never: true})
	var sizes []int
	for range 4 {
		block := encodeRequest(&e, nil, fields)
		sizes = append(sizes, len(block))
		got, r := decodeAll(&d, block)
		if r != OK {
			t.Fatal(r)
		}
		want := []string{":method: GET", ":scheme: http", ":authority: reviews.default.svc.cluster.local:9080", ":path: /reviews/0"}
		for _, f := range fields {
			s := string(f.Name) + ": " + string(f.Value)
			if f.ID == message.Authorization || string(f.Value) == "pin=1234" || f.Never {
				s += " (never)"
			}
			want = append(want, s)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("-want +got\n%s", diff)
		}
	}
	// Once learnt: 10 indexed fields, x-request-id and traceparent, the three secrets.
	if last := sizes[3]; last > 10+(2+27)+(2+42)+(2+26)+(2+8)+(1+7+2) || sizes[3] != sizes[2] {
		t.Errorf("blocks of %d bytes", sizes)
	}
	for i := e.table.first; i != e.table.next; i++ {
		if n := string(e.table.nameOf(e.table.at(i))); n == "authorization" || n == "x-secret" {
			t.Errorf("%s is in the table", n)
		}
	}
}

// The peer's table size is obeyed: the smallest and the last size are announced, and the two tables stay the same.
func TestEncoderObeysTableSize(t *testing.T) {
	var e Encoder
	e.Init(DefaultTableSize)
	x := xhpack.NewDecoder(DefaultTableSize, nil)
	fields := withNames(typicalRequest)
	for i, sizes := range [][]uint32{{}, {0}, {1000}, {10, 4096}, {1 << 20}, {100, 50, 200}, {300}} {
		for _, n := range sizes {
			e.SetLimit(n)
			x.SetAllowedMaxDynamicTableSize(min(n, DefaultTableSize))
		}
		for range 5 {
			block := encodeRequest(&e, nil, fields)
			got, err := x.DecodeFull(block)
			if err != nil || len(got) != len(fields)+4 {
				t.Fatalf("step %d: %v, %d fields of %x", i, err, len(got), block)
			}
			if n := len(sizes); n > 0 && e.table.max != min(sizes[n-1], DefaultTableSize) {
				t.Fatalf("step %d: table of %d", i, e.table.max)
			}
		}
	}
}

func TestNoAllocations(t *testing.T) {
	var e Encoder
	var d Decoder
	var a message.Arena
	var f Field
	e.Init(DefaultTableSize)
	d.Init()
	fields := withNames(typicalRequest)
	block := make([]byte, 0, 4096)
	id := []byte("5f9c1d1e-7a64-4c5f-9d6c-0a3f6f1b2c3d")
	version := []byte("v42")
	fields[4].Value, fields[6].Value = id, version
	turn := func() {
		id[3]++
		version[1]++ // a value that changes now and then enters the table, and pushes others out
		block = encodeRequest(&e, block[:0], fields)
		a.Reset()
		for d.Begin(block); d.Next(&a, &f); {
		}
		if d.Reason() != OK {
			t.Fatal(d.Reason())
		}
	}
	for range 2000 {
		turn()
	}
	if n := testing.AllocsPerRun(1000, turn); n != 0 {
		t.Errorf("%v allocations a block", n)
	}
	if got := cap(d.table.buf); got > 2*DefaultTableSize {
		t.Errorf("the decoder's table has a buffer of %d bytes", got)
	}
}

func BenchmarkEncodeRequest(b *testing.B) {
	var e Encoder
	e.Init(DefaultTableSize)
	fields := withNames(typicalRequest)
	block := make([]byte, 0, 4096)
	for b.Loop() {
		fields[4].Value[3]++
		block = encodeRequest(&e, block[:0], fields)
	}
	b.ReportMetric(float64(len(block)), "bytes")
}

func BenchmarkDecodeRequest(b *testing.B) {
	var e Encoder
	var d Decoder
	var a message.Arena
	var f Field
	e.Init(DefaultTableSize)
	d.Init()
	fields := withNames(typicalRequest)
	var block []byte
	for range 5 {
		block = encodeRequest(&e, block[:0], fields)
		for d.Begin(block); d.Next(&a, &f); {
		}
	}
	for b.Loop() {
		a.Reset()
		for d.Begin(block); d.Next(&a, &f); {
		}
	}
}

func BenchmarkHuffmanDecode(b *testing.B) {
	s := appendHuffman(nil, []byte("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"))
	dst := make([]byte, maxDecoded(len(s)))
	for b.Loop() {
		decodeHuffman(dst, s)
	}
}
