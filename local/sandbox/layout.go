package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
)

// Layout is where things are in the state folder (docs/design/local.md), an absolute path.
type Layout string

func (l Layout) in(parts ...string) string {
	return filepath.Join(append([]string{string(l)}, parts...)...)
}

func (l Layout) Lock() string      { return l.in("lock") }
func (l Layout) Token() string     { return l.in("token") }
func (l Layout) CA() string        { return l.in("ca") }
func (l Layout) Root() string      { return l.in("ca", "root-cert.pem") }
func (l Layout) Applied() string   { return l.in("applied") }
func (l Layout) Registry() string  { return l.in("registry") }
func (l Layout) Run() string       { return l.in("run") }
func (l Layout) Up() string        { return l.in("run", "up.sock") }
func (l Layout) XDS() string       { return l.in("run", "xds.sock") }
func (l Layout) Pods() string      { return l.in("run", "pods") }
func (l Layout) Config() string    { return l.in("run", "config") }
func (l Layout) Fallback() string  { return l.in("run", "fallback") }
func (l Layout) Findings() string  { return l.in("run", "findings.json") }
func (l Layout) Processes() string { return l.in("run", "processes") }

// ProxyState is where a proxy keeps its last state.
func (l Layout) ProxyState(namespace, name string) string {
	return l.in("proxies", namespace+"_"+name)
}

// Admin is the socket of a proxy's admin interface.
func (l Layout) Admin(namespace, name string) string {
	return filepath.Join(l.adminDir(namespace, name), "admin.sock")
}

// maxSocket is the longest path of a Unix socket: 108 bytes with the terminating zero on
// Linux (unix(7)), 104 on darwin.
const maxSocket = 103

func (l Layout) adminDir(namespace, name string) string {
	dir := l.in("run", "proxies", namespace+"_"+name)
	if len(dir)+len("/admin.sock") <= maxSocket {
		return dir
	}
	sum := sha256.Sum256([]byte(namespace + "/" + name))
	return l.in("run", "proxies", hex.EncodeToString(sum[:8]))
}

// Check says whether the sockets of the folder have names that are short enough.
func (l Layout) Check() error {
	if longest := l.in("run", "proxies", "0123456789abcdef", "admin.sock"); len(longest) > maxSocket {
		return fmt.Errorf("the path of the state folder %s is too long: Unix sockets in it would exceed %d bytes; name a shorter one with --state", l, maxSocket)
	}
	return nil
}
