// Package upsock is the local API of a running `weir up`, on a Unix socket in the state
// folder: programs beside a workload (exec), programs as workloads (run), logs, and the
// list of workloads. docs/design/local.md has the protocol.
//
// The command line calls Exec, Run, Logs and List with the socket's path. `weir up` opens
// the socket with Listen, which asks the kernel who calls, and answers each connection
// with Server.Serve, possibly in another process. Peers are the same user's programs:
// what they send is bounded, and a connection that says nonsense is closed.
package upsock

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/weirmesh/weir/local/pod"
)

const (
	// maxRequest holds arguments and environment, which the kernel limits to 2 MiB
	// together (execve(2)), in JSON.
	maxRequest = 4 << 20
	maxFiles   = 3
)

// request is the first line of a connection.
type request struct {
	Do             string            `json:"do"`
	Workload       string            `json:"workload,omitempty"`
	Namespace      string            `json:"namespace,omitempty"`
	Container      string            `json:"container,omitempty"`
	As             string            `json:"as,omitempty"` // run: namespace/name
	Argv           []string          `json:"argv,omitempty"`
	Env            []string          `json:"env,omitempty"`
	Environ        []string          `json:"environ,omitempty"` // run
	Dir            string            `json:"dir,omitempty"`
	TTY            bool              `json:"tty,omitempty"`
	Ports          map[string]uint16 `json:"ports,omitempty"`
	Labels         map[string]string `json:"labels,omitempty"`
	ServiceAccount string            `json:"serviceAccount,omitempty"`
	Proxy          bool              `json:"proxy,omitempty"`
	Follow         bool              `json:"follow,omitempty"`
	Tail           int               `json:"tail,omitempty"`
}

// note is a further line of the client.
type note struct {
	Signal string `json:"signal"`
}

// reply is a line of the server.
type reply struct {
	Exit      *int       `json:"exit,omitempty"` // the last line
	Error     string     `json:"error,omitempty"`
	Hint      string     `json:"hint,omitempty"`
	Workload  string     `json:"workload,omitempty"`
	Message   string     `json:"message,omitempty"`
	Workloads []pod.Info `json:"workloads,omitzero"`
}

// signals may be sent to a running program.
var signals = map[string]syscall.Signal{
	"HUP": syscall.SIGHUP, "INT": syscall.SIGINT, "QUIT": syscall.SIGQUIT, "TERM": syscall.SIGTERM,
	"USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2, "WINCH": syscall.SIGWINCH,
}

// ends are those that end a program which does nothing about them, and a workload whose
// program is not started yet.
var ends = []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM}

// send writes v as a line, with files beside its first byte.
func send(c *net.UnixConn, v any, files ...*os.File) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		if _, _, err := c.WriteMsgUnix(b[:1], syscall.UnixRights(fds...), nil); err != nil {
			return err
		}
		b = b[1:]
	}
	_, err = c.Write(b)
	return err
}

// receive reads the first line with what came beside it, and returns a reader of the rest.
func receive(c *net.UnixConn, v any) (files []*os.File, lines *bufio.Reader, err error) {
	defer func() {
		if err != nil {
			closeAll(files)
		}
	}()
	first, oob := make([]byte, 4096), make([]byte, syscall.CmsgSpace(4*maxFiles))
	n, oobn, flags, _, err := c.ReadMsgUnix(first, oob)
	if err != nil {
		return nil, nil, err
	}
	messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, nil, err
	}
	for _, m := range messages {
		fds, err := syscall.ParseUnixRights(&m)
		if err != nil {
			return files, nil, err
		}
		for _, fd := range fds {
			syscall.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	if flags&syscall.MSG_CTRUNC != 0 {
		return files, nil, fmt.Errorf("more than %d descriptors", maxFiles)
	}
	lines = bufio.NewReader(io.MultiReader(bytes.NewReader(first[:n]), c))
	line, err := readLine(lines, maxRequest)
	if err != nil {
		return files, nil, err
	}
	return files, lines, json.Unmarshal(line, v)
}

var errLong = errors.New("line too long")

func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var out []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(out)+len(part) > limit {
			return nil, errLong
		}
		out = append(out, part...)
		switch {
		case err == nil:
			return out, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		}
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}
