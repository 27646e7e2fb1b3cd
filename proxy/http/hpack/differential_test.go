package hpack

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	xhpack "golang.org/x/net/http2/hpack"

	"github.com/weirmesh/weir/proxy/http/message"
)

// explained are all the ways in which we and x/net may disagree about a block.
var explained = map[string]string{
	"hpack_integer_too_large, ok":      "x/net takes integers of 63 bits, and any number of zero bytes behind; nothing we allow needs more than 28 bits",
	"hpack_many_size_updates, ok":      "x/net takes any number of size updates while the table is empty; RFC 7541 section 4.2 knows no use for more than two",
	"hpack_late_size_update, ok":       "x/net takes a size update behind a field while the table is empty; RFC 7541 section 4.2 wants it at the beginning",
	"ok, size update not at beginning": "x/net refuses the second of two size updates unless the table is empty; RFC 7541 section 4.2 allows it",
}

// disagreement names how the two differ, empty when they do not.
func disagreement(r Reason, err error) string {
	switch {
	case (r == OK) == (err == nil):
		return ""
	case err == nil:
		return r.String() + ", ok"
	case strings.Contains(err.Error(), "MUST occur at the beginning"):
		return r.String() + ", size update not at beginning"
	}
	return r.String() + ", " + err.Error()
}

// words make fields that repeat in part, as real ones do.
var words = []string{":method", ":path", "/", "GET", "content-type", "application/grpc", "x-a", "x-b", "", "a", "cookie", "id=1", "date",
	"Mon, 21 Oct 2013 20:13:21 GMT", "\x00\xff\x80", "UPPER", "te", "trailers", strings.Repeat("long ", 30), strings.Repeat("z", 2000)}

