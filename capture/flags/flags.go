// Package flags reads the command line by which pods say what of their traffic is captured:
// that of Istio's istio-iptables, which the injector writes into init containers.
//
// Arguments, environment and what must be known of the pod enter Parse; a capture.Config
// and notes leave. It is a pure function: whoever makes a pod's rules, its init container
// or the node's CNI plugin, makes the same.
package flags

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirmesh/weir/capture"
)

// Options is what flags and environment ask for.
type Options struct {
	capture.Config
	DryRun, Skip, Prove, Cleanup bool
	Namespace                    string // path of the network namespace; empty: ours
	Timeout                      time.Duration
	// Notes are about what was asked for and means nothing, or something else, here.
	Notes []string
}

// Place is what must be known of the pod.
type Place struct {
	Env func(string) (string, bool)
	// Resolvers of the pod's /etc/resolv.conf. None: queries to any server are taken.
	Resolvers func() ([]netip.Addr, error)
	User      func(name string) (uint32, error)
	IPv6      bool // there is an IPv6 address
}

// The proxy's own ports: what an application cannot have is not captured.
var ownPorts = []uint16{15020, 15090}

// initFlag is a flag of istio-iptables. Its environment variable is the long name in
// capitals with underscores, and alias.
type initFlag struct {
	long, short, alias, help string
	set                      func(string) error
	boolean                  bool
}

