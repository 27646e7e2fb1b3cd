// Command xds is many proxies as a control plane sees them, and a stopwatch: how long a cold start and the edits of a mesh
// take until every proxy has them, and what that costs the control plane.
//
// Each client is an xds/client, as in our proxy, on a connection of its own, that asks for what its clusters, listeners and
// route tables name. `../shared/bench/xds` has the generator of meshes (meshgen), a stopwatch whose clients are Envoy-like
// and cheaper (xdsload), and the floor of what sending bytes costs (replay). test/bench-xds.sh runs this one.
//
// With -control it starts weir-control itself, over TLS, and can do to it what happens to a control plane: -outage is
// the matrix of that, -flap an endpoint that comes and goes, -stream edits without end. test/outage.sh runs these.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/weirmesh/weir/xds/resource"
)

type options struct {
	addr       string
	clients    int
	services   int
	namespaces int
	pid        int
	vhds       bool
	ondemand   bool
	uses       int
	users      int
	mesh       string
	probes     string
	edits      int
	settle     time.Duration
	limit      time.Duration
	hold       time.Duration

	control string
	state   string
	outage  bool
	rows    *regexp.Regexp
	away    time.Duration
	flap    time.Duration
	stream  time.Duration
	rate    float64
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "xds:", err)
		os.Exit(1) //nolint:forbidigo // this is a program, too
	}
}

func run(ctx context.Context, args []string) error {
	var o options
	f := flag.NewFlagSet("xds", flag.ContinueOnError)
	f.StringVar(&o.addr, "addr", "127.0.0.1:15010", "where the control plane serves xDS in plaintext (weir-control --grpc-plaintext)")
	f.IntVar(&o.clients, "clients", 100, "number of proxies")
	f.IntVar(&o.services, "services", 1000, "services of the mesh, as given to meshgen: client i is an endpoint of service i")
	f.IntVar(&o.namespaces, "namespaces", 0, "namespaces of the mesh; 0: one for 20 services, as meshgen makes")
	f.IntVar(&o.pid, "pid", 0, "process whose CPU time and memory are measured")
	f.BoolVar(&o.vhds, "vhds", false, "take virtual hosts as resources of their own")
	f.BoolVar(&o.ondemand, "ondemand", false, "ask for what is used, as weir-proxy does (docs/design/ondemand.md)")
	f.IntVar(&o.uses, "uses", 12, "with -ondemand: services that each client uses")
	f.IntVar(&o.users, "users", 10, "with -ondemand: percentage of clients that use the service that is edited")
	f.StringVar(&o.mesh, "mesh", "", "folder made by meshgen, whose config/ the control plane watches; empty: no edits")
	f.StringVar(&o.probes, "probes", "vs,dr,eds", "edits to make: templates of the mesh")
	f.IntVar(&o.edits, "edits", 5, "edits of each kind")
	f.DurationVar(&o.settle, "settle", time.Second, "silence that ends a phase")
	f.DurationVar(&o.limit, "limit", 5*time.Minute, "limit of each phase")
	f.DurationVar(&o.hold, "hold", 0, "idle time at the end, of which the cost is measured, too")
	f.StringVar(&o.control, "control", "", "weir-control program to run, instead of -addr and -pid; -mesh is its configuration")
	f.StringVar(&o.state, "state", "", "folder for its state")
	f.BoolVar(&o.outage, "outage", false, "do to the control plane what can happen to it, row by row")
	rows := f.String("rows", "", "rows of -outage, a regular expression; others are left out")
	f.DurationVar(&o.away, "away", 10*time.Second, "how long each outage lasts")
	f.DurationVar(&o.flap, "flap", 0, "have an endpoint come and go once a second, for so long")
	f.DurationVar(&o.stream, "stream", 0, "make edits without waiting for their effect, for so long")
	f.Float64Var(&o.rate, "rate", 5, "edits a second of -stream")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	var err error
	if o.rows, err = regexp.Compile(*rows); err != nil {
		return fmt.Errorf("-rows: %w", err)
	}
	o.vhds = o.vhds || o.ondemand
	o.namespaces = cmp.Or(o.namespaces, max(1, (o.services+19)/20))
	b := newBench(&o)
	ctx, stop := context.WithCancel(ctx)
	if o.control != "" {
		if err := b.prepare(); err != nil {
			stop()
			return err
		}
		defer b.kill()
		if err := b.launch(ctx, o.state); err != nil {
			stop()
			return err
		}
		if err := b.identify(ctx, o.state); err != nil {
			stop()
			return err
		}
	}
	done := b.start(ctx)
	defer func() {
		stop()
		<-done
	}()
	return b.phases(ctx)
}

