package up

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/weirmesh/weir/config/source/file"
	"github.com/weirmesh/weir/local/demo"
	"github.com/weirmesh/weir/local/process"
)

// optionalGRPC is Istio's port for xDS. Local proxies use a Unix socket: if somebody else
// has it, nobody but remote proxies is missed, and the control plane goes on without it.
const optionalGRPC = "127.0.0.1:15012"

// addresses checks that what is to be listened on is free, so that the sentence about
// it comes first and names the flag.
func (t *top) addresses(ctx context.Context) error {
	for _, a := range []struct {
		addr       netip.AddrPort
		what, flag string
	}{{t.o.HTTP, "the control plane's API", "--http"}, {t.o.Ingress, "the ingress gateway", "--ingress"}} {
		err := freed(ctx, a.addr.String())
		switch {
		case errors.Is(err, syscall.EADDRINUSE):
			return &Error{fmt.Sprintf("%s, for %s, is taken by another program", a.addr, a.what), fmt.Sprintf("end that program, or choose another address: weir up %s %s", a.flag, netip.AddrPortFrom(a.addr.Addr(), a.addr.Port()+1000))}
		case errors.Is(err, syscall.EACCES):
			return &Error{fmt.Sprintf("%s, for %s, needs more privileges", a.addr, a.what), fmt.Sprintf("choose a port above 1023 with %s", a.flag)}
		case err != nil:
			return &Error{fmt.Sprintf("%s, for %s, cannot be listened on: %v", a.addr, a.what, err), "choose another address with " + a.flag}
		}
	}
	if t.o.HTTP == t.o.Ingress {
		return &Error{fmt.Sprintf("--http and --ingress are both %s", t.o.HTTP), "give each its own address"}
	}
	return nil
}

// reached is where this machine's programs reach what listens on an address: one that
// stands for all addresses is no address to call.
func reached(a netip.AddrPort) netip.AddrPort {
	switch a.Addr() {
	case netip.IPv4Unspecified():
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), a.Port())
	case netip.IPv6Unspecified():
		return netip.AddrPortFrom(netip.IPv6Loopback(), a.Port())
	}
	return a
}

// leaving is how long an address may still be held by processes of a mesh that was killed: the kernel closes their
// sockets a moment after they are gone.
const leaving = time.Second

// freed is free, once those who are leaving have left.
func freed(ctx context.Context, addr string) error {
	for until := time.Now().Add(leaving); ; {
		err := free(addr)
		if !errors.Is(err, syscall.EADDRINUSE) || time.Now().After(until) {
			return err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}

func free(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	return l.Close()
}

// maxStdin is what the file source takes of a file.
const maxStdin = 64 << 20

// cleanUp ends what a mesh that was killed could not end, and waits for it: it may still
// hold the addresses.
func (t *top) cleanUp(context.Context) error {
	if n := process.CleanUp(t.layout.Processes()); n > 0 {
		t.progress("ended %d of an earlier mesh's programs, which were left behind", n)
	}
	if err := os.RemoveAll(t.layout.Run()); err != nil {
		return fmt.Errorf("cleaning the run folder: %w", err)
	}
	return nil
}

// files fills run/ with what is ours.
func (t *top) files(context.Context) error {
	for _, dir := range []string{t.layout.Run(), t.layout.Pods(), t.layout.Config(), t.layout.Fallback(), t.layout.Applied()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("making the run folder: %w", err)
		}
	}
	t.starter = process.NewStarter(t.layout.Processes())
	for _, p := range t.o.Paths {
		if p == "-" {
			continue
		}
		t.paths, t.watched = append(t.paths, p), append(t.watched, p)
	}
	// The error names what does not exist; what is wrong inside is told by the mesh.
	if _, err := file.New(file.Options{Paths: t.paths}).Read(); err != nil {
		return &Error{err.Error(), "-f takes files and folders"}
	}
	if t.o.Demo != "" {
		data, ok := demo.YAML(t.o.Demo)
		if !ok {
			return &Error{fmt.Sprintf("there is no demo %q", t.o.Demo), "there are: " + strings.Join(demo.Names(), ", ")}
		}
		if err := t.ownFile(t.layout.Fallback(), "demo-"+t.o.Demo, data); err != nil {
			return err
		}
	}
	for _, p := range t.o.Paths {
		if p != "-" {
			continue
		}
		data, err := io.ReadAll(io.LimitReader(t.o.Stdin, maxStdin))
		if err != nil {
			return fmt.Errorf("reading standard input: %w", err)
		}
		if err := t.ownFile(t.layout.Config(), "stdin", data); err != nil {
			return err
		}
		break
	}
	if err := t.ownFile(t.layout.Fallback(), "ingress-gateway", []byte(gatewayYAML)); err != nil {
		return err
	}
	t.paths = append(t.paths, t.layout.Config())
	return nil
}

func (t *top) ownFile(dir, name string, data []byte) error {
	if err := os.WriteFile(filepath.Join(dir, name+".yaml"), data, 0o600); err != nil {
		return fmt.Errorf("writing configuration of our own: %w", err)
	}
	return nil
}

// resolvers are the host's, for names outside the mesh.
func resolvers(path string) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	var out []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil && a.Zone() == "" {
			out = append(out, netip.AddrPortFrom(a, 53).String())
		}
	}
	return out
}