// Parse reads the flags of Istio's istio-iptables (1.0 to 1.31) in their own
// meaning, with Istio's environment variables for those not given.
func Parse(args []string, p Place) (*Options, error) {
	o := &Options{Config: capture.Config{OutboundPort: 15001, InboundPort: 15006, HealthPort: 15021, ProbePort: capture.ProbePort,
		IPv6: p.IPv6}, Timeout: 5 * time.Second}
	note := func(format string, a ...any) { o.Notes = append(o.Notes, fmt.Sprintf(format, a...)) }
	var inboundExcept []uint16
	var dns, allDNS, none, allDestinations, allPorts bool

	inert := func(why string) func(string) error {
		return func(v string) error {
			if v != "" && v != "false" {
				o.Notes = append(o.Notes, why)
			}
			return nil
		}
	}
	listen := func(to *uint16, usual uint16, who string) func(string) error {
		return func(v string) error {
			n, err := port(v)
			if err == nil && n != usual {
				note("the proxy must listen on port %d for %s: it does so on %d unless its configuration says otherwise", n, who, usual)
			}
			*to = n
			return err
		}
	}
	flags := []initFlag{
		{"envoy-port", "p", "", "`port` of the proxy for outbound connections (15001)", listen(&o.OutboundPort, 15001, "outbound connections (-p)"), false},
		{"inbound-capture-port", "z", "", "`port` of the proxy for inbound connections (15006, also with the flags of Istio 1.0, which had one port)", listen(&o.InboundPort, 15006, "inbound connections (-z)"), false},
		{"proxy-uid", "u", "", "`users` that are the proxy, by number, comma-separated (1337)", into(&o.Exempt.UIDs, number), false},
		{"proxy-gid", "g", "", "`groups` that are the proxy (as -u)", into(&o.Exempt.GIDs, number), false},
		{"istio-inbound-interception-mode", "m", "", "REDIRECT, TPROXY (the application sees clients' addresses), or NONE: `mode` of inbound capture (REDIRECT)", func(v string) error {
			switch none = false; v {
			case "REDIRECT", "":
				o.Mode = capture.Redirect
			case "TPROXY":
				o.Mode = capture.TProxy
			case "NONE":
				none = true
			default:
				return errors.New("use REDIRECT, TPROXY or NONE")
			}
			return nil
		}, false},
		{"istio-service-cidr", "i", "", "captured outbound `destinations`, comma-separated; * is all, none captures nothing", func(v string) (err error) {
			if allDestinations = v == "*"; !allDestinations {
				err = into(&o.Outbound.CIDRs, prefix)(v)
			}
			return err
		}, false},
		{"istio-service-exclude-cidr", "x", "", "outbound `destinations` not captured", into(&o.Outbound.ExcludeCIDRs, prefix), false},
		{"istio-outbound-ports", "q", "", "outbound `ports` captured whatever the destination", func(v string) (err error) {
			if allPorts = v == "*"; !allPorts {
				err = into(&o.Outbound.Ports, port)(v)
			}
			return err
		}, false},
		{"istio-local-outbound-ports-exclude", "o", "", "outbound `ports` not captured", into(&o.Outbound.ExcludePorts, port), false},
		{"istio-inbound-ports", "b", "", "captured inbound `ports`, comma-separated; * is all but those of -d and the proxy's own, none captures nothing", func(v string) (err error) {
			if o.Inbound.All = v == "*"; !o.Inbound.All {
				err = into(&o.Inbound.Ports, port)(v)
			}
			return err
		}, false},
		{"istio-local-exclude-ports", "d", "", "inbound `ports` not captured, with -b '*'", into(&inboundExcept, port), false},
		{"istio-exclude-interfaces", "c", "", "`interfaces` left alone in both directions", into(&o.ExcludeInterfaces, word), false},
		{"kube-virt-interfaces", "k", "", "`interfaces` of virtual machines: what arrives there is outbound", into(&o.VirtualInterfaces, word), false},
		{"istio-outbound-owner-groups", "", "", "`groups` whose connections alone are captured, by number; * is all (*)", func(v string) error {
			if v == "*" {
				return nil
			}
			return into(&o.Outbound.GIDs, number)(v)
		}, false},
		{"istio-outbound-owner-groups-exclude", "", "", "`groups` whose connections are not captured", into(&o.Outbound.ExcludeGIDs, number), false},
		{"istio-inbound-tproxy-mark", "t", "", "`mark` of packets that TPROXY hands over (1332)", func(v string) error {
			n, err := number(v)
			o.TProxyMark = n
			return err
		}, false},
		{"istio-inbound-tproxy-route-table", "r", "", "route `table` of TPROXY (133)", func(v string) error {
			n, err := strconv.ParseUint(v, 0, 8)
			o.RouteTable = int(n)
			return err
		}, false},
		{"redirect-dns", "", "ISTIO_META_DNS_CAPTURE", "take DNS queries to the pod's resolvers, to port 15053", boolean(&dns), true},
		{"capture-all-dns", "", "", "with --redirect-dns: those to any server", boolean(&allDNS), true},
		{"drop-invalid", "", "INVALID_DROP", "drop packets that belong to no connection", boolean(&o.DropInvalid), true},
		{"dual-stack", "", "ISTIO_DUAL_STACK", "expect IPv6, though the pod has no such address yet", func(v string) error {
			both := false
			err := boolean(&both)(v)
			o.IPv6 = o.IPv6 || both
			return err
		}, true},
		{"dry-run", "n", "", "print the rules, change nothing", boolean(&o.DryRun), true},
		{"cleanup-only", "", "", "remove the rules (also: the argument clean)", boolean(&o.Cleanup), true},
		{"skip-rule-apply", "", "", "change nothing, with --run-validation", boolean(&o.Skip), true},
		{"run-validation", "", "", "prove by a connection that the rules are in force", boolean(&o.Prove), true},
		{"iptables-probe-port", "", "", "`port` of that connection (15002)", one(&o.ProbePort, port), false},
		{"probe-timeout", "", "", "how `long` to try (5s)", one(&o.Timeout, time.ParseDuration), false},
		{"network-namespace", "", "", "`path` of the network namespace to change, instead of ours", one(&o.Namespace, word), false},

		{"inbound-tunnel-port", "e", "", "", inert("--inbound-tunnel-port: there is no HBONE tunnel here; connections to that port are captured like others"), false},
		{"cni-mode", "", "", "", inert("--cni-mode: it changes nothing here; --network-namespace says where the rules go"), true},
		{"host-nsenter-exec", "", "", "", inert("--host-nsenter-exec: no program is run to enter a network namespace"), true},
		{"reconcile", "", "", "", inert("--reconcile: rules of an earlier run are always replaced, in one transaction"), true},
		{"force-apply", "", "", "", inert("--force-apply: the rules are always applied"), true},
		{"native-nftables", "", "", "", inert("--native-nftables: nf_tables are always used where the kernel has them"), true},
		{"force-iptables-binary", "", "", "", inert("--force-iptables-binary: iptables-restore runs only where the kernel has no nf_tables"), false},
		{"iptables-trace-logging", "", "", "", inert("--iptables-trace-logging: not done; nft monitor trace shows what rules match"), true},
		{"iptables-version", "", "", "", inert("--iptables-version: iptables is not used"), false},
		{"output-paths", "", "", "", inert("--output-paths: rules are written to standard output"), false},
		{"log_output_level", "", "", "", inert("--log_output_level: nothing is logged but the rules and sentences like this one"), false},
		{"restore-format", "f", "", "", func(string) error { return nil }, true}, // the text that is printed can always be restored: nft -f
	}
	given := map[string]bool{}
	fs := flag.NewFlagSet("weir-proxy init", flag.ContinueOnError)
	for _, f := range flags {
		help := f.help
		if help == "" {
			help = "accepted, and said to mean nothing here"
		}
		for _, name := range []string{f.long, f.short} {
			set := func(v string) error { given[f.long] = true; return f.set(v) }
			switch {
			case name == "":
			case f.boolean:
				fs.BoolFunc(name, help, set)
			default:
				fs.Func(name, help, set)
			}
		}
	}
	for len(args) > 0 && (args[0] == "init" || args[0] == "istio-iptables") { // the image's entrypoint may say it already
		args = args[1:]
	}
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	switch {
	case fs.NArg() == 1 && fs.Arg(0) == "clean":
		o.Cleanup = true
	case fs.NArg() > 0:
		return nil, fmt.Errorf("unexpected argument %q; weir-proxy init -h lists the flags", fs.Arg(0))
	}
	for _, f := range flags {
		if given[f.long] {
			continue
		}
		for _, name := range []string{strings.ToUpper(strings.ReplaceAll(f.long, "-", "_")), f.alias} {
			v, ok := p.Env(name)
			if name == "" || !ok || f.boolean && v == "" {
				continue
			}
			if err := f.set(v); err != nil {
				return nil, fmt.Errorf("%s=%q: %w", name, v, err)
			}
			break
		}
	}
	if !given["proxy-uid"] && len(o.Exempt.UIDs) == 0 {
		uid := uint32(1337)
		if name, ok := p.Env("ENVOY_USER"); ok && name != "" {
			var err error
			if uid, err = p.User(name); err != nil {
				return nil, fmt.Errorf("ENVOY_USER: %w; say the number with -u", err)
			}
		}
		o.Exempt.UIDs = []uint32{uid}
	}
	if !given["proxy-gid"] && len(o.Exempt.GIDs) == 0 {
		o.Exempt.GIDs = o.Exempt.UIDs
	}
	if o.Outbound.All = allDestinations || allPorts; o.Outbound.All {
		o.Outbound.CIDRs, o.Outbound.Ports = nil, nil
	}
	if none {
		o.Inbound, o.Outbound, dns = capture.Inbound{}, capture.Outbound{}, false
	}
	if o.Inbound.All {
		o.Inbound.ExcludePorts = append(inboundExcept, ownPorts...)
	} else if both := shared(o.Inbound.Ports, inboundExcept); len(both) > 0 {
		note("inbound ports %v are in -b and in -d: they are captured, because -d counts with -b '*' only", both)
	}
	if dns {
		o.DNSPort = 15053
		if !allDNS {
			var err error
			if o.DNSServers, err = p.Resolvers(); err != nil {
				return nil, fmt.Errorf("--redirect-dns: %w; --capture-all-dns needs no resolvers", err)
			}
		}
	} else if allDNS {
		note("--capture-all-dns: it counts with --redirect-dns only")
	}
	if !o.Cleanup && !o.Skip && !o.Inbound.All && !o.Outbound.All && len(o.Inbound.Ports)+len(o.Outbound.Ports)+len(o.Outbound.CIDRs) == 0 {
		note("no connection is captured: -b and -i name none, and capture everything if they are '*'")
	}
	if err := o.Config.Validate(); err != nil {
		return nil, err
	}
	return o, nil
}

