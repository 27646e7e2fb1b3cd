package tls

import (
	"bytes"
	"crypto/rand"
	stdtls "crypto/tls"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/proxy/tls/tlstest"
)

// layers are the ways records can be kept on the two sides of a connection.
var layers = []struct {
	name        string
	server, cli bool // StdRecords
}{
	{"own with own", false, false},
	{"own server with crypto/tls", false, true},
	{"crypto/tls with own client", true, false},
	{"crypto/tls with crypto/tls", true, true},
}

func layered(t testing.TB, stdServer, stdClient bool, version uint16) *pair {
	ca := tlstest.New(t)
	w := ca.Workload("default", "ratings")
	p := mustJoin(t,
		server(t, ServerOptions{Identity: w, Clients: RequireClientCert, Trust: Trust{Mesh: w}, StdRecords: stdServer, MinVersion: version, MaxVersion: version}),
		client(t, ClientOptions{Identity: w, Trust: Trust{Mesh: w}, StdRecords: stdClient, MinVersion: version, MaxVersion: version}))
	if _, own := p.server.records.(*own); own != (!stdServer && version == TLS13) {
		t.Fatalf("server keeps records by %T", p.server.records)
	}
	if _, own := p.client.records.(*own); own != (!stdClient && version == TLS13) {
		t.Fatalf("client keeps records by %T", p.client.records)
	}
	return p
}

// Whatever seals and whatever opens, bytes of all sizes arrive whole in both
// directions, into buffers of all sizes, and the end is the end.
func TestRecords(t *testing.T) {
	for _, version := range []uint16{TLS12, TLS13} {
		for _, l := range layers {
			t.Run(fmt.Sprintf("%s, %s", l.name, stdtls.VersionName(version)), func(t *testing.T) {
				p := layered(t, l.server, l.cli, version)
				rng := mathrand.New(mathrand.NewPCG(1, uint64(version)))
				data := make([]byte, 100_000)
				rand.Read(data)
				for i := range 200 {
					from, to := p.server, p.client
					if i%2 == 1 {
						from, to = to, from
					}
					size, room := rng.IntN(len(data)), 64<<10
					if i%3 == 0 {
						size = rng.IntN(40)
					}
					if i%5 == 0 {
						room = 1 + rng.IntN(20_000)
					}
					raw, err := from.Seal([]byte("in front"), data[:size])
					if err != nil {
						t.Fatal(err)
					}
					raw, ok := bytes.CutPrefix(raw, []byte("in front"))
					got, rest, err := read(to, raw, room)
					if !ok || err != nil || len(rest) > 0 || !bytes.Equal(got, data[:size]) {
						t.Fatalf("%d bytes: %d arrived, %d left, %v", size, len(got), len(rest), err)
					}
					if records := (size + MaxPlaintext - 1) / MaxPlaintext; len(raw) > size+records*(RecordOverhead+9) {
						t.Errorf("%d bytes became %d", size, len(raw))
					}
				}
				_, _, err := read(p.client, p.server.SealEnd(nil), 100)
				if err != io.EOF {
					t.Errorf("the end was taken for %v", err)
				}
				if got := send(t, p.client, p.server, []byte("still open")); string(got) != "still open" {
					t.Errorf("after one half was closed: %q", got)
				}
				if again := p.server.SealEnd(nil); l.server == false && version == TLS13 && len(again) > 0 {
					t.Error("the end was announced twice")
				}
				p.server.Forget()
				p.client.Forget()
			})
		}
	}
}

// sealedBy makes the two ends of one suite, without a handshake.
func sealedBy(t testing.TB, id uint16) (server, client *own) {
	t.Helper()
	k := &secrets{clientLen: suites[id].hash.Size(), serverLen: suites[id].hash.Size()}
	rand.Read(k.client[:])
	rand.Read(k.server[:])
	server, client = newOwn(k, id, false), newOwn(k, id, true)
	if server == nil || client == nil {
		t.Fatal("no records")
	}
	return server, client
}

