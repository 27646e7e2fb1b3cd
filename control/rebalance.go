package control

import (
	"context"
	"sync"
	"time"

	replicasv1 "github.com/weirmesh/weir/api/replicas/v1"
	"github.com/weirmesh/weir/internal/memory"
)

const (
	// balanceEvery is how often replicas compare themselves; what is given away goes within that time.
	balanceEvery = 15 * time.Second
	// settledAfter is how old a stream is before it is asked to move, so that who came back to where it was is left alone for a while.
	settledAfter = time.Minute
	// fewStreams are too few to matter where they are.
	fewStreams = 10
)

// surplus is how many streams of own one replica gives away in one round, where others have so many each. Where those go is not known: to
// any replica by chance, this one included, to the one with the fewest, or to the next in turn. So no more are asked than are too many:
// where half of them come back half of the surplus is left for the next round, and where none does nobody was made poor. What is left at the
// end is a tenth of a share, or three: less than what chance makes where nobody balances. A round gives a fifth of all, or a hundred, so
// that the others are not overrun: of 20,000 streams 270 a second, half a core of handshakes.
func surplus(own int, others []int) int {
	total := own
	for _, n := range others {
		total += n
	}
	fair := (total + len(others)) / (len(others) + 1)
	const little, atOnce = 3, 100
	if own <= fewStreams || own <= fair+max(fair/10, little) {
		return 0
	}
	return min(own-fair, max(own/5, atOnce))
}

// rebalance gives streams to other replicas as long as this one has many more than its share (after a restart of the others, or when
// one is new, all proxies are where they were), or hardly any memory left.
func (p *Plane) rebalance(ctx context.Context) error {
	tick := time.NewTicker(balanceEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			if !p.stopping.Load() {
				p.giveAway(ctx, settledAfter, balanceEvery)
			}
		}
	}
}

// giveAway is one round.
func (p *Plane) giveAway(ctx context.Context, settled, over time.Duration) {
	own := len(p.xds.Clients())
	if own <= fewStreams {
		return
	}
	others := p.replicas.loads(ctx)
	n := surplus(own, others)
	if p.pressed() >= memory.Shed && len(others) > 0 {
		n = max(n, own/10)
	}
	if n = p.xds.Shed(n, settled, over); n > 0 {
		p.instruments.moved.Add(float64(n))
		p.o.Log.Info("other replicas have fewer proxies, or more memory: some are asked to connect anew", "streams", own, "others", others, "memory", p.pressed(), "asked", n, "within", over)
	}
}

// Load is replicasv1.ReplicasServer.
func (x *replicas) Load(ctx context.Context, _ *replicasv1.LoadRequest) (*replicasv1.LoadAnswer, error) {
	if err := x.admit(ctx); err != nil {
		return nil, err
	}
	return &replicasv1.LoadAnswer{Replica: x.self, Streams: uint32(len(x.p.xds.Clients())),
		Takes: x.p.latest.Load() != nil && !x.p.stopping.Load() && x.p.pressed() == memory.Calm}, nil
}

// loads are the streams of each other replica that takes more, of those that proxies reach by the same name.
func (x *replicas) loads(ctx context.Context) (all []int) {
	ctx, cancel := context.WithTimeout(ctx, replicaTime)
	defer cancel()
	var mu sync.Mutex
	var wait sync.WaitGroup
	for _, addr := range x.alike() {
		wait.Go(func() {
			c, err := x.conn(addr)
			if err != nil {
				return
			}
			// Who does not answer, or is older and cannot, is not one to send proxies to.
			a, err := replicasv1.NewReplicasClient(c).Load(ctx, &replicasv1.LoadRequest{})
			if err != nil || a.GetReplica() == x.self || !a.GetTakes() {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, int(a.GetStreams()))
		})
	}
	wait.Wait()
	return all
}
