package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/weirmesh/weir/internal/memory"
	"github.com/weirmesh/weir/proxy"
	"github.com/weirmesh/weir/proxy/observe"
)

// runStatic runs a proxy from a bootstrap file.
func runStatic(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("weir-proxy run", flag.ContinueOnError)
	file := f.String("c", "", "Envoy-style bootstrap, YAML or JSON: static_resources (listeners, clusters), dynamic_resources (by ads_config), node, admin")
	workers := f.Int("workers", 0, "event loops, one thread each; 0: one a processor (of the control group)")
	admin := f.String("admin", "", "admin interface: host:port on loopback, or unix:///path; default: the bootstrap's")
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
	group := memory.Obey(os.DirFS("/"), os.Getenv("GOMEMLIMIT") != "")
	proxy.SetThreads(*workers)
	o := proxy.Options{Version: version, Static: b, Workers: *workers, GroupMemory: group, Log: log, Level: lv, DrainTime: *drain, AccessLog: os.Stdout,
		Node: observe.Node{ID: b.GetNode().GetId(), Name: b.GetNode().GetId(), Cluster: b.GetNode().GetCluster()}}
	if o.Control, err = dynamic(b); err != nil {
		return fmt.Errorf("%s: %w", *file, err)
	}
	if o.StdRecords, err = stdRecords(); err != nil {
		return err
	}
	field := "--admin"
	if a := b.GetAdmin().GetAddress().GetSocketAddress(); *admin == "" && a != nil {
		field, *admin = *file+": admin.address.socket_address", net.JoinHostPort(a.GetAddress(), strconv.FormatUint(uint64(a.GetPortValue()), 10))
	}
	if *admin != "" {
		l, err := listenAdmin(ctx, field, *admin)
		if err != nil {
			return err
		}
		o.Admin = []net.Listener{l}
	}
	p, err := proxy.New(o)
	if err != nil {
		return err
	}
	return serve(ctx, p)
}