// Both sides change their keys again and again, by themselves at the limit of records and
// when asked to, and nothing is lost.
func TestKeyUpdates(t *testing.T) {
	for id := range suites {
		t.Run(stdtls.CipherSuiteName(id), func(t *testing.T) {
			so, co := sealedBy(t, id)
			so.limit, co.limit = 7, 5
			so.updates, co.updates = 1<<30, 1<<30
			so.updated, co.updated = time.Now().Add(time.Hour), time.Now().Add(time.Hour)
			s, c := &Session{records: so}, &Session{records: co}
			first := so.out.secret
			var want, got bytes.Buffer
			for i := range 500 {
				from, to := s, c
				if i%2 == 1 {
					from, to = to, from
				}
				b := bytes.Repeat([]byte{byte(i)}, i)
				if i%50 == 0 {
					o := from.records.(*own)
					o.sealed = o.renew(o.sealed, true)
				}
				want.Write(b)
				got.Write(send(t, from, to, b))
				if i%50 == 0 && !to.HasSealed() {
					t.Error("a KeyUpdate that asked for one was not answered")
				}
			}
			if !bytes.Equal(want.Bytes(), got.Bytes()) {
				t.Error("bytes were lost")
			}
			send(t, s, c, nil) // what it still owes
			if so.out.secret == first || so.out.seq > 7 || co.in.secret != so.out.secret {
				t.Error("keys did not change")
			}
		})
	}
}

// A peer that never changes its keys is asked to, once for every so many records.
func TestKeyUpdateIsAskedFor(t *testing.T) {
	p := layered(t, false, true, TLS13) // crypto/tls never changes keys by itself
	o := p.server.records.(*own)
	o.limit = 10
	for range 10 {
		send(t, p.client, p.server, []byte("x"))
	}
	if !p.server.HasSealed() {
		t.Fatal("was not asked")
	}
	got, _, err := read(p.client, p.server.TakeSealed(nil), 100)
	if err != nil || len(got) > 0 || !p.client.HasSealed() {
		t.Fatalf("%q, %v, answered %v", got, err, p.client.HasSealed())
	}
	before := o.in.secret
	if got := send(t, p.client, p.server, []byte("with new keys")); string(got) != "with new keys" {
		t.Errorf("got %q", got)
	}
	if o.in.secret == before || p.server.HasSealed() {
		t.Error("keys did not change, or the answer was answered")
	}
	send(t, p.server, p.client, []byte("and back"))
}

