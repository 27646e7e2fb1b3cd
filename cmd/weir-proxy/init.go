package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/user"
	"strconv"

	"github.com/miekg/dns"

	"github.com/weirmesh/weir/capture"
	"github.com/weirmesh/weir/capture/flags"
	"github.com/weirmesh/weir/capture/iptables"
	"github.com/weirmesh/weir/capture/nft"
)

// runInit makes the pod's network namespace lead connections to the proxy: what an init
// container does before any other starts. It writes the rules to out.
func runInit(ctx context.Context, args []string, out, notes io.Writer) error {
	ipv6, err := capture.HasIPv6()
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	o, err := flags.Parse(args, flags.Place{Env: os.LookupEnv, Resolvers: resolvers, User: userID, IPv6: ipv6})
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	for _, n := range o.Notes {
		fmt.Fprintln(notes, "init:", n)
	}
	rules, err := capture.Rules(o.Config)
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	if o.DryRun {
		_, err := fmt.Fprint(out, rules)
		return err
	}
	act := func() error {
		if o.Cleanup {
			return cleanUp(ctx, o.Config)
		}
		if !o.Skip {
			if err := apply(ctx, rules, notes); err != nil {
				return fmt.Errorf("init: %w", err)
			}
			fmt.Fprint(out, rules)
		}
		if o.Prove {
			return verify(ctx, o.InboundPort, o.ProbePort, o.Timeout)
		}
		return nil
	}
	if o.Namespace == "" {
		return act()
	}
	if err := nft.In(o.Namespace, act); err != nil {
		return fmt.Errorf("init: --network-namespace: %w", err)
	}
	return nil
}

// apply writes the rules, by iptables-restore if the kernel has nothing newer.
func apply(ctx context.Context, rules capture.Ruleset, notes io.Writer) error {
	err := nft.Apply(rules)
	if !errors.Is(err, nft.ErrNone) {
		return err
	}
	if e := iptables.Apply(ctx, rules); e != nil {
		return fmt.Errorf("%w, and %w", err, e)
	}
	fmt.Fprintln(notes, "init: this kernel has no nf_tables: the rules were written by iptables-restore")
	return nft.Routes(rules)
}

// cleanUp removes whatever an earlier run with any flags has left, but for TPROXY's marks
// and route table, which must be said again if they were.
func cleanUp(ctx context.Context, c capture.Config) error {
	c.Mode, c.IPv6, c.Inbound = capture.TProxy, true, capture.Inbound{All: true}
	rules, err := capture.Rules(c)
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	err = nft.Remove(rules)
	if errors.Is(err, nft.ErrNone) {
		err = errors.Join(iptables.Remove(ctx, rules), nft.RemoveRoutes(rules))
	}
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	return nil
}

func resolvers() ([]netip.Addr, error) {
	const file = "/etc/resolv.conf"
	c, err := dns.ClientConfigFromFile(file)
	if err != nil {
		return nil, err
	}
	var out []netip.Addr
	for _, s := range c.Servers {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fmt.Errorf("%s: nameserver %s: %w", file, s, err)
		}
		out = append(out, a.Unmap().WithZone(""))
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s names no nameserver", file)
	}
	return out, nil
}

func userID(name string) (uint32, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return 0, err
	}
	id, err := strconv.ParseUint(u.Uid, 10, 32)
	return uint32(id), err
}
