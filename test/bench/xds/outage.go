package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/weirmesh/weir/test/garbage"
)

// row is one thing that can happen to a control plane.
type row struct {
	name string
	// begin makes it happen. Then there is an edit, and Options.away passes.
	begin func(context.Context) error
	// end is the recovery. Its time counts, too.
	end func(context.Context) error
}

// garbageObjects, in files of a hundred.
const garbageObjects = 10_000

func (b *bench) rows() []row {
	again := func(ctx context.Context) error { return b.launch(ctx, b.plane.state) }
	kill := func(context.Context) error { b.kill(); return nil }
	heal := func(context.Context) error { b.net.Heal(); return nil }
	var key []byte
	return []row{
		{"killed, started again", kill, again},
		{"killed, another replica takes over", kill, func(ctx context.Context) error {
			other := b.plane.state + "-replica"
			if err := b.replicate(other); err != nil {
				return err
			}
			return b.launch(ctx, other)
		}},
		{"partitioned, connections survive", func(context.Context) error { b.net.Partition(); return nil }, heal},
		{"partitioned, connections are lost", func(context.Context) error { b.net.Partition(); b.net.Break(); return nil }, heal},
		{"slowed to 1 byte/s", func(context.Context) error { b.net.Slow(); return nil }, heal},
		{"slowed to 1 byte/s, connections are lost", func(context.Context) error { b.net.Slow(); b.net.Break(); return nil }, heal},
		{"state folder damaged: no key, nothing else that can be read", func(ctx context.Context) error {
			b.kill()
			path := filepath.Join(b.plane.state, "ca", "ca.pem")
			var err error
			if key, err = os.ReadFile(path); err != nil {
				return err
			}
			for _, dir := range []string{"lastgood", "registry"} {
				files, err := filepath.Glob(filepath.Join(b.plane.state, dir, "*"))
				if err != nil {
					return err
				}
				for i, f := range files {
					if err := os.WriteFile(f, [][]byte{nil, {0, 0, 0}, []byte("{[,")}[i%3], 0o600); err != nil {
						return err
					}
				}
			}
			if err := os.WriteFile(path, key[:len(key)/2], 0o600); err != nil {
				return err
			}
			err = b.launch(ctx, b.plane.state)
			if err == nil {
				return errors.New("it started without its key")
			}
			fmt.Println("  it refuses to start:", err)
			return nil
		}, func(ctx context.Context) error {
			if err := os.WriteFile(filepath.Join(b.plane.state, "ca", "ca.pem"), key, 0o600); err != nil {
				return err
			}
			return again(ctx)
		}},
		{fmt.Sprintf("%d objects of garbage", garbageObjects), nil, func(context.Context) error { return b.litter() }},
		{"killed among the garbage, started again", kill, again},
		{"garbage removed", nil, func(context.Context) error { return os.RemoveAll(filepath.Join(b.o.mesh, "config", "garbage")) }},
	}
}

// prepare makes the folders as they are at the beginning.
func (b *bench) prepare() error {
	if b.o.state == "" || b.o.mesh == "" {
		return errors.New("-control needs -state and -mesh")
	}
	return os.RemoveAll(filepath.Join(b.o.mesh, "config", "garbage"))
}

// replicate makes a state folder for another replica: the authority and the addresses.
func (b *bench) replicate(to string) error {
	for _, dir := range []string{"ca", "registry"} {
		if err := os.MkdirAll(filepath.Join(to, dir), 0o700); err != nil {
			return err
		}
		files, err := filepath.Glob(filepath.Join(b.plane.state, dir, "*"))
		if err != nil {
			return err
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(to, dir, filepath.Base(f)), data, 0o600); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) litter() error {
	dir := filepath.Join(b.o.mesh, "config", "garbage")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for i := range garbageObjects / 100 {
		var texts []string
		for n := range 100 {
			texts = append(texts, garbage.Object(100*i+n))
		}
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.yaml", i)), []byte(strings.Join(texts, "\n---\n")), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// outages runs the rows one after the other: the thing happens, an edit is made, time
// passes, recovery; measured is from the recovery until everybody concerned has the edit.
func (b *bench) outages(ctx context.Context) error {
	template, err := os.ReadFile(filepath.Join(b.o.mesh, "templates", "vs.yaml"))
	if err != nil {
		return err
	}
	for i, r := range append(b.rows(), b.handOver()) {
		if !b.o.rows.MatchString(r.name) {
			continue
		}
		b.plane.said()
		lines := b.lines.Load()
		if r.begin != nil {
			if err := r.begin(ctx); err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
		}
		marker := fmt.Sprintf("mark-outage-%d-%d", os.Getpid(), i)
		b.watch(marker)
		edit := func() error { return b.put("vs", strings.ReplaceAll(string(template), "@@MARKER@@", marker), i) }
		if r.begin != nil {
			if err := edit(); err != nil {
				return err
			}
			select {
			case <-time.After(b.o.away):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		was, wire := usageOf(b.o.pid), b.wire.Load()
		pid, since := b.o.pid, time.Now()
		if err := r.end(ctx); err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		ready := time.Since(since)
		if r.begin == nil { // nothing was away: measured is the edit
			since = time.Now()
			if err := edit(); err != nil {
				return err
			}
		}
		took, err := b.everywhere(ctx, since)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		b.quiet(ctx)
		if b.o.pid != pid {
			was = usage{}
		}
		now := usageOf(b.o.pid)
		fmt.Printf("%s: %s (recovery itself %v); server %.2f s CPU, %.1f KB a client, RSS %.0f MB, at most %.0f MB; %.2f lines a client\n", r.name, spread(took), ready.Round(time.Millisecond),
			(now.cpu - was.cpu).Seconds(), float64(b.wire.Load()-wire)/float64(len(b.proxies))/1000, now.rss, now.most, float64(b.lines.Load()-lines)/float64(len(b.proxies)))
		time.Sleep(2 * time.Second) // the log is written when things are quiet
		for _, line := range b.plane.said() {
			fmt.Println("  " + line[:min(len(line), 300)])
		}
	}
	return nil
}

// handOver is no outage: a replica ends in good order while another one is there.
func (b *bench) handOver() row {
	return row{"handed over to another replica", nil, func(ctx context.Context) error {
		old := b.plane
		other := old.state + "-next"
		if err := b.replicate(other); err != nil {
			return err
		}
		if err := b.launch(ctx, other); err != nil {
			return err
		}
		if err := old.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		began := time.Now()
		select {
		case <-old.ended:
		case <-ctx.Done():
			return ctx.Err()
		}
		fmt.Printf("  the old one ended after %v\n", time.Since(began).Round(time.Millisecond))
		return nil
	}}
}
