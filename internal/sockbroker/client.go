package sockbroker

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"time"
)

// requestTimeout bounds a request. Making 64 sockets takes about a millisecond; a server
// that needs seconds is gone or stuck, and the mesh it belongs to with it.
const requestTimeout = 10 * time.Second

// Client asks a Server for sockets.
type Client struct {
	mu   sync.Mutex // one request at a time: replies carry no number
	conn *net.UnixConn
}

// NewClient speaks over f, a client end that Server.Connect or Client.Fork made. It takes
// f over, also if it fails.
func NewClient(f *os.File) (*Client, error) {
	conn, err := unixConn(f)
	if err != nil {
		return nil, fmt.Errorf("socket broker: %w", err)
	}
	return &Client{conn: conn}, nil
}

// unixConn turns a descriptor into a connection of the runtime's poller and closes f.
func unixConn(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, fmt.Errorf("%s is not a Unix socket", f.Name())
	}
	return u, nil
}

// Close ends the connection; requests under way fail.
func (c *Client) Close() error { return c.conn.Close() }

// Sockets returns n unconnected sockets (kind Stream or Datagram).
func (c *Client) Sockets(kind Kind, family Family, n int) ([]int, error) {
	return c.ask(request{kind: kind, family: family}, n)
}

// Listen returns n TCP sockets that listen on addr, with SO_REUSEPORT if reusePort is
// set (n > 1 needs it). Port 0 is one free port for all. An IPv6 socket takes IPv6
// connections only.
func (c *Client) Listen(addr netip.AddrPort, n int, reusePort bool) ([]int, error) {
	return c.bound(Listen, addr, n, reusePort)
}

// Bind returns n UDP sockets bound to addr, otherwise as Listen.
func (c *Client) Bind(addr netip.AddrPort, n int, reusePort bool) ([]int, error) {
	return c.bound(Bind, addr, n, reusePort)
}

func (c *Client) bound(kind Kind, addr netip.AddrPort, n int, reusePort bool) ([]int, error) {
	if !addr.IsValid() {
		return nil, fmt.Errorf("socket broker: %s: no address given", kind)
	}
	addr = netip.AddrPortFrom(addr.Addr().Unmap(), addr.Port())
	return c.ask(request{kind: kind, family: FamilyOf(addr.Addr()), addr: addr, reusePort: reusePort}, n)
}

// Fork returns one more connection to the server, to be inherited by another process and
// given to NewClient there. Its rights are those asked for that this connection has.
func (c *Client) Fork(r Rights) (*os.File, error) {
	fds, err := c.ask(request{kind: fork, rights: r}, 1)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "socket broker"), nil
}

func (c *Client) ask(r request, n int) ([]int, error) {
	if n < 1 || n > MaxBatch {
		return nil, fmt.Errorf("socket broker: %s: %d sockets asked for, want 1 to %d", r.kind, n, MaxBatch)
	}
	r.count = uint8(n)
	c.mu.Lock()
	defer c.mu.Unlock()
	fds, err := c.exchange(r)
	if err == nil && len(fds) == n {
		return fds, nil
	}
	closeAll(fds)
	if err == nil {
		// The kernel drops descriptors that do not fit the receiver's table.
		err = fmt.Errorf("%d descriptors of %d arrived: %w", len(fds), n, syscall.EMFILE)
	}
	return nil, fmt.Errorf("socket broker: %s: %w", r.kind, err)
}

func (c *Client) exchange(r request) (fds []int, err error) {
	if err := c.conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return nil, err
	}
	if _, err := c.conn.Write(r.marshal()); err != nil {
		return nil, err
	}
	b := make([]byte, replyHead+maxText)
	oob := make([]byte, syscall.CmsgSpace(4*MaxBatch))
	n, oobn, _, _, err := c.conn.ReadMsgUnix(b, oob)
	if err != nil {
		// A reply that comes later would answer the wrong question.
		c.conn.Close()
		return nil, err
	}
	if fds, err = descriptors(oob[:oobn]); err != nil {
		return fds, err
	}
	return fds, parseReply(b[:n])
}

func descriptors(oob []byte) (fds []int, err error) {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		got, e := syscall.ParseUnixRights(&m)
		fds, err = append(fds, got...), errors.Join(err, e)
	}
	return fds, err
}
