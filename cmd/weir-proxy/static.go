package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"time"

	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/proxy/observe"
)

// runStatic runs a proxy from a bootstrap file.
func runStatic(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("weir-proxy run", flag.ContinueOnError)
	file := f.String("c", "", "Envoy-style bootstrap, YAML or JSON: static_resources (listeners, clusters), dynamic_resources (by ads_config), node, admin")
	workers := f.Int("workers", 0, "event loops, one thread each; 0: one a processor (of the control group)")
	admin := f.String("admin", "", "address of the admin interface; default: the bootstrap's")
	drain := f.Duration("drain", 5*time.Second, "how long to go on at the end for requests under way")
	level := f.String("log-level", "info", "debug, info, warn or error")
	if err := f.Parse(args); err != nil {
		return err
	}
	if *file == "" {
		return errors.New("-c is missing: name a bootstrap file")
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	b, err := readBootstrap(*file)
	if err != nil {
		return err
	}
	log, lv, err := newLog(*level)
	if err != nil {
		return err
	}
	if *workers <= 0 {
		*workers = runtime.GOMAXPROCS(0) // as many as the control group has processors
	}
	group := limitMemory(os.DirFS("/"))
	proxy.SetThreads(*workers)
	o := proxy.Options{Version: version, Static: b, Workers: *workers, GroupMemory: group, Log: log, Level: lv, DrainTime: *drain, AccessLog: os.Stdout,
		Node: observe.Node{ID: b.GetNode().GetId(), Name: b.GetNode().GetId(), Cluster: b.GetNode().GetCluster()}}
	if o.Control, err = dynamic(b); err != nil {
		return fmt.Errorf("%s: %w", *file, err)
	}
	if o.StdRecords, err = stdRecords(); err != nil {
		return err
	}
	if *admin == "" {
		if a := b.GetAdmin().GetAddress().GetSocketAddress(); a != nil {
			ip, err := netip.ParseAddr(a.GetAddress())
			if err != nil {
				return fmt.Errorf("%s: admin.address: %w", *file, err)
			}
			*admin = netip.AddrPortFrom(ip, uint16(a.GetPortValue())).String()
		}
	}
	if *admin != "" {
		l, err := net.Listen("tcp", *admin)
		if err != nil {
			return fmt.Errorf("admin interface: %w", err)
		}
		o.Admin = []net.Listener{l}
	}
	p, err := proxy.New(o)
	if err != nil {
		return err
	}
	return serve(ctx, p)
}