// What a peer may not do after the handshake, and the alert it gets for it.
func TestViolations(t *testing.T) {
	type record struct {
		typ  byte
		body string
	}
	update, asking := record{22, "\x18\x00\x00\x01\x00"}, record{22, "\x18\x00\x00\x01\x01"}
	ticket := record{22, "\x04\x00\x00\x10" + strings.Repeat("t", 16)}
	repeat := func(r record, n int) (all []record) {
		for range n {
			all = append(all, r)
		}
		return all
	}
	for _, tc := range []struct {
		name     string
		toClient bool
		records  []record
		raw      string // instead
		alert    byte   // 0: none, all is well
		text     string
	}{
		{name: "a KeyUpdate", records: []record{update}},
		{name: "a KeyUpdate in two records", records: []record{{22, "\x18\x00\x00"}, {22, "\x01\x00"}}},
		{name: "KeyUpdates that ask, answered once", records: []record{asking, asking, asking}},
		{name: "KeyUpdate with another value", records: []record{{22, "\x18\x00\x00\x01\x02"}}, alert: 47, text: "damaged KeyUpdate"},
		{name: "KeyUpdate that is longer", records: []record{{22, "\x18\x00\x00\x02\x00\x00"}}, alert: 50, text: "damaged KeyUpdate"},
		{name: "a message behind a KeyUpdate", records: []record{{22, update.body + update.body}}, alert: 10, text: "under its old keys"},
		{name: "payload within a message", records: []record{{22, "\x18\x00"}, {23, "x"}}, alert: 10, text: "within a handshake message"},
		{name: "too many KeyUpdates", records: repeat(update, updateBurst+1), alert: 10, text: "too"},
		{name: "too many KeyUpdates with payload between", records: func() (all []record) {
			for range updateBurst + 1 {
				all = append(all, update, record{23, "x"})
			}
			return all
		}(), alert: 10, text: "changed its keys too often"},
		{name: "empty records", records: repeat(record{23, ""}, maxUseless)},
		{name: "too many empty records", records: repeat(record{23, ""}, maxUseless+1), alert: 10, text: "carry nothing"},
		{name: "padding only", records: []record{{0, "\x00\x00"}}, alert: 10, text: "without a type"},
		{name: "an empty handshake record", records: []record{{22, ""}}, alert: 10, text: "empty handshake record"},
		{name: "a ticket from a client", records: []record{ticket}, alert: 10, text: "of type 4"},
		{name: "tickets from a server", toClient: true, records: []record{ticket, ticket, {23, "x"}, ticket}},
		{name: "a ticket in pieces", toClient: true, records: []record{{22, ticket.body[:3]}, {22, ticket.body[3:9]}, {22, ticket.body[9:]}, {23, "x"}}},
		{name: "too many tickets", toClient: true, records: repeat(ticket, maxUseless+1), alert: 10, text: "carry nothing"},
		{name: "a ticket without end", toClient: true, records: []record{{22, "\x04\xff\xff\xff"}}, alert: 50, text: "too long"},
		{name: "a second ClientHello (renegotiation)", records: []record{{22, "\x01\x00\x00\x01\x00"}}, alert: 10, text: "of type 1"},
		{name: "a request for a certificate", toClient: true, records: []record{{22, "\x0d\x00\x00\x00"}}, alert: 10, text: "of type 13"},
		{name: "change_cipher_spec", raw: "\x14\x03\x03\x00\x01\x01", alert: 10, text: "without protection"},
		{name: "an alert in the clear", raw: "\x15\x03\x03\x00\x02\x02\x28", alert: 10, text: "without protection"},
		{name: "protected change_cipher_spec", records: []record{{20, "\x01"}}, alert: 10, text: "unknown type 20"},
		{name: "an unknown type", records: []record{{99, "x"}}, alert: 10, text: "unknown type 99"},
		{name: "a record that is too long", raw: "\x17\x03\x03\x41\x01" + strings.Repeat("x", MaxPlaintext+257), alert: 22, text: "too long"},
		{name: "too much in a record", records: []record{{23, strings.Repeat("x", MaxPlaintext+1)}}, alert: 22, text: "too long"},
		{name: "a record that is too short", raw: "\x17\x03\x03\x00\x10" + strings.Repeat("x", 16), alert: 20, text: "too short"},
		{name: "a damaged record", raw: "\x17\x03\x03\x00\x20" + strings.Repeat("x", 32), alert: 20, text: "damaged"},
		{name: "no record", raw: "GET / HTTP/1.1\r\n\r\n", alert: 50, text: "no record"},
		{name: "a longer alert", records: []record{{21, "\x02\x28\x00"}}, alert: 50, text: "damaged alert"},
		{name: "user_canceled", records: []record{{21, "\x01\x5a"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			victim, peer := sealedBy(t, stdtls.TLS_AES_128_GCM_SHA256)
			if tc.toClient {
				victim, peer = peer, victim
			}
			var err error
			buf := make([]byte, 2*MaxPlaintext)
			for _, r := range tc.records {
				if err != nil {
					break
				}
				raw := peer.out.seal(nil, r.typ, []byte(r.body))
				_, _, err = victim.open(buf, raw)
				if r.typ == 22 && strings.HasSuffix(r.body, "\x01\x00") || r == asking {
					if e := peer.out.next(peer.suite); e != nil {
						t.Fatal(e)
					}
				}
			}
			if tc.raw != "" {
				_, _, err = victim.open(buf, []byte(tc.raw))
			}
			if tc.alert == 0 {
				if err != nil {
					t.Fatal(err)
				}
				if _, _, err := victim.open(buf, peer.out.seal(nil, 23, []byte("on"))); err != nil {
					t.Errorf("afterwards: %v", err)
				}
				sealed, _ := victim.seal(nil, []byte("answer"))
				if got, _, err := read(&Session{records: peer}, sealed, 100); err != nil || string(got) != "answer" {
					t.Errorf("its answer: %q, %v", got, err)
				}
				if tc.records[0] == asking && len(sealed) != 5+5+17+5+6+17 {
					t.Errorf("answered in %d bytes, want one KeyUpdate", len(sealed))
				}
				return
			}
			e, ok := errors.AsType[*Error](err)
			if !ok || e.Reason != Violation || !strings.Contains(e.Error(), tc.text) {
				t.Fatalf("%v, want a violation with %q", err, tc.text)
			}
			raw := victim.take(nil)
			if _, _, err := peer.open(buf, raw); err == nil || !strings.Contains(err.Error(), stdtls.AlertError(tc.alert).Error()[len("tls: "):]) {
				t.Errorf("the peer heard %v, want alert %d", err, tc.alert)
			}
			if _, _, again := victim.open(buf, peer.out.seal(nil, 23, []byte("more"))); again != err {
				t.Errorf("after its end: %v", again)
			}
			if victim.sealEnd(nil) != nil {
				t.Error("something was sealed after the alert")
			}
		})
	}
}

// Alerts of the peer are told by their names.
func TestAlerts(t *testing.T) {
	s, c := sealedBy(t, stdtls.TLS_AES_256_GCM_SHA384)
	_, _, err := s.open(make([]byte, 100), c.out.seal(nil, 21, []byte{2, 42}))
	if e, ok := errors.AsType[*Error](err); !ok || e.Reason != RefusedByPeer || e.Alert != "bad certificate" || s.owes() {
		t.Errorf("%v; answered %v", err, s.owes())
	}
}

// Nothing is allocated for a record, sealed or opened, in any suite.
func TestRecordAllocations(t *testing.T) {
	for id := range suites {
		so, co := sealedBy(t, id)
		s, c := &Session{records: so}, &Session{records: co}
		out, in := make([]byte, 0, 64<<10), make([]byte, 64<<10)
		for _, size := range []int{1, 1000, MaxPlaintext, 3 * MaxPlaintext} {
			msg := make([]byte, size)
			if n := testing.AllocsPerRun(100, func() {
				raw, err := s.Seal(out, msg)
				if err != nil {
					t.Fatal(err)
				}
				for len(raw) > 0 {
					n := RecordLength(raw)
					if _, _, err := c.Open(in, raw[:n]); err != nil {
						t.Fatal(err)
					}
					raw = raw[n:]
				}
			}); n > 0 {
				t.Errorf("%s: %v allocations for %d bytes", stdtls.CipherSuiteName(id), n, size)
			}
		}
	}
}

// Secrets do not outlive the connection, and what follows fails closed.
func TestForget(t *testing.T) {
	s, c := sealedBy(t, stdtls.TLS_CHACHA20_POLY1305_SHA256)
	s.forget()
	if s.in.secret != (secret{}) || s.out.secret != (secret{}) || s.in.iv != [12]byte{} {
		t.Error("secrets are still there")
	}
	if _, err := s.seal(nil, []byte("x")); err == nil {
		t.Error("sealed without keys")
	}
	if _, _, err := s.open(make([]byte, 100), c.out.seal(nil, 23, []byte("x"))); err == nil {
		t.Error("opened without keys")
	}
	if end := s.sealEnd(nil); len(end) > 0 {
		t.Error("sealed an end without keys")
	}
}

// The key log is crypto/tls's own form: what does not fit it ends the handshake.
func TestKeyLog(t *testing.T) {
	for line, ok := range map[string]bool{
		"CLIENT_TRAFFIC_SECRET_0 00ff 0102\n":                             true,
		"CLIENT_HANDSHAKE_TRAFFIC_SECRET 00ff 0102\n":                     true,
		"CLIENT_TRAFFIC_SECRET_0 00ff\n":                                  false,
		"CLIENT_TRAFFIC_SECRET_0 00ff 01x2\n":                             false,
		"SERVER_TRAFFIC_SECRET_0 00ff " + strings.Repeat("00", 49) + "\n": false,
	} {
		k := &secrets{}
		if _, err := k.Write([]byte(line)); (err == nil) != ok {
			t.Errorf("%q: %v", line, err)
		}
	}
}

// FuzzOpen lets a peer that knows the keys send anything: records of any type and content, in
// any order, and raw bytes. What is payload arrives unchanged, everything else is
// harmless or an *Error.
func FuzzOpen(f *testing.F) {
	f.Add([]byte{23, 1, 'x', 22, 5, 24, 0, 0, 1, 1, 23, 2, 'o', 'k'})
	f.Add([]byte{22, 3, 24, 0, 0, 22, 2, 1, 0, 23, 0, 21, 2, 1, 0})
	f.Add([]byte{22, 8, 4, 0, 0, 4, 1, 2, 3, 4, 0, 3, 0, 0, 0, 255, 6, 20, 3, 3, 0, 1, 1})
	f.Add([]byte{21, 2, 2, 40})
	f.Fuzz(func(t *testing.T, script []byte) {
		victim, peer := sealedBy(t, stdtls.TLS_AES_128_GCM_SHA256)
		if len(script)%2 == 1 {
			victim, peer = peer, victim
		}
		buf := make([]byte, 64)
		for len(script) >= 2 {
			typ, n := script[0], min(int(script[1]), len(script)-2)
			body := script[2 : 2+n]
			script = script[2+n:]
			raw := body
			if typ != 255 {
				raw = peer.out.seal(nil, typ, body)
			}
			got, _, err := read(&Session{records: victim}, raw, len(buf))
			if err != nil {
				if _, ok := errors.AsType[*Error](err); !ok && err != io.EOF {
					t.Fatalf("%T: %v", err, err)
				}
				return
			}
			inner := bytes.TrimRight(append(bytes.Clone(body), typ), "\x00") // zeros are padding
			want, payload := bytes.CutSuffix(inner, []byte{23})
			if payload && !bytes.Equal(got, want) || !payload && len(got) > 0 {
				t.Fatalf("record %q gave %q", inner, got)
			}
			if victim.in.seq == 0 { // the script changed the keys
				if err := peer.out.next(peer.suite); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// What a record costs, sealed and opened, by Weir and by crypto/tls.
func BenchmarkRecords(b *testing.B) {
	for _, size := range []int{100, 1 << 10, MaxPlaintext} {
		for _, l := range []struct {
			name string
			std  bool
		}{{"own", false}, {"crypto-tls", true}} {
			b.Run(fmt.Sprintf("%d/%s", size, l.name), func(b *testing.B) {
				p := layered(b, l.std, l.std, TLS13)
				msg, out, in := make([]byte, size), make([]byte, 0, 64<<10), make([]byte, 64<<10)
				b.SetBytes(int64(size))
				b.ReportAllocs()
				for b.Loop() {
					raw, err := p.server.Seal(out, msg)
					if err != nil {
						b.Fatal(err)
					}
					if n, _, err := p.client.Open(in, raw); n != size || err != nil {
						b.Fatal(n, err)
					}
				}
			})
		}
	}
}
