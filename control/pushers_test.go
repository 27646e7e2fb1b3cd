package control

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/config/store"
	"github.com/weirmesh/weir/mesh"
)

const flappingService = "apiVersion: v1\nkind: Service\nmetadata: {name: reviews}\nspec: {selector: {app: reviews}, ports: [{name: http, port: 9080}]}\n"

// flapping is a pod of it that is ready or not.
func flapping(ready bool) config.Unit {
	return file.Parse("pod.yaml", fmt.Appendf(nil, "apiVersion: v1\nkind: Pod\nmetadata: {name: reviews-0, labels: {app: reviews}}\nspec: {containers: [{name: c, image: i}]}\nstatus: {podIP: 10.1.0.2, phase: Running, conditions: [{type: Ready, status: '%v'}]}\n",
		map[bool]string{true: "True", false: "False"}[ready]), "default")
}

func rewritten(i int) config.Unit {
	return file.Parse("vs.yaml", fmt.Appendf(nil, "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: shop}\nspec: {hosts: [shop.example], http: [{timeout: %ds, route: [{destination: {host: reviews}}]}]}\n", 1+i), "default")
}

// S23: what changes all the time is named, with how often and which endpoint; what changes for a while, or rarely, or has ended, is not.
func TestWhoPushesMost(t *testing.T) {
	second := func(n int) func(int) bool { return func(i int) bool { return i%n == 0 } }
	never := func(int) bool { return false }
	for _, c := range []struct {
		intent      string
		flaps, edit func(second int) bool
		seconds     int
		want        string // of the message; "": none
		hint        string
		ref         string
		busiest     string
	}{
		{intent: "nothing changes", flaps: never, edit: never, seconds: 1200},
		{intent: "an endpoint that flaps each second", flaps: second(1), edit: never, seconds: 605, ref: "Service default/reviews",
			want: "it changed 600 times in 10 minutes, at least 6 times in each: it has the control plane push most; what changes are its endpoints, lately 10.1.0.2:9080 (default/reviews-0)", hint: "readiness probe", busiest: "Service/reviews 60"},
		{intent: "a default probe that flips as quickly as it can", flaps: second(20), edit: never, seconds: 1200, busiest: "Service/reviews 3"},
		{intent: "somebody who writes an object each second", flaps: never, edit: second(1), seconds: 605, ref: "VirtualService default/shop",
			want: "it changed 600 times in 10 minutes, at least 6 times in each: it has the control plane push most", hint: "managedFields", busiest: "VirtualService/shop 60"},
		{intent: "both: the one that changes more often is named first", flaps: second(1), edit: second(5), seconds: 605, ref: "Service default/reviews", want: "; so do 1 others: VirtualService default/shop", hint: "probe", busiest: "Service/reviews 60, VirtualService/shop 12"},
		{intent: "a rollout of nine minutes", flaps: func(i int) bool { return i < 540 }, edit: never, seconds: 1200},
		{intent: "it has not lasted for long", flaps: second(1), edit: never, seconds: 599, busiest: "Service/reviews 60"},
		{intent: "it has ended", flaps: func(i int) bool { return i < 900 }, edit: never, seconds: 965},
		{intent: "a pause", flaps: func(i int) bool { return i < 540 || i >= 660 }, edit: never, seconds: 1200, busiest: "Service/reviews 60"},
	} {
		t.Run(c.intent, func(t *testing.T) {
			s, err := store.New(store.Options{Settings: mesh.Settings{TrustDomain: "cluster.local", DomainSuffix: "cluster.local", RootNamespace: "istio-system"}, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				t.Fatal(err)
			}
			var p pushers
			r := newReceipts()
			start := time.Unix(60_000_000, 0) // the beginning of a minute
			var last *store.Update
			step := func(now time.Time, units ...config.Unit) {
				u := s.Step(units...)
				fresh, removed := r.note(last, u, now)
				p.note(last, u, fresh, removed, now)
				last = u
			}
			step(start, file.Parse("service.yaml", []byte(flappingService), "default"), flapping(false), rewritten(-1))
			ready := false
			for i := range c.seconds {
				now := start.Add(time.Duration(i) * time.Second)
				if c.flaps(i) {
					ready = !ready
					step(now, flapping(ready))
				}
				if c.edit(i) {
					step(now, rewritten(i%50))
				}
			}
			now := start.Add(time.Duration(c.seconds) * time.Second)
			got := p.findings(now)
			if c.want == "" && len(got) > 0 || c.want != "" && (len(got) != 1 || !strings.Contains(got[0].Message, c.want) || !strings.Contains(got[0].Hint, c.hint) || named(got[0].Object) != c.ref || got[0].Code != config.AlwaysChanging) {
				t.Errorf("%+v", got)
			}
			var busiest []string
			for _, b := range p.busiest(now) {
				busiest = append(busiest, fmt.Sprintf("%s/%s %d", b.Kind, b.Name, b.Changes))
			}
			if text := strings.Join(busiest, ", "); text != c.busiest {
				t.Errorf("busiest are %s, want %s", text, c.busiest)
			}
		})
	}
}

// However much changes at once, no more is remembered than there is room for, and what has changed all the time keeps its place.
func TestPushersAreBounded(t *testing.T) {
	var p pushers
	start := time.Unix(60_000_000, 0)
	own := pusher{"Service", "default", "reviews"}
	for minute := range 2 {
		p.turn(start.Add(time.Duration(minute) * time.Minute))
		for i := range 2 * maxPushers * minute {
			p.count(pusher{"Service", "default", fmt.Sprint("s-", i)})
		}
		for range often {
			p.count(own)
		}
	}
	if len(p.now) != maxPushers+1 || p.now[own].n != often {
		t.Errorf("%d are remembered, and of what changed before %+v", len(p.now), p.now[own])
	}
}

// What a change costs that comes to the control plane's notice, and what of it is counting who changes: an endpoint that flaps, and an
// object that is written, in a mesh of a thousand services.
func BenchmarkNote(b *testing.B) {
	s, err := store.New(store.Options{Settings: mesh.Settings{TrustDomain: "cluster.local", DomainSuffix: "cluster.local", RootNamespace: "istio-system"}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	units := []config.Unit{file.Parse("service.yaml", []byte(flappingService), "default")}
	for i := range 1000 {
		units = append(units, file.Parse(fmt.Sprintf("s-%d.yaml", i), fmt.Appendf(nil, "apiVersion: v1\nkind: Service\nmetadata: {name: s-%d}\nspec: {ports: [{name: http, port: 9080}]}\n", i), "default"))
	}
	s.Step(units...)
	for name, pair := range map[string][2]*store.Update{
		"endpoint": {s.Step(flapping(false)), s.Step(flapping(true))},
		"object":   {s.Step(rewritten(1)), s.Step(rewritten(2))},
	} {
		b.Run(name, func(b *testing.B) {
			p := &Plane{receipts: newReceipts(), events: newEvents(), watch: newWatch()}
			p.note(nil, pair[0])
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				p.note(pair[i%2], pair[1-i%2])
				p.watch.pending = nil
			}
		})
	}
}