func (b *bench) phases(ctx context.Context) error {
	if err := b.cold(ctx); err != nil {
		return err
	}
	if b.o.mesh != "" && b.o.control == "" {
		for kind := range strings.SplitSeq(b.o.probes, ",") {
			if err := b.edit(ctx, kind); err != nil {
				return err
			}
		}
	}
	if b.o.outage {
		if err := b.outages(ctx); err != nil {
			return err
		}
	}
	if b.o.flap > 0 {
		if err := b.flaps(ctx); err != nil {
			return err
		}
	}
	if b.o.stream > 0 {
		if err := b.streams(ctx); err != nil {
			return err
		}
	}
	if b.o.hold > 0 {
		was := usageOf(b.o.pid)
		select {
		case <-ctx.Done():
		case <-time.After(b.o.hold):
		}
		now := usageOf(b.o.pid)
		fmt.Printf("idle for %v: %.3f %% of a core, RSS %.0f MB\n", b.o.hold, 100*(now.cpu-was.cpu).Seconds()/b.o.hold.Seconds(), now.rss)
	}
	return nil
}

// cold is the start: from the first connection until everybody has everything.
func (b *bench) cold(ctx context.Context) error {
	was := b.began
	if err := b.all(ctx, func(c *proxy) bool { return c.synced.Load() != nil }); err != nil {
		return fmt.Errorf("cold start: %w", err)
	}
	b.quiet(ctx)
	now := usageOf(b.o.pid)
	var took []time.Duration
	for _, c := range b.proxies {
		took = append(took, *c.synced.Load())
	}
	n := float64(len(b.proxies))
	fmt.Printf("cold start of %d clients: %s; %.2f MB a client; server %.2f s CPU, %.2f ms a client, RSS %.0f MB (%.0f KB a client above %.0f MB before), at most %.0f MB\n",
		len(b.proxies), spread(took), float64(b.wire.Load())/n/1e6, (now.cpu - was.cpu).Seconds(), float64((now.cpu-was.cpu).Microseconds())/1000/n,
		now.rss, (now.rss-was.rss)*1000/n, was.rss, now.most)
	for _, t := range b.types() {
		k := b.counts[t]
		fmt.Printf("  %-5s %8.1f resources %9.1f KB a client\n", resource.Short(t), float64(k.resources.Load())/n, float64(k.bytes.Load())/n/1000)
	}
	return nil
}

// edit makes the edits of one kind and waits for each until everybody has it.
func (b *bench) edit(ctx context.Context, kind string) error {
	template, err := os.ReadFile(filepath.Join(b.o.mesh, "templates", kind+".yaml"))
	if err != nil {
		return err
	}
	var took []time.Duration
	var cpu time.Duration
	var sent, strangers int64
	var last usage
	base := int(time.Now().Unix() % 60_000)
	for i := range b.o.edits {
		marker, ip := fmt.Sprintf("mark-%s-%d-%d", kind, base, i), fmt.Sprintf("10.251.%d.%d", (base+i)/250, (base+i)%250)
		text := strings.NewReplacer("@@MARKER@@", marker, "@@IP@@", ip, "@@N@@", fmt.Sprint(base+i)).Replace(string(template))
		if kind == "eds" {
			marker = ip
		}
		was, wire := usageOf(b.o.pid), b.wire.Load()
		b.watch(marker)
		idle := b.received(func(c *proxy) bool { return !c.concerned })
		if err := b.put(kind, text, i); err != nil {
			return err
		}
		each, err := b.everywhere(ctx, b.marker.Load().since)
		if err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		took = append(took, each...)
		b.quiet(ctx)
		strangers += b.received(func(c *proxy) bool { return !c.concerned }) - idle
		last = usageOf(b.o.pid)
		cpu += last.cpu - was.cpu
		sent += b.wire.Load() - wire
	}
	n := time.Duration(b.o.edits)
	fmt.Printf("%-6s %d edits: %s; server %.3f s CPU each, %.2f KB a client each, RSS %.0f MB", kind, b.o.edits, spread(took), (cpu / n).Seconds(),
		float64(sent)/float64(n)/float64(len(took)/b.o.edits)/1000, last.rss)
	if idle := len(b.proxies) - len(took)/b.o.edits; idle > 0 {
		fmt.Printf("; %d resources to the %d that do not use it", strangers, idle)
	}
	fmt.Println()
	return nil
}

// put writes an edit into the watched folder, at once.
func (b *bench) put(kind, text string, i int) error {
	name := "probe-" + kind + ".yaml"
	if kind == "newsvc" {
		name = fmt.Sprintf("probe-new-%d.yaml", i)
	}
	beside := filepath.Join(b.o.mesh, "."+name)
	if err := os.WriteFile(beside, []byte(text), 0o600); err != nil {
		return err
	}
	return os.Rename(beside, filepath.Join(b.o.mesh, "config", name))
}

func spread(took []time.Duration) string {
	slices.Sort(took)
	at := func(q float64) time.Duration { return took[int(q*float64(len(took)-1))].Round(100 * time.Microsecond) }
	return fmt.Sprintf("p50 %v p99 %v max %v", at(.5), at(.99), at(1))
}
