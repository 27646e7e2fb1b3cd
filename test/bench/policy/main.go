// Command policy is a mesh with everything on that security asks for, and a meter: what a request costs the sidecars of
// both sides with mutual TLS between them, a token checked and fifty policies in force, beside the same without, by
// HTTP/1.1, HTTP/2 and gRPC; and what TCP costs inside mutual TLS.
//
// Two folders enter (Weir's programs, the bench's tools), a table leaves. The mesh is a real one (`weir up
// --capture=env`): one client's sidecar, and a service a row, each with a sidecar of its own and the same backend, so
// that nothing changes while rows are loaded in turn. CPU time is that of the two proxies a row goes through, from
// /proc. Proxies run on the first processor, generator and backends on the second. test/bench.sh runs this one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"time"
)

type options struct {
	bin, tools  string
	rounds      int
	length      time.Duration
	connections int
	rate        int
	only        string
	profiles    string
	idle        int
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "policy:", err)
		os.Exit(1) //nolint:forbidigo // this is a program, too
	}
}

func run(ctx context.Context, args []string) error {
	var o options
	f := flag.NewFlagSet("policy", flag.ContinueOnError)
	f.StringVar(&o.bin, "bin", "bin", "folder of weir, weir-control and weir-proxy")
	f.StringVar(&o.tools, "tools", "/var/tmp/bench/bin", "folder of backend and tcpload, which the bench's setup compiles")
	f.IntVar(&o.rounds, "rounds", 5, "rounds a row")
	f.DurationVar(&o.length, "length", 2*time.Second, "length of a round")
	f.IntVar(&o.connections, "conns", 100, "connections of the client")
	f.IntVar(&o.rate, "rate", 1000, "requests a second of the rows that do not saturate")
	f.StringVar(&o.only, "rows", "", "rows to measure, by name, separated by spaces; all if empty")
	f.StringVar(&o.profiles, "profiles", "", "folder for CPU profiles of both proxies, of a round more that is not counted")
	f.IntVar(&o.idle, "idle", 0, "hold so many connections instead, and say what memory they take")
	serve := f.String("serve", "", "be the application behind the rows of gRPC, at this address, and nothing else")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *serve != "" {
		return serveEcho(*serve)
	}
	if o.idle > 0 {
		return idle(ctx, o)
	}
	m, err := start(ctx, o)
	if err != nil {
		return err
	}
	defer m.stop()
	rows := m.rows()
	if o.only != "" {
		rows = slices.DeleteFunc(rows, func(r *row) bool { return !slices.Contains(strings.Fields(o.only), r.name) })
	}
	for _, r := range rows {
		if err := m.check(ctx, r); err != nil {
			return fmt.Errorf("row %s: %w", r.name, err)
		}
	}
	for i := range o.rounds + 1 { // the first is for warmth
		for j := range rows {
			r := rows[(i+j)%len(rows)]
			s, err := m.measure(ctx, r)
			if err != nil {
				return fmt.Errorf("row %s: %w", r.name, err)
			}
			if i > 0 {
				r.samples = append(r.samples, s)
			}
		}
	}
	show(rows)
	if o.profiles == "" {
		return nil
	}
	for _, r := range rows {
		if err := m.profile(ctx, r); err != nil {
			return fmt.Errorf("profile of row %s: %w", r.name, err)
		}
	}
	return nil
}

// row is one way to load one service.
type row struct {
	name, service string
	load          func(context.Context, *mesh, *row) (float64, error) // how much was done: requests, or GB
	tokens        int                                                 // different ones
	body          int                                                 // bytes of a POST; 0: GET
	unit          string
	took          []time.Duration // the last round's, sorted, of rows that are paced
	samples       []sample
}

// sample is one round: CPU microseconds a request or milliseconds a GB; and of rows that are paced, when half and 99 % of the calls were answered.
type sample struct {
	client, server, rate float64
	half, most           time.Duration
}

func (s sample) both() float64 { return s.client + s.server }

func median(in []sample, of func(sample) float64) float64 {
	var v []float64
	for _, s := range in {
		v = append(v, of(s))
	}
	slices.Sort(v)
	return v[len(v)/2]
}

// mesh-wide requests a second that the cores are for: Istio's published load.
const wide = 70_000

// show compares each row with the first of its unit, round by round.
func show(rows []*row) {
	fmt.Printf("%-20s %10s %10s %10s %10s %10s %20s\n", "row", "client", "server", "both", "rate", "ratio", "cores for 70,000/s")
	base := map[string]*row{}
	for _, r := range rows {
		if base[r.unit] == nil {
			base[r.unit] = r
		}
		var ratios []float64
		for i, s := range r.samples {
			ratios = append(ratios, s.both()/base[r.unit].samples[i].both())
		}
		both, cores := median(r.samples, sample.both), "-"
		if !strings.HasPrefix(r.unit, "ms") {
			cores = fmt.Sprintf("%.2f", both*wide/1e6)
		}
		slices.Sort(ratios)
		fmt.Printf("%-20s %10.2f %10.2f %10.2f %10.1f %10.2f %20s  %s\n", r.name, median(r.samples, func(s sample) float64 { return s.client }),
			median(r.samples, func(s sample) float64 { return s.server }), both, median(r.samples, func(s sample) float64 { return s.rate }), ratios[len(ratios)/2], cores, r.unit)
		if len(r.took) > 0 {
			of := func(f func(sample) time.Duration) float64 {
				return median(r.samples, func(s sample) float64 { return f(s).Seconds() * 1e3 })
			}
			fmt.Printf("%20s half within %.2f ms, 99 %% within %.2f ms\n", "", of(func(s sample) time.Duration { return s.half }), of(func(s sample) time.Duration { return s.most }))
		}
	}
}
