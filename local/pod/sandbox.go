// Package pod keeps the pods of a plan running: each is a place with an address, a proxy,
// and the programs of its containers.
//
// Plans enter (Apply), the user's own programs too (Join, Exec); processes, one file per
// pod that says what is really running, and lines for the terminal leave. How a place is
// made (a network namespace, loopback addresses) is the Sandbox's business. A Runtime is
// safe for concurrent use; each pod is driven by one goroutine.
//
// A pod starts its proxy first and its programs when the proxy is ready; it ends in the
// reverse order, after every proxy of the mesh knows that it takes no more requests.
// A changed template replaces pods one by one, never below the wanted number of ready
// ones.
package pod

import (
	"context"
	"io"
	"net"
	"net/netip"
	"os"

	"github.com/weirmesh/weir/local/plan"
	"github.com/weirmesh/weir/local/supervise"
	"github.com/weirmesh/weir/mesh"
)

// Sandbox makes places for pods.
type Sandbox interface {
	Add(context.Context, Spec) (Place, error)
}

// Spec is what a Sandbox must know of a pod.
type Spec struct {
	Name     string
	Template *plan.Template
	// Host finds the service that the pod means by a name, nil if there is none now.
	Host func(name string) *mesh.Service
	// Output takes what the proxy prints.
	Output io.Writer
}

// Place is where one pod runs. Its methods are safe for concurrent use.
type Place interface {
	IP() netip.Addr
	// Annotations of the Pod say how its proxy is reached.
	Annotations() map[string]string
	// ServiceAt is where this pod calls each port of a service, nil if it cannot. It is
	// asked before the proxy is started.
	ServiceAt(*mesh.Service) []netip.AddrPort
	// Variables are what a container's program must know of the place.
	Variables(plan.Container) []string

	StartProxy() (supervise.Process, error)
	// ProxyReady returns nil if the proxy has a certificate and its configuration.
	ProxyReady(context.Context) error

	Start(Command) (supervise.Process, error)
	// Dial connects to what a container's program listens on as the given port.
	Dial(ctx context.Context, port uint16) (net.Conn, error)
	// Listening says where a program listens, for the sentence that it is not the right
	// place; nil if that cannot be found out.
	Listening(pid int) []netip.AddrPort

	// Close ends what still runs there.
	Close()
}

// Command is a program to start in a place.
type Command struct {
	Argv []string
	Env  []string // the whole environment; of two values of one variable the later wins
	Dir  string   // "": where the mesh was started
	// Output takes standard output and error. Stdio, if its first is not nil, is inherited
	// instead: input, output, error. The caller keeps them.
	Output io.Writer
	Stdio  [3]*os.File
	// TTY says that Stdio is a terminal, to become the controlling one.
	TTY bool
}