// one and into are setters of one value and of a comma-separated list.
func one[T any](to *T, parse func(string) (T, error)) func(string) error {
	return func(v string) (err error) {
		*to, err = parse(strings.TrimSpace(v))
		return err
	}
}

func into[T any](to *[]T, parse func(string) (T, error)) func(string) error {
	return func(v string) error {
		*to = nil
		for word := range strings.SplitSeq(v, ",") {
			if word = strings.TrimSpace(word); word == "" {
				continue
			}
			x, err := parse(word)
			if err != nil {
				return err
			}
			*to = append(*to, x)
		}
		return nil
	}
}

func boolean(to *bool) func(string) error { return one(to, strconv.ParseBool) }

func word(v string) (string, error) { return v, nil }

func port(v string) (uint16, error) {
	n, err := strconv.ParseUint(v, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is not a port from 1 to 65535", v)
	}
	return uint16(n), nil
}

func number(v string) (uint32, error) {
	n, err := strconv.ParseUint(v, 0, 32)
	if err != nil {
		return 0, fmt.Errorf("%q is not a number", v)
	}
	return uint32(n), nil
}

// prefix also takes an address.
func prefix(v string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(v); err == nil {
		return a.Prefix(a.BitLen())
	}
	p, err := netip.ParsePrefix(v)
	if err != nil {
		return p, fmt.Errorf("%q is neither an address nor a network such as 10.0.0.0/8, nor is it * alone", v)
	}
	return p, nil
}

func shared(a, b []uint16) []uint16 {
	return slices.DeleteFunc(slices.Clone(a), func(p uint16) bool { return !slices.Contains(b, p) })
}
