package capture_test

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/weirmesh/weir/capture"
)

// Only commit changed goldens if you understand what caused them and if they are desired.
var update = flag.Bool("update", false, "rewrite testdata")

// world is the small network of the kernel test, and what the cases below talk about:
// a pod, and a network outside it that has every address but the pod's.
const (
	pod4, pod6       = "10.1.0.2", "fd01::2"
	outside4         = "10.1.0.1"
	outside6         = "fd01::1"
	web4, web6       = "192.0.2.1", "2001:db8::1" // ordinary destinations
	other4           = "198.51.100.7"
	virtual4         = "10.96.0.10" // a service address that no interface has
	proxyUID, proxyG = 1337, 1337
	proxyMark        = 0x539
	group            = 4242
)

// A probe is one connection or query and where it must arrive. want is the name of the
// listener (out, in, health and dns are the proxy's, app is the application, web is
// outside, own another port of the proxy) and the destination it recovered.
type probe struct {
	from     string // "app", "group" (of the app), "proxy", "outside", and the proxy's dials to the application: "passthrough", "spoofing"
	to, want string
}

type ruleCase struct {
	name, intent string
	config       func(*capture.Config)
	probes       []probe
}

var ruleCases = []ruleCase{
	{
		name:   "laptop",
		intent: "The proxy lives outside the namespace: everything the application sends is captured, nobody is exempt.",
		config: func(c *capture.Config) { c.IPv6 = true },
		probes: []probe{
			{"app", "tcp " + web4 + ":80", "out " + web4 + ":80"},
			{"app", "tcp " + virtual4 + ":9080", "out " + virtual4 + ":9080"},
			{"app", "tcp [" + web6 + "]:80", "out [" + web6 + "]:80"},
			{"app", "tcp 127.0.0.1:9080", "app 127.0.0.1:9080"},
			{"app", "tcp [::1]:9080", "app [::1]:9080"},
			{"app", "tcp " + pod4 + ":9080", "app " + pod4 + ":9080"},
			{"app", "udp " + web4 + ":53", "dns"},
			{"app", "udp 127.0.0.53:53", "dns"},
			{"app", "udp [" + web6 + "]:53", "dns"},
			{"app", "tcp " + virtual4 + ":53", "dns " + virtual4 + ":53"},
			{"passthrough", "tcp " + pod4 + ":9080", "app " + pod4 + ":9080"},
			{"passthrough", "tcp 127.0.0.1:9080", "app 127.0.0.1:9080"},
			{"passthrough", "tcp [" + pod6 + "]:9080", "app [" + pod6 + "]:9080"},
			{"passthrough", "tcp " + pod4 + ":53", "app " + pod4 + ":53"},
			{"outside", "tcp " + pod4 + ":9080", "in " + pod4 + ":9080"},
			{"outside", "tcp [" + pod6 + "]:9080", "in [" + pod6 + "]:9080"},
			{"outside", "tcp " + pod4 + ":15021", "health " + pod4 + ":15021"},
			{"outside", "tcp " + pod4 + ":15001", "in " + pod4 + ":15001"},
			{"outside", "tcp " + pod4 + ":15006", "in " + pod4 + ":15006"},
		},
	},
	{
		name:   "laptop-ipv4",
		intent: "A pod without IPv6 addresses: the rules still let no IPv6 connection past.",
		config: func(*capture.Config) {},
		probes: []probe{
			{"app", "tcp " + web4 + ":443", "out " + web4 + ":443"},
			{"app", "tcp [" + web6 + "]:443", "out [" + web6 + "]:443"},
			{"outside", "tcp " + pod4 + ":9090", "in " + pod4 + ":9090"},
		},
	},
	{
		name:   "sidecar",
		intent: "The proxy is in the pod as user 1337: it is exempt, and its calls to its own pod come in again.",
		config: func(c *capture.Config) {
			c.IPv6 = true
			c.Exempt = capture.Exempt{UIDs: []uint32{proxyUID}, GIDs: []uint32{proxyG}}
		},
		probes: []probe{
			{"app", "tcp " + web4 + ":80", "out " + web4 + ":80"},
			{"app", "tcp [" + web6 + "]:80", "out [" + web6 + "]:80"},
			{"app", "tcp " + pod4 + ":9080", "app " + pod4 + ":9080"},
			{"app", "udp " + web4 + ":53", "dns"},
			{"proxy", "tcp " + web4 + ":80", "web " + web4 + ":80"},
			{"proxy", "tcp [" + web6 + "]:80", "web [" + web6 + "]:80"},
			{"proxy", "udp " + web4 + ":53", "web"},
			{"proxy", "tcp " + pod4 + ":9080", "in " + pod4 + ":9080"},
			{"proxy", "tcp [" + pod6 + "]:9080", "in [" + pod6 + "]:9080"},
			{"proxy", "tcp 127.0.0.1:9080", "app 127.0.0.1:9080"},
			{"passthrough", "tcp " + pod4 + ":9080", "app " + pod4 + ":9080"},
			{"passthrough", "tcp [" + pod6 + "]:9080", "app [" + pod6 + "]:9080"},
			{"outside", "tcp " + pod4 + ":9080", "in " + pod4 + ":9080"},
		},
	},
	{
		name:   "sidecar-mark",
		intent: "The proxy is in the namespace and cannot change its user: its sockets carry a mark.",
		config: func(c *capture.Config) { c.Exempt.Mark = proxyMark },
		probes: []probe{
			{"app", "tcp " + web4 + ":80", "out " + web4 + ":80"},
			{"proxy", "tcp " + web4 + ":80", "web " + web4 + ":80"},
			{"proxy", "udp " + web4 + ":53", "web"},
			{"proxy", "tcp " + pod4 + ":9080", "in " + pod4 + ":9080"},
		},
	},
	{
		name:   "selective",
		intent: "Only some destinations and ports are captured; exclusions win.",
		config: func(c *capture.Config) {
			c.IPv6 = true
			c.Exempt.Mark = proxyMark
			c.Outbound = capture.Outbound{
				CIDRs:        []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24"), netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2001:db8::/32")},
				Ports:        []uint16{5432, 443, 443},
				ExcludeCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.1/32"), netip.MustParsePrefix(other4 + "/32")},
				ExcludePorts: []uint16{8443},
			}
			c.Inbound = capture.Inbound{Ports: []uint16{9090, 9080}, ExcludePorts: []uint16{9090}}
		},
		probes: []probe{
			{"app", "tcp " + web4 + ":80", "out " + web4 + ":80"},
			{"app", "tcp [" + web6 + "]:80", "out [" + web6 + "]:80"},
			{"app", "tcp " + web4 + ":8443", "web " + web4 + ":8443"},
			{"app", "tcp [fd01::1]:80", "web [fd01::1]:80"},
			{"app", "tcp [fd01::1]:443", "out [fd01::1]:443"},
			{"app", "tcp " + other4 + ":443", "web " + other4 + ":443"},
			{"app", "tcp " + virtual4 + ":80", "out " + virtual4 + ":80"},
			{"outside", "tcp " + pod4 + ":9080", "in " + pod4 + ":9080"},
			{"outside", "tcp " + pod4 + ":9090", "app " + pod4 + ":9090"},
			{"outside", "tcp " + pod4 + ":7070", "app " + pod4 + ":7070"},
		},
	},
	{
		name:   "outbound-only",
		intent: "Inbound connections and DNS are left alone.",
		config: func(c *capture.Config) {
			c.DNSPort = 0
			c.Inbound = capture.Inbound{}
		},
		probes: []probe{
			{"app", "tcp " + web4 + ":80", "out " + web4 + ":80"},
			{"app", "tcp " + web4 + ":53", "out " + web4 + ":53"},
			{"app", "udp " + web4 + ":53", "web"},
			{"outside", "tcp " + pod4 + ":9080", "app " + pod4 + ":9080"},
		},
	},
	{
		name:   "own-dns",
		intent: "Port 53 excluded: DNS goes where the application sends it.",
		config: func(c *capture.Config) { c.Outbound.ExcludePorts = []uint16{53} },
		probes: []probe{
			{"app", "udp " + web4 + ":53", "web"},
			{"app", "tcp " + web4 + ":53", "web " + web4 + ":53"},
			{"app", "tcp " + web4 + ":80", "out " + web4 + ":80"},
		},
	},
	{
		name:   "tproxy",
		intent: "Inbound connections keep their client's address, all the way to the application.",
		config: func(c *capture.Config) {
			c.IPv6 = true
			c.Mode = capture.TProxy
			c.Exempt.Mark = proxyMark
		},
		probes: []probe{
			{"app", "tcp " + web4 + ":80", "out " + web4 + ":80"},
			{"app", "tcp [" + web6 + "]:80", "out [" + web6 + "]:80"},
			{"app", "udp " + web4 + ":53", "dns"},
			{"proxy", "tcp " + web4 + ":80", "web " + web4 + ":80"},
			{"proxy", "tcp " + pod4 + ":9080", "in " + pod4 + ":9080"},
			{"passthrough", "tcp " + pod4 + ":9080", "app " + pod4 + ":9080"},
			{"outside", "tcp " + pod4 + ":9080", "in " + pod4 + ":9080"},
			{"outside", "tcp [" + pod6 + "]:9080", "in [" + pod6 + "]:9080"},
			{"outside", "tcp " + pod4 + ":15021", "health " + pod4 + ":15021"},
			{"spoofing", "tcp " + pod4 + ":9080", "app " + pod4 + ":9080 from " + outside4},
			{"spoofing", "tcp [" + pod6 + "]:9080", "app [" + pod6 + "]:9080 from [" + outside6 + "]"},
		},
	},
	{
		name:   "pod",
		intent: "A pod as weir-proxy init makes it: proxy by user, cluster's DNS servers only, its own ports open, a way to verify.",
		config: func(c *capture.Config) {
			c.Exempt = capture.Exempt{UIDs: []uint32{proxyUID}, GIDs: []uint32{proxyG}}
			c.DNSServers = []netip.Addr{netip.MustParseAddr(web4), netip.MustParseAddr(web6), netip.MustParseAddr(web4)}
			c.Inbound.ExcludePorts = []uint16{15020, 15090}
			c.ProbePort = 15002
			c.DropInvalid = true
		},
		probes: []probe{
			{"app", "udp " + web4 + ":53", "dns"},
			{"app", "udp [" + web6 + "]:53", "dns"},
			{"app", "tcp " + web4 + ":53", "dns " + web4 + ":53"},
			{"app", "udp " + other4 + ":53", "web"},
			{"app", "tcp " + other4 + ":53", "out " + other4 + ":53"},
			{"app", "tcp 127.0.0.6:15002", "in 127.0.0.6:15002"},
			{"proxy", "tcp 127.0.0.6:15002", "in 127.0.0.6:15002"},
			{"proxy", "tcp " + web4 + ":80", "web " + web4 + ":80"},
			{"passthrough", "tcp " + pod4 + ":9080", "app " + pod4 + ":9080"},
			{"outside", "tcp " + pod4 + ":9080", "in " + pod4 + ":9080"},
			{"outside", "tcp " + pod4 + ":15020", "own " + pod4 + ":15020"},
		},
	},
	{
		name:   "interfaces",
		intent: "An interface is left alone in both directions.",
		config: func(c *capture.Config) {
			c.ExcludeInterfaces = []string{"net1", "eth0", "eth0"}
		},
		probes: []probe{
			{"app", "tcp " + web4 + ":80", "web " + web4 + ":80"},
			{"app", "udp " + web4 + ":53", "web"},
			{"outside", "tcp " + pod4 + ":9080", "app " + pod4 + ":9080"},
		},
	},
	{
		name:   "interfaces-tproxy",
		intent: "The same under TPROXY.",
		config: func(c *capture.Config) {
			c.Mode = capture.TProxy
			c.ExcludeInterfaces = []string{"eth0"}
		},
		probes: []probe{
			{"app", "tcp " + web4 + ":80", "web " + web4 + ":80"},
			{"outside", "tcp " + pod4 + ":9080", "app " + pod4 + ":9080"},
		},
	},
	{
		name:   "virtual-machine",
		intent: "What a virtual machine behind an interface sends is outbound, with the exceptions of outbound.",
		config: func(c *capture.Config) {
			c.VirtualInterfaces = []string{"eth0"}
			c.Outbound.ExcludePorts = []uint16{9090}
			c.Outbound.ExcludeCIDRs = []netip.Prefix{netip.MustParsePrefix("fd01::/64")}
		},
		probes: []probe{
			{"outside", "tcp " + pod4 + ":7070", "out " + pod4 + ":7070"},
			{"outside", "tcp " + pod4 + ":15006", "out " + pod4 + ":15006"},
			{"outside", "tcp " + pod4 + ":9090", "app " + pod4 + ":9090"},
			{"outside", "tcp [" + pod6 + "]:9080", "app [" + pod6 + "]:9080"},
			{"app", "tcp " + web4 + ":80", "out " + web4 + ":80"},
		},
	},
	{
		name:   "virtual-machine-tproxy",
		intent: "The same under TPROXY, for some destinations.",
		config: func(c *capture.Config) {
			c.Mode = capture.TProxy
			c.VirtualInterfaces = []string{"eth0"}
			c.Outbound = capture.Outbound{CIDRs: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, Ports: []uint16{7070}}
		},
		probes: []probe{
			{"outside", "tcp " + pod4 + ":9080", "out " + pod4 + ":9080"},
			{"outside", "tcp [" + pod6 + "]:7070", "out [" + pod6 + "]:7070"},
			{"outside", "tcp [" + pod6 + "]:9080", "app [" + pod6 + "]:9080"},
		},
	},
	{
		name:   "without-groups",
		intent: "What processes of two groups send is left alone.",
		config: func(c *capture.Config) { c.Outbound.ExcludeGIDs = []uint32{group, 5000} },
		probes: []probe{
			{"app", "tcp " + web4 + ":80", "out " + web4 + ":80"},
			{"group", "tcp " + web4 + ":80", "web " + web4 + ":80"},
			{"group", "udp " + web4 + ":53", "web"},
		},
	},
	{
		name:   "only-groups",
		intent: "Only what processes of two groups send is captured.",
		config: func(c *capture.Config) { c.Outbound.GIDs = []uint32{5000, group} },
		probes: []probe{
			{"app", "tcp " + web4 + ":80", "web " + web4 + ":80"},
			{"group", "tcp " + web4 + ":80", "out " + web4 + ":80"},
			{"group", "udp " + web4 + ":53", "dns"},
		},
	},
	{
		name:   "tproxy-pod",
		intent: "TPROXY beside a proxy known by its user, with a mark and a route table of the operator's.",
		config: func(c *capture.Config) {
			c.Mode, c.TProxyMark, c.RouteTable, c.ProbePort = capture.TProxy, 1400, 134, 15002
			c.Exempt.UIDs = []uint32{proxyUID}
		},
		probes: []probe{
			{"outside", "tcp " + pod4 + ":9080", "in " + pod4 + ":9080"},
			{"spoofing", "tcp " + pod4 + ":9080", "app " + pod4 + ":9080 from " + outside4},
			{"proxy", "tcp " + web4 + ":80", "web " + web4 + ":80"},
			{"app", "tcp 127.0.0.6:15002", "in 127.0.0.6:15002"},
		},
	},
	{
		name:   "nothing",
		intent: "Nothing is captured; that the rules are there can still be verified.",
		config: func(c *capture.Config) {
			c.Inbound, c.Outbound, c.DNSPort, c.ProbePort = capture.Inbound{}, capture.Outbound{}, 0, 15002
		},
		probes: []probe{
			{"app", "tcp " + web4 + ":80", "web " + web4 + ":80"},
			{"app", "tcp 127.0.0.6:15002", "in 127.0.0.6:15002"},
			{"outside", "tcp " + pod4 + ":9080", "app " + pod4 + ":9080"},
		},
	},
	{
		name:   "tproxy-ports",
		intent: "TPROXY for one port; the others reach the application.",
		config: func(c *capture.Config) {
			c.Mode = capture.TProxy
			c.Inbound = capture.Inbound{Ports: []uint16{9080}}
		},
		probes: []probe{
			{"outside", "tcp " + pod4 + ":9080", "in " + pod4 + ":9080"},
			{"outside", "tcp " + pod4 + ":9090", "app " + pod4 + ":9090"},
			{"app", "tcp " + web4 + ":80", "out " + web4 + ":80"},
		},
	},
}

