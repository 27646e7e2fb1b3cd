// Package sandbox makes the places that pods run in, in two ways: with a network
// namespace and capture rules each (Namespaces), or with loopback addresses and the
// programs' cooperation (Loopback).
//
// Pod specifications enter, pod.Places leave: they start the pod's weir-proxy with the
// flags that docs/design/local.md fixes, and its programs. Both kinds are safe for
// concurrent use.
package sandbox

import (
	"context"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/weirmesh/weir/ca/token"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/internal/healthz"
	"github.com/weirmesh/weir/local/pod"
)

// Proxies is what the proxies of a mesh have in common.
type Proxies struct {
	Program     string // weir-proxy
	Layout      Layout
	TrustDomain string
	Tokens      *token.Key
	Environ     []string
	// Listen maps where a gateway listens to where it does on this machine. A port of 0
	// stands for all others.
	Listen []Listen
}

// Listen is one mapping of a gateway's listeners.
type Listen struct{ From, To netip.AddrPort }

// tokenLife is longer than any mesh on a laptop runs without a pause. The token is handed
// over once; whoever could misuse an old one can read the key it is made with.
const tokenLife = 365 * 24 * time.Hour

// Descriptors that a proxy inherits.
const (
	tokenFD = 3 + iota
	appFD
	hostFD
)

// args are the flags that every proxy gets.
func (m *Proxies) args(s pod.Spec, ip netip.Addr) []string {
	t := s.Template
	kind := "sidecar"
	if t.Gateway {
		kind = "gateway"
	}
	var labels []string
	for _, k := range slices.Sorted(maps.Keys(t.Labels)) {
		labels = append(labels, k+"="+t.Labels[k])
	}
	args := []string{
		m.Program, kind, "--name", s.Name, "--namespace", t.Namespace, "--service-account", t.ServiceAccount, "--ip", ip.String(),
		"--xds", "unix://" + m.Layout.XDS(), "--ca-root", m.Layout.Root(), "--token-fd", strconv.Itoa(tokenFD),
		"--state", m.Layout.ProxyState(t.Namespace, s.Name), "--admin", "unix://" + m.Layout.Admin(t.Namespace, s.Name), "--trust-domain", m.TrustDomain,
	}
	if len(labels) > 0 {
		args = append(args, "--labels", strings.Join(labels, ","))
	}
	if t.Owner != "" {
		args = append(args, "--owner", t.Owner)
	}
	if t.Gateway && len(m.Listen) > 0 {
		var pairs []string
		for _, l := range m.Listen {
			pairs = append(pairs, listenAddress(l.From)+"="+listenAddress(l.To))
		}
		args = append(args, "--listen-map", strings.Join(pairs, ","))
	}
	return args
}

func listenAddress(a netip.AddrPort) string {
	if a.Port() == 0 {
		return a.Addr().String()
	}
	return a.String()
}

// token returns a pipe that holds the token by which the proxy of s first proves who it is.
func (m *Proxies) token(s pod.Spec) (*os.File, error) {
	id, err := identity.New(m.TrustDomain, s.Template.Namespace, s.Template.ServiceAccount)
	if err != nil {
		return nil, err
	}
	t, err := m.Tokens.Mint(token.Claims{ID: id, Workload: s.Name, Audience: token.Audience, Expires: time.Now().Add(tokenLife)})
	if err != nil {
		return nil, err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer write.Close()
	if _, err := io.WriteString(write, t.Reveal()); err != nil { // fits a pipe's buffer: it does not wait
		read.Close()
		return nil, err
	}
	return read, nil
}

// folders makes what the proxy writes into.
func (m *Proxies) folders(s pod.Spec) error {
	for _, dir := range []string{m.Layout.ProxyState(s.Template.Namespace, s.Name), m.Layout.adminDir(s.Template.Namespace, s.Name)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return nil
}

// admin is a proxy's admin interface, on a Unix socket.
type admin struct{ transport *http.Transport }

func newAdmin(path string) admin {
	return admin{&http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		},
		IdleConnTimeout: 30 * time.Second,
	}}
}

// ProxyReady asks /healthz/ready.
func (a admin) ProxyReady(ctx context.Context) error {
	return healthz.Get(ctx, a.transport, "http://proxy/healthz/ready")
}

func (a admin) close() { a.transport.CloseIdleConnections() }
