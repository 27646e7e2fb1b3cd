package nft

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weirmesh/weir/capture"
)

// Apply makes the calling thread's network namespace capture as r says, whatever rules
// of ours it had before. The table changes in one transaction: no packet meets half of
// it. Before an error is returned the addresses and routes may have been added. An error
// names the right or the kernel feature that is missing, and is ErrNone without nf_tables.
func Apply(r capture.Ruleset) error {
	if err := Routes(r); err != nil {
		return fmt.Errorf("capture rules: %w", err)
	}
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("capture rules: %w", explain(err, r))
	}
	// Deleting a table waits for the kernel's readers (7 to 14 ms): not in a fresh namespace.
	exists, err := tableExists(c)
	if err != nil {
		return fmt.Errorf("capture rules: looking for table inet %s: %w", capture.Table, explain(err, r))
	}
	if exists {
		c.DelTable(table())
	}
	t := c.CreateTable(table())
	for _, ch := range r.Chains {
		if err := addChain(c, t, ch); err != nil {
			return fmt.Errorf("capture rules: chain %s: %w", ch.Name, err)
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("capture rules: writing table inet %s: %w", capture.Table, explain(err, r))
	}
	return nil
}

// Remove undoes Apply(r). What is not there is no error.
func Remove(r capture.Ruleset) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("removing capture rules: %w", explain(err, r))
	}
	// Adding first makes the deletion succeed in any case.
	c.AddTable(table())
	c.DelTable(table())
	if err := c.Flush(); err != nil {
		return fmt.Errorf("removing capture rules: table inet %s: %w", capture.Table, explain(err, r))
	}
	if err := RemoveRoutes(r); err != nil {
		return fmt.Errorf("removing capture rules: %w", err)
	}
	return nil
}

func table() *nftables.Table {
	return &nftables.Table{Name: capture.Table, Family: nftables.TableFamilyINet}
}

func tableExists(c *nftables.Conn) (bool, error) {
	_, err := c.ListTableOfFamily(capture.Table, nftables.TableFamilyINet)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func addChain(c *nftables.Conn, t *nftables.Table, ch capture.Chain) error {
	hook := nftables.ChainHookPrerouting
	if ch.Hook == capture.Output {
		hook = nftables.ChainHookOutput
	}
	accept := nftables.ChainPolicyAccept
	chain := c.AddChain(&nftables.Chain{
		Name:     ch.Name,
		Table:    t,
		Type:     nftables.ChainType(ch.Type),
		Hooknum:  hook,
		Priority: new(nftables.ChainPriority(ch.Priority)),
		Policy:   &accept,
	})
	for _, rule := range ch.Rules {
		var exprs []expr.Any
		for _, s := range rule {
			e, err := expressions(s)
			if err != nil {
				return fmt.Errorf("rule %q: %w", rule, err)
			}
			exprs = append(exprs, e...)
		}
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: exprs})
	}
	return nil
}

// Routes does the part of Apply that is not rules: addresses and policy routes.
func Routes(r capture.Ruleset) error {
	err := routes(r)
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: %w", err, errRight)
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT):
		return fmt.Errorf("%w: this kernel lacks policy routing (CONFIG_IP_MULTIPLE_TABLES, CONFIG_IPV6_MULTIPLE_TABLES)", err)
	}
	return err
}

func routes(r capture.Ruleset) error {
	if len(r.Lo) == 0 && len(r.Families) == 0 {
		return nil
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding lo: %w", err)
	}
	for _, p := range r.Lo {
		if err := netlink.AddrReplace(lo, loAddress(p)); err != nil {
			return fmt.Errorf("adding %s to lo: %w", p, err)
		}
	}
	for _, f := range r.Families {
		if err := netlink.RouteReplace(localRoute(r, f, lo)); err != nil {
			return fmt.Errorf("adding the IPv%d route of table %d: %w", f, r.RouteTable, err)
		}
		for _, m := range r.Local {
			// An equal rule is refused as existing, which makes this safe to rerun.
			if err := netlink.RuleAdd(markRule(r, f, m)); err != nil && !errors.Is(err, os.ErrExist) {
				return fmt.Errorf("adding the IPv%d rule for mark %#x: %w", f, m, err)
			}
		}
	}
	return nil
}

// RemoveRoutes undoes Routes(r).
func RemoveRoutes(r capture.Ruleset) error {
	if len(r.Lo) == 0 && len(r.Families) == 0 {
		return nil
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding lo: %w", err)
	}
	var errs []error
	try := func(err error, format string, args ...any) {
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EADDRNOTAVAIL) && !errors.Is(err, unix.EAFNOSUPPORT) {
			errs = append(errs, fmt.Errorf(format+": %w", append(args, err)...))
		}
	}
	for _, f := range r.Families {
		for _, m := range r.Local {
			try(netlink.RuleDel(markRule(r, f, m)), "IPv%d rule for mark %#x", f, m)
		}
		try(netlink.RouteDel(localRoute(r, f, lo)), "IPv%d route of table %d", f, r.RouteTable)
	}
	for _, p := range r.Lo {
		try(netlink.AddrDel(lo, loAddress(p)), "address %s of lo", p)
	}
	return errors.Join(errs...)
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

func loAddress(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD // usable at once: nobody else can hold an address of lo
	}
	return a
}

func family(f capture.Family) (af int, everything netip.Prefix) {
	if f == capture.IPv6 {
		return unix.AF_INET6, netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return unix.AF_INET, netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

func localRoute(r capture.Ruleset, f capture.Family, lo netlink.Link) *netlink.Route {
	af, everything := family(f)
	return &netlink.Route{
		Family:    af,
		Type:      unix.RTN_LOCAL,
		Scope:     netlink.SCOPE_HOST,
		Dst:       ipNet(everything),
		LinkIndex: lo.Attrs().Index,
		Table:     r.RouteTable,
	}
}

func markRule(r capture.Ruleset, f capture.Family, mark uint32) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family, _ = family(f)
	rule.Mark = mark
	rule.Table = r.RouteTable
	return rule
}
