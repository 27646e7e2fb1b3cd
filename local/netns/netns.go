package netns

import (
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/weirmesh/weir/capture"
)

// Options is what Start needs.
type Options struct {
	// Args are the arguments that make this program call RunInit.
	Args []string
	// Stdout and Stderr are those of init. Nil: /dev/null.
	Stdout, Stderr *os.File
	// Files are inherited by init, as Fabric.Files.
	Files []*os.File
	// AllowListen says which of the host's addresses the tree may listen on. Nil: none.
	AllowListen func(netip.AddrPort) bool
	// Grace is how long init has to end after its context did, before it is killed. 0: 2 s.
	Grace time.Duration
}

// InitOptions is what RunInit needs.
type InitOptions struct {
	Network Network
	// User is the user that processes run as when the tree was started by root. Nil: root,
	// without its privileges. An ordinary user's tree always runs as that user.
	User *User
	// Grace is how long processes have to end, once asked to, before they are killed. 0: 1 s.
	Grace time.Duration
	Log   *slog.Logger
}

// User is a user and group of the host.
type User struct{ UID, GID uint32 }

// Network is the address plan of the fabric.
type Network struct {
	// Gateway4 is the bridge's address and the network the pods are in: 10.244.0.1/16.
	Gateway4 netip.Prefix
	// Gateway6 is the same for IPv6; the zero value, or a kernel without IPv6: none.
	Gateway6 netip.Prefix
}

// PodConfig describes a pod.
type PodConfig struct {
	// Name is the pod's host name, at most 64 bytes, and its name in errors.
	Name string
	// IPv4 and IPv6 are its addresses in the fabric's networks. IPv6 may be missing.
	IPv4, IPv6 netip.Addr
	// Hosts and ResolvConf are what its processes find in /etc. /etc/nsswitch.conf is the
	// host's, made to ask these two. A host program that replaces its /etc/resolv.conf (not
	// the one of systemd-resolved or another in /run, which are covered as a folder) uncovers
	// the host's in running pods; queries are captured all the same.
	Hosts, ResolvConf string
	// Rules say what is captured. IPv6 is set from the pod's address. With Exempt.Mark,
	// sockets from the pod's broker carry the mark: the proxy can dial other pods from this
	// pod's address, where a socket of its own would come from the bridge's.
	Rules capture.Config
}

// Command is a process to start.
type Command struct {
	// Argv[0] is a path, or a name looked up in Env's PATH.
	Argv []string
	Env  []string
	Dir  string // "": init's
	// Stdin, Stdout and Stderr are inherited; nil is /dev/null. The caller keeps them.
	Stdin, Stdout, Stderr *os.File
	// Files are inherited as descriptors 3, 4, …
	Files []*os.File
	// TTY says that Stdin is a terminal, which becomes the process's controlling one: a shell
	// in it has job control. See OpenPTY.
	TTY bool
}

// NSSwitch returns nsswitch.conf(5) with host names resolved by /etc/hosts and DNS only:
// other sources (systemd-resolved, mDNS, a cache daemon) would go around the mesh's DNS.
func NSSwitch(conf string) string {
	var b strings.Builder
	for line := range strings.Lines(conf) {
		if name, _, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "hosts" {
			continue
		}
		b.WriteString(line)
	}
	if s := b.String(); s != "" && !strings.HasSuffix(s, "\n") {
		b.WriteByte('\n')
	}
	b.WriteString("hosts: files dns\n")
	return b.String()
}