// Blocks made by x/net's encoder, half of them with bytes changed, mean the same to both decoders, block after block until one of
// them gives up; what our encoder makes of the fields is read by x/net as it was meant.
//
// WEIR_DIFFERENTIAL is the number of sequences of blocks (make differential: 1,000,000), WEIR_SEED chooses others.
func TestDifferential(t *testing.T) {
	n, seeds := number(t, "WEIR_DIFFERENTIAL", 5000), number(t, "WEIR_SEED", 1)
	seen := map[string]int{}
	for seed := range n {
		r := rand.New(rand.NewPCG(uint64(seed), uint64(seeds)))
		var buf bytes.Buffer
		enc := xhpack.NewEncoder(&buf)
		ref := xhpack.NewDecoder(DefaultTableSize, nil)
		var ours Decoder
		ours.Init()
		var e Encoder
		e.Init(DefaultTableSize)
		back := xhpack.NewDecoder(DefaultTableSize, nil)
		for range 1 + r.IntN(4) {
			buf.Reset()
			if r.IntN(5) == 0 {
				enc.SetMaxDynamicTableSize(uint32(r.IntN(5000)))
			}
			for range r.IntN(12) {
				enc.WriteField(xhpack.HeaderField{Name: words[r.IntN(len(words))], Value: words[r.IntN(len(words))], Sensitive: r.IntN(10) == 0})
			}
			block := bytes.Clone(buf.Bytes())
			if r.IntN(2) == 0 {
				mutate(r, &block)
			}
			want, err := ref.DecodeFull(block)
			got, reason := decodeFields(&ours, block)
			if d := disagreement(reason, err); d != "" {
				if explained[d] == "" {
					t.Fatalf("seed %d, %x: we say %v, x/net %v", seed, block, reason, err)
				}
				seen[d]++
				break
			}
			if err != nil {
				break
			}
			if len(got) != len(want) {
				t.Fatalf("seed %d, %x: %d fields and %d", seed, block, len(got), len(want))
			}
			b := e.Begin(nil)
			for i, w := range want {
				g := got[i]
				if string(g.Name) != w.Name || string(g.Value) != w.Value || g.Never != w.Sensitive || g.Size != w.Size() {
					t.Fatalf("seed %d, %x, field %d: %+v and %v", seed, block, i, g, w)
				}
				if g.Kind.Pseudo() && g.Kind != UnknownPseudo {
					b = e.Pseudo(b, g.Kind, g.Value)
				} else {
					b = e.Field(b, &message.Field{Name: g.Name, Value: g.Value, ID: g.Kind.ID(), Never: g.Never})
				}
			}
			again, err := back.DecodeFull(b)
			if err != nil || len(again) != len(want) {
				t.Fatalf("seed %d: x/net does not read %x: %v", seed, b, err)
			}
			for i := range want {
				if again[i].Name != want[i].Name || again[i].Value != want[i].Value {
					t.Fatalf("seed %d: %v became %v", seed, want[i], again[i])
				}
			}
		}
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

func mutate(r *rand.Rand, b *[]byte) {
	for range 1 + r.IntN(3) {
		p := *b
		if len(p) == 0 {
			*b = append(p, byte(r.Uint32()))
			continue
		}
		i := r.IntN(len(p))
		switch r.IntN(21) / 5 {
		case 0:
			p[i] = byte(r.Uint32())
		case 1:
			p[i] ^= 1 << r.IntN(8)
		case 2:
			*b = p[:i]
		case 3:
			*b = append(p[:i:i], append([]byte{byte(r.Uint32())}, p[i:]...)...)
		case 4: // a size update to 31, written longer than need be
			*b = append([]byte{0x3f, 0x80, 0x80, 0x80, 0x80, 0}, p...)
		}
	}
}

func decodeFields(d *Decoder, block []byte) (out []Field, r Reason) {
	var a message.Arena
	for d.Begin(block); ; {
		var f Field
		if !d.Next(&a, &f) {
			return out, d.Reason()
		}
		out = append(out, f)
	}
}

// FuzzDecode: a block means the same to us and to x/net, a skipped block leaves the same table as a read one, and nothing a block says
// makes the table larger than it may be.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{"8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
		"3f09 4004 6e61 6d65 0162 7e02 6364 be", "20 3fe11f 82", "ff8080808001", "1008 7061 7373 776f 7264 0673 6563 7265 74"} {
		f.Add(bin(f, s), bin(f, "be"))
	}
	f.Fuzz(func(t *testing.T, one, two []byte) {
		var d, skip Decoder
		d.Init()
		skip.Init()
		ref := xhpack.NewDecoder(DefaultTableSize, nil)
		for i, block := range [][]byte{one, two, one} {
			got, r := decodeFields(&d, block)
			want, err := ref.DecodeFull(block)
			if diff := disagreement(r, err); diff != "" {
				if explained[diff] == "" {
					t.Fatalf("block %d: we say %v, x/net %v", i, r, err)
				}
				return
			}
			for skip.Begin(block); skip.Next(nil, nil); {
			}
			if r != OK {
				return // a skipped block is not looked at as closely: the connection ends or lives on by what is read
			}
			for k := range want {
				if string(got[k].Name) != want[k].Name || string(got[k].Value) != want[k].Value {
					t.Fatalf("block %d: %v and %v", i, got, want)
				}
			}
			if skip.Reason() != OK || tableOf(&skip.table) != tableOf(&d.table) {
				t.Fatalf("block %d: skipped (%v), the table is %s, read it is %s", i, skip.Reason(), tableOf(&skip.table), tableOf(&d.table))
			}
			if d.table.size > d.table.max || cap(d.table.buf) > 4*DefaultTableSize {
				t.Fatalf("a table of %d in %d bytes", d.table.size, cap(d.table.buf))
			}
		}
	})
}

func tableOf(t *table) string {
	var b strings.Builder
	for i := t.first; i != t.next; i++ {
		e := t.at(i)
		fmt.Fprintf(&b, "%q=%q %d,", t.nameOf(e), t.valueOf(e), e.kind)
	}
	return b.String()
}