func (c ruleCase) rules(t *testing.T) capture.Ruleset {
	t.Helper()
	cfg := capture.Default()
	c.config(&cfg)
	r, err := capture.Rules(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestRules(t *testing.T) {
	for _, c := range ruleCases {
		t.Run(c.name, func(t *testing.T) {
			got := "# " + c.intent + "\n" + c.rules(t).String()
			file := filepath.Join("testdata", c.name+".nft")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

func TestValidateNamesEveryFault(t *testing.T) {
	for _, c := range []struct {
		name   string
		config func(*capture.Config)
		want   []string
	}{
		{"no outbound port", func(c *capture.Config) { c.OutboundPort = 0 }, []string{"outbound port: set"}},
		{"unneeded port", func(c *capture.Config) { c.InboundPort, c.Inbound = 0, capture.Inbound{} }, nil},
		{"one port twice", func(c *capture.Config) { c.InboundPort, c.DNSPort = 15001, 15001 },
			[]string{"inbound port 15001: already the outbound port", "DNS port 15001: already the outbound port"}},
		{"mode", func(c *capture.Config) { c.Mode = 9 }, []string{"mode 9: use REDIRECT or TPROXY"}},
		{"prefixes", func(c *capture.Config) {
			c.Outbound.CIDRs = []netip.Prefix{{}}
			c.Outbound.ExcludeCIDRs = []netip.Prefix{netip.MustParsePrefix("::ffff:10.0.0.0/104")}
		}, []string{"outbound CIDRs: invalid Prefix", "excluded outbound CIDRs: ::ffff:10.0.0.0/104"}},
		{"port 0", func(c *capture.Config) { c.Inbound.ExcludePorts = []uint16{0} }, []string{"excluded inbound ports: 0 is not a port"}},
		{"mark in use", func(c *capture.Config) { c.Mode, c.Exempt.Mark = capture.TProxy, capture.DialMark }, []string{"exempt mark 0x53b"}},
		{"the same as TPROXY's", func(c *capture.Config) { c.Mode, c.TProxyMark, c.Exempt.Mark = capture.TProxy, 7, 7 }, []string{"exempt mark 0x7"}},
		{"the proxy's mark", func(c *capture.Config) { c.TProxyMark = capture.DialMark }, []string{"TPROXY mark 0x53b"}},
		{"a table of the kernel's", func(c *capture.Config) { c.RouteTable = 254 }, []string{"route table 254"}},
		{"a probe that leads nowhere", func(c *capture.Config) { c.InboundPort, c.Inbound, c.ProbePort = 0, capture.Inbound{}, 15002 }, []string{"probe port 15002"}},
		{"a DNS server", func(c *capture.Config) { c.DNSServers = []netip.Addr{{}} }, []string{"DNS server invalid IP"}},
		{"interfaces", func(c *capture.Config) {
			c.ExcludeInterfaces, c.VirtualInterfaces = []string{"eth*"}, []string{"a-name-too-long-"}
		}, []string{`interface "eth*"`, `interface "a-name-too-long-"`}},
		{"the same mark without TPROXY", func(c *capture.Config) { c.Exempt.Mark = capture.DialMark }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := capture.Default()
			c.config(&cfg)
			_, err := capture.Rules(cfg)
			if (err == nil) != (len(c.want) == 0) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not say %q", err, w)
				}
			}
		})
	}
}
