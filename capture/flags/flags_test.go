package flags_test

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/weirmesh/weir/capture"
	"github.com/weirmesh/weir/capture/flags"
)

// Only commit changed goldens if you understand what caused them and if they are desired.
var update = flag.Bool("update", false, "rewrite testdata")

// pod is a pod with two resolvers.
func pod(env map[string]string) flags.Place {
	return flags.Place{
		Env: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
		Resolvers: func() ([]netip.Addr, error) {
			return []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00::10")}, nil
		},
		User: func(name string) (uint32, error) {
			if name == "istio-proxy" {
				return 1338, nil
			}
			return 0, errors.New("unknown user " + name)
		},
	}
}

// What the flags of each age of Istio make, as rules and as sentences.
func TestRules(t *testing.T) {
	for _, c := range []struct {
		name, intent string
		args         []string
		env          map[string]string
	}{
		{"istio-1.0", "The init container of 2018: one port, everything captured; inbound goes to 15006.",
			[]string{"-p", "15001", "-u", "1337", "-m", "REDIRECT", "-i", "*", "-b", "*", "-d", ""}, nil},
		{"istio-1.31", "An injected init container of today.",
			strings.Fields("istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i * -x= -b * -d 15090,15021,15020 --log_output_level=default:info"), nil},
		{"ports-and-ranges", "Some ports and destinations, with exceptions.",
			strings.Fields("--istio-service-cidr=10.0.0.0/8,2001:db8::/32 -x 10.96.0.1,10.96.1.0/24 -q 443,5432 -o 25 -b 80,8080 -d 80 --proxy-uid 1337,0 --proxy-gid 1338"), nil},
		{"tproxy", "Clients' addresses are kept, with a mark and a table of one's own.",
			strings.Fields("-m TPROXY -i * -b * -t 1400 -r 134 --dual-stack"), nil},
		{"dns", "DNS queries to the pod's resolvers.", strings.Fields("-i * -b * --redirect-dns --drop-invalid"), nil},
		{"all-dns", "DNS queries to any server.", strings.Fields("-i * -b * --redirect-dns=true --capture-all-dns"), nil},
		{"interfaces", "A second network is left alone, a virtual machine's packets are outbound.", strings.Fields("-i * -b * -c net1,net2 -k tap0"), nil},
		{"environment", "Nothing but environment variables; a flag wins.", []string{"-z", "15106"}, map[string]string{
			"ENVOY_PORT": "15101", "INBOUND_CAPTURE_PORT": "1", "ISTIO_INBOUND_INTERCEPTION_MODE": "REDIRECT", "ISTIO_SERVICE_CIDR": "*",
			"ISTIO_SERVICE_EXCLUDE_CIDR": "10.1.0.0/16", "ISTIO_INBOUND_PORTS": "*", "ISTIO_LOCAL_EXCLUDE_PORTS": "22", "ENVOY_USER": "istio-proxy",
			"ISTIO_META_DNS_CAPTURE": "true", "INVALID_DROP": "true", "ISTIO_DUAL_STACK": "true", "ISTIO_OUTBOUND_OWNER_GROUPS": "202,203",
			"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": "204", "IPTABLES_PROBE_PORT": "15102"}},
		{"nothing", "No flag at all captures nothing, and says so.", nil, nil},
		{"none", "The mode NONE captures nothing.", strings.Fields("-m NONE -i * -b * --redirect-dns"), nil},
		{"meaningless", "What means nothing here is said, and not because it is false or empty.",
			strings.Fields("-b * -i * -e 15008 --cni-mode --host-nsenter-exec --reconcile --force-apply --native-nftables --force-iptables-binary legacy --iptables-trace-logging --capture-all-dns -f"),
			map[string]string{"RECONCILE": "false", "OUTPUT_PATHS": "", "IPTABLES_VERSION": "nft"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			o, err := flags.Parse(c.args, pod(c.env))
			if err != nil {
				t.Fatal(err)
			}
			rules, err := capture.Rules(o.Config)
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			fmt.Fprintf(&b, "# %s\n", c.intent)
			for _, n := range o.Notes {
				fmt.Fprintf(&b, "# note: %s\n", n)
			}
			b.WriteString(rules.String())
			file := filepath.Join("testdata", c.name+".nft")
			if *update {
				if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), b.String()); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

// The init container of the fixtures is the first case above.
func TestFixture(t *testing.T) {
	data, err := os.ReadFile("../../../shared/fixtures/init-container.yaml")
	if err != nil {
		t.Skip("the fixtures are not beside this repository:", err)
	}
	var f struct{ InitContainers []struct{ Args []string } }
	if err := yaml.Unmarshal(data, &f); err != nil || len(f.InitContainers) != 1 {
		t.Fatal(len(f.InitContainers), err)
	}
	o, err := flags.Parse(f.InitContainers[0].Args, pod(nil))
	if err != nil || len(o.Notes) > 0 {
		t.Fatal(o, err)
	}
	rules, err := capture.Rules(o.Config)
	if err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile("testdata/istio-1.0.nft")
	if err != nil || !strings.HasSuffix(string(want), rules.String()) {
		t.Errorf("%v\n%s", err, rules)
	}
}

func TestRefuses(t *testing.T) {
	for _, c := range []struct {
		args string
		env  map[string]string
		want string
	}{
		{"--no-such-flag", nil, "no-such-flag"},
		{"now", nil, `unexpected argument "now"`},
		{"-p 0", nil, `"0" is not a port`},
		{"-p http", nil, `"http" is not a port`},
		{"-z 15001", nil, "inbound port 15001: already the outbound port"},
		{"-b 80,x", nil, `"x" is not a port`},
		{"-b *,80", nil, `"*" is not a port`},
		{"-i 10.0.0.0/33", nil, "neither an address nor a network"},
		{"-i *,10.0.0.0/8", nil, "* alone"},
		{"-u istio-proxy", nil, `"istio-proxy" is not a number`},
		{"-m SNAT", nil, "use REDIRECT, TPROXY or NONE"},
		{"-c eth*", nil, `interface "eth*"`},
		{"-r 300", nil, "300"},
		{"-t 1339 -m TPROXY", nil, "TPROXY mark 0x53b"},
		{"--probe-timeout soon", nil, "soon"},
		{"", map[string]string{"ENVOY_PORT": "x"}, `ENVOY_PORT="x"`},
		{"", map[string]string{"ENVOY_USER": "nobody-here"}, "say the number with -u"},
	} {
		_, err := flags.Parse(strings.Fields(c.args), pod(c.env))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %v: %v, want %q", c.args, c.env, err, c.want)
		}
	}
	broken := pod(nil)
	broken.Resolvers = func() ([]netip.Addr, error) { return nil, errors.New("no file") }
	if _, err := flags.Parse([]string{"--redirect-dns"}, broken); err == nil || !strings.Contains(err.Error(), "--capture-all-dns needs no resolvers") {
		t.Errorf("no resolvers: %v", err)
	}
}
