package server

import (
	"fmt"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/weirmesh/weir/xds/resource"
)

// Whatever a peer sends, the machine keeps its invariants and its limits, and once the
// peer answers what it is sent, it comes to rest with everything sent.
func FuzzRequests(f *testing.F) {
	f.Add(false, []byte("\x00\xff\x03\x00\x00\x00\x00\x03\x02\x00\x00\x00\x01\x00\x03\x01\xff\x00\x00\x01\x01\x01\x02"))
	f.Add(false, []byte("\x00\x0f\x03\x00\x00\x00\xff\x02\x00\x00\xf0\x01\x00\x01\x00\x03\x01\x0f\x00\x0f\x03\x01\x00\xff\x00"))
	f.Add(true, []byte("\x00\xff\x03\x00\x0f\x00\x00\x03\x01\x03\x00\x00\x01\x00\x03\x01\x00\x00\x00\x02\x01\x00\x0f\x01\x00"))
	raw, err := proto.Marshal(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl: resource.ClusterType, ResourceNamesSubscribe: []string{"*", "a", "a"}, ResourceNamesUnsubscribe: []string{"a", "*", "b"},
		InitialResourceVersions: map[string]string{"a": "1", "": "", "*": "*"}, ResponseNonce: "1",
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(false, append([]byte{0, 1, 4, byte(len(raw))}, raw...))
	f.Fuzz(func(t *testing.T, sotw bool, program []byte) {
		p := fuzzPeer{t: t, m: newMachine(sotw, "", limits{types: 8, names: 10}, nil), last: map[string]*response{}}
		next := func() byte {
			if len(program) == 0 {
				return 0
			}
			b := program[0]
			program = program[1:]
			return b
		}
		for len(program) > 0 && !p.ended {
			switch next() % 5 {
			case 0:
				p.publish(next())
			case 1:
				p.answer(fuzzType(next()), nil)
			case 2:
				p.answer(fuzzType(next()), &rpcstatus.Status{Message: string(rune('a' + next()%8))})
			case 3:
				p.request(fuzzType(next()), fuzzNames(next()), fuzzNames(next()), fuzzNames(next()))
			case 4:
				n := min(int(next()), len(program))
				p.raw(program[:n])
				program = program[n:]
			}
		}
		if !p.ended {
			p.rest()
		}
	})
}

type fuzzPeer struct {
	t       *testing.T
	m       *machine
	version uint64
	last    map[string]*response
	ended   bool
}

func fuzzType(b byte) string {
	types := []string{resource.ClusterType, resource.EndpointType, resource.ListenerType, resource.RouteType, resource.SecretType, "own", ""}
	return types[int(b)%len(types)]
}

// fuzzNames are those of eight names whose bits are set, and "*" for all of them.
func fuzzNames(b byte) []string {
	var out []string
	for i := range 8 {
		if b&(1<<i) != 0 {
			out = append(out, string(rune('a'+i)))
		}
	}
	if b == 0xff {
		out = append(out, "*")
	}
	return out
}

func (p *fuzzPeer) publish(b byte) {
	p.version++
	var all []*resource.Resource
	for i, n := range fuzzNames(b) {
		for t := range byte(6) {
			if (int(t)+i+int(b))%3 != 0 {
				all = append(all, resource.FromBytes(fuzzType(t), n, fmt.Appendf(nil, "%d", int(b)%(i+2))))
			}
		}
	}
	p.sent(p.m.publish(resource.NewView(p.version, all...)), nil)
}

func (p *fuzzPeer) request(typeURL string, sub, unsub, known []string) {
	if p.m.sotw {
		p.sent(p.m.sotwRequest(&discoveryv3.DiscoveryRequest{TypeUrl: typeURL, ResourceNames: sub}, time.Time{}))
		return
	}
	versions := map[string]string{}
	for _, n := range known {
		versions[n] = resource.Version([]byte("1"))
	}
	p.sent(p.m.deltaRequest(&discoveryv3.DeltaDiscoveryRequest{
		TypeUrl: typeURL, ResourceNamesSubscribe: sub, ResourceNamesUnsubscribe: unsub, InitialResourceVersions: versions,
	}, time.Time{}))
}

func (p *fuzzPeer) raw(b []byte) {
	if p.m.sotw {
		r := &discoveryv3.DiscoveryRequest{}
		if proto.Unmarshal(b, r) == nil {
			p.sent(p.m.sotwRequest(r, time.Time{}))
		}
		return
	}
	r := &discoveryv3.DeltaDiscoveryRequest{}
	if proto.Unmarshal(b, r) == nil {
		p.sent(p.m.deltaRequest(r, time.Time{}))
	}
}

func (p *fuzzPeer) answer(typeURL string, detail *rpcstatus.Status) {
	last := p.last[typeURL]
	if last == nil {
		return
	}
	if p.m.sotw {
		s := p.m.find(typeURL)
		r := &discoveryv3.DiscoveryRequest{TypeUrl: typeURL, ResponseNonce: last.nonce, ErrorDetail: detail}
		for n := range s.names.all() {
			r.ResourceNames = append(r.ResourceNames, n)
		}
		if s.wildcard && s.named {
			r.ResourceNames = append(r.ResourceNames, "*")
		}
		p.sent(p.m.sotwRequest(r, time.Time{}))
		return
	}
	p.sent(p.m.deltaRequest(&discoveryv3.DeltaDiscoveryRequest{TypeUrl: typeURL, ResponseNonce: last.nonce, ErrorDetail: detail}, time.Time{}))
}

func (p *fuzzPeer) sent(out []*response, err error) {
	if err != nil {
		p.ended = true
		return
	}
	for _, r := range out {
		if s := p.m.find(r.typeURL); s == nil || s.flight == nil {
			p.t.Fatalf("%v was sent, but is not in flight", r)
		}
		p.last[r.typeURL] = r
		for i, res := range r.resources {
			if i > 0 && r.resources[i-1].Name() >= res.Name() {
				p.t.Fatalf("%v has a name twice, or not in order", r)
			}
		}
	}
	checkInvariants(p.t, p.m)
	if p.m.names > p.m.limits.names || len(p.m.subs) > p.m.limits.types {
		p.t.Fatalf("%d names, %d types", p.m.names, len(p.m.subs))
	}
}

// rest ACKs until nothing is in flight.
func (p *fuzzPeer) rest() {
	p.publish(0x0f)
	for range 200 {
		inFlight := false
		for _, s := range p.m.subs {
			if s.flight != nil {
				inFlight = true
				p.answer(s.typeURL, nil)
				break
			}
		}
		if !inFlight {
			if len(p.m.subs) > 0 && (p.m.phase != phaseDone || p.m.target != p.m.latest || p.m.active != p.version && !p.m.rejects()) {
				p.t.Fatalf("at rest in phase %v, version %d of %d active", p.m.phase, p.m.active, p.version)
			}
			return
		}
	}
	p.t.Fatal("no rest")
}
