// Package iptables writes a capture.Ruleset with the iptables-restore program, for
// kernels without nf_tables: enterprise Linux of before 2019, on virtual machines. The
// images of Weir do not hold that program.
//
// Text is the pure part: a ruleset in the words of iptables-restore. Apply and Remove
// act on the network namespace of the calling thread, need CAP_NET_ADMIN, and touch the
// chains WEIR_… and the jumps to them, nothing else. Addresses and policy routes are
// capture/nft's. Calls for the same namespace must not overlap.
package iptables

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"

	"github.com/weirmesh/weir/capture"
)

// Text is r for iptables-restore --noflush, or ip6tables-restore. With again, chains of
// an earlier run must be there and are replaced, otherwise they must not. One difference
// to nf_tables remains: what TPROXY finds no listener for is dropped, not refused.
func Text(r capture.Ruleset, f capture.Family, again bool) string {
	return text(r, func(b *strings.Builder, c capture.Chain) {
		if again {
			fmt.Fprintf(b, "-D %s -j %s\n", hook(c), name(c))
		}
		for _, rule := range c.Rules {
			for _, line := range lines(rule, f) {
				fmt.Fprintf(b, "-A %s %s\n", name(c), line)
			}
		}
		fmt.Fprintf(b, "-A %s -j %s\n", hook(c), name(c))
	})
}

// removal takes back Text.
func removal(r capture.Ruleset) string {
	return text(r, func(b *strings.Builder, c capture.Chain) {
		fmt.Fprintf(b, "-D %s -j %s\n-X %s\n", hook(c), name(c), name(c))
	})
}

// text has what write says about each chain, by table.
func text(r capture.Ruleset, write func(*strings.Builder, capture.Chain)) string {
	var b strings.Builder
	for _, table := range []string{"mangle", "nat"} {
		var chains []capture.Chain
		for _, c := range r.Chains {
			if (c.Type == capture.NAT) == (table == "nat") {
				chains = append(chains, c)
			}
		}
		if len(chains) == 0 {
			continue
		}
		fmt.Fprintf(&b, "*%s\n", table)
		for _, c := range chains {
			fmt.Fprintf(&b, ":%s - [0:0]\n", name(c)) // makes it, or empties it
		}
		for _, c := range chains {
			write(&b, c)
		}
		b.WriteString("COMMIT\n")
	}
	return b.String()
}

func name(c capture.Chain) string { return "WEIR_" + strings.ToUpper(c.Name) }
func hook(c capture.Chain) string { return strings.ToUpper(string(c.Hook)) }

// lines are the rules that say what rule says about packets of a family: one an action,
// all under the same conditions.
func lines(rule capture.Rule, f capture.Family) []string {
	var conditions, out []string
	when := func(format string, a ...any) { conditions = append(conditions, fmt.Sprintf(format, a...)) }
	do := func(format string, a ...any) {
		out = append(out, strings.Join(append(slices.Clip(conditions), fmt.Sprintf("-j "+format, a...)), " "))
	}
	for i := range rule {
		switch s := rule[i].(type) {
		case capture.OutIface:
			when("-o %s", string(s))
		case capture.InIface:
			when("-i %s", string(s))
		case capture.Source:
			if family(netip.Prefix(s)) != f {
				return nil
			}
			when("-s %s", netip.Prefix(s))
		case capture.Destination:
			if family(s.Prefix) != f {
				return nil
			}
			when("%s-d %s", not(s.Not), s.Prefix)
		case capture.Protocol:
			when("-p %s", protocol(s))
		case capture.Port:
			when("-p %s --dport %d", protocol(s.Protocol), s.Port)
		case capture.Mark:
			when("-m mark --mark %#x", uint32(s))
		case capture.ConnMark:
			when("-m connmark --mark %#x", uint32(s))
		case capture.OwnerUID:
			when("-m owner --uid-owner %d", uint32(s))
		case capture.OwnerGID:
			when("-m owner --gid-owner %d", uint32(s))
		case capture.OwnerGIDNot:
			when("-m owner ! --gid-owner %d", uint32(s))
		case capture.Reply:
			when("-m conntrack --ctdir REPLY")
		case capture.Invalid:
			when("-m conntrack --ctstate INVALID")

		case capture.SetMark:
			do("MARK --set-mark %#x", uint32(s))
		case capture.SaveMark:
			do("CONNMARK --save-mark")
		case capture.RedirectTo:
			do("REDIRECT --to-ports %d", uint16(s))
		case capture.TProxyTo:
			// The target marks and accepts by itself.
			mark, _ := rule[i+1].(capture.SetMark)
			do("TPROXY --on-port %d --tproxy-mark %#x", uint16(s), uint32(mark))
			return out
		case capture.Return:
			do("RETURN")
		case capture.Accept:
			do("ACCEPT")
		case capture.Drop, capture.Reset: // the table mangle cannot refuse
			do("DROP")
		}
	}
	return out
}

func family(p netip.Prefix) capture.Family {
	if p.Addr().Is6() {
		return capture.IPv6
	}
	return capture.IPv4
}

func not(yes bool) string {
	if yes {
		return "! "
	}
	return ""
}

func protocol(p capture.Protocol) string {
	if p == capture.UDP {
		return "udp"
	}
	return "tcp"
}

// Apply writes the rules of both families. That there is no program is exec.ErrNotFound.
func Apply(ctx context.Context, r capture.Ruleset) error {
	return each(func(f capture.Family) error {
		if restore(ctx, f, Text(r, f, true)) == nil {
			return nil
		}
		return restore(ctx, f, Text(r, f, false))
	})
}

// Remove undoes Apply(r).
func Remove(ctx context.Context, r capture.Ruleset) error {
	return each(func(f capture.Family) error { return restore(ctx, f, removal(r)) })
}

func each(do func(capture.Family) error) error {
	if err := do(capture.IPv4); err != nil {
		return err
	}
	if _, err := os.Stat("/proc/net/if_inet6"); err != nil {
		return nil // no IPv6 in this kernel
	}
	return do(capture.IPv6)
}

func restore(ctx context.Context, f capture.Family, input string) error {
	prefix := "ip"
	if f == capture.IPv6 {
		prefix = "ip6"
	}
	// Where both are, the other one may need nf_tables.
	program, err := exec.LookPath(prefix + "tables-legacy-restore")
	if err != nil {
		if program, err = exec.LookPath(prefix + "tables-restore"); err != nil {
			return fmt.Errorf("capture rules: %w", err)
		}
	}
	cmd := exec.CommandContext(ctx, program, "--noflush", "--wait")
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("capture rules: %s: %w", program, errors.Join(err, errors.New(strings.TrimSpace(string(out)))))
	}
	return nil
}
