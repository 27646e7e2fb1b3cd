package sockbroker

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxConnections bounds the connections of one server, each a goroutine: fifty replicas
// with two proxies each during a restart, ten times over.
const maxConnections = 1024

// Server makes sockets and hands them out. Fill in the fields before the first Connect.
type Server struct {
	// In runs f on a thread in the namespace the sockets shall belong to, and returns
	// f's error or its own. Nil: the server's own namespace.
	In func(f func() error) error
	// Allow says which addresses may be listened on or bound. Nil: none.
	Allow func(netip.AddrPort) bool
	// Mark is the SO_MARK of unconnected sockets (needs CAP_NET_ADMIN); 0: none.
	Mark uint32

	mu     sync.Mutex
	conns  map[*net.UnixConn]struct{}
	closed bool
	wg     sync.WaitGroup
}

// Connect makes a connection with the given rights and returns the client's end, to be
// inherited by the process that shall use it, or for NewClient. The server serves the
// other end until the client's is closed everywhere, or until Close.
func (s *Server) Connect(r Rights) (*os.File, error) {
	mine, theirs, err := pair()
	if err != nil {
		return nil, fmt.Errorf("socket broker: %w", err)
	}
	conn, err := unixConn(mine)
	if err != nil {
		theirs.Close()
		return nil, fmt.Errorf("socket broker: %w", err)
	}
	if err := s.serve(conn, r); err != nil {
		theirs.Close()
		conn.Close()
		return nil, fmt.Errorf("socket broker: %w", err)
	}
	return theirs, nil
}

// Close ends all connections and waits for their goroutines. Sockets handed out live on.
func (s *Server) Close() {
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *Server) serve(conn *net.UnixConn, r Rights) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return net.ErrClosed
	case len(s.conns) >= maxConnections:
		return fmt.Errorf("%d connections are in use: %w", maxConnections, syscall.EAGAIN)
	}
	if s.conns == nil {
		s.conns = map[*net.UnixConn]struct{}{}
	}
	s.conns[conn] = struct{}{}
	s.wg.Go(func() {
		s.answer(conn, r)
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
		conn.Close()
	})
	return nil
}

// answer ends with the first message that is no request: such a client cannot be one of ours.
func (s *Server) answer(conn *net.UnixConn, rights Rights) {
	b := make([]byte, requestSize+1)
	for {
		// Read takes no control messages: descriptors that a client sends are closed by the kernel.
		n, err := conn.Read(b)
		if err != nil {
			return
		}
		r, err := parseRequest(b[:n])
		if err != nil {
			_, _ = conn.Write(marshalReply(err))
			return
		}
		fds, err := s.make(r, rights)
		var oob []byte
		if err == nil {
			oob = syscall.UnixRights(fds...)
		}
		_, _, err = conn.WriteMsgUnix(marshalReply(err), oob, nil)
		closeAll(fds)
		if err != nil {
			return
		}
	}
}

func (s *Server) make(r request, rights Rights) (fds []int, err error) {
	switch {
	case r.kind == fork && rights&MayFork == 0:
		return nil, &Error{syscall.EACCES, "this connection may not make others"}
	case r.bound() && rights&MayListen == 0:
		return nil, &Error{syscall.EACCES, fmt.Sprintf("%s: this connection may not listen", r.addr)}
	case r.bound() && (s.Allow == nil || !s.Allow(r.addr)):
		return nil, &Error{syscall.EACCES, fmt.Sprintf("%s is not among the addresses that may be listened on", r.addr)}
	}
	if r.kind == fork {
		f, err := s.Connect(rights & r.rights)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		return []int{fd}, err
	}
	in := s.In
	if in == nil {
		in = func(f func() error) error { return f() }
	}
	err = in(func() error {
		for range r.count {
			fd, err := open(r, s.Mark)
			if err != nil {
				return err
			}
			fds = append(fds, fd)
			if r.bound() && r.addr.Port() == 0 { // those that follow share the port that was chosen
				if r.addr, err = localAddr(fd, r.addr.Addr()); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		closeAll(fds)
		if r.bound() {
			err = fmt.Errorf("%s: %w", r.addr, err)
		}
		return nil, err
	}
	return fds, nil
}

// localAddr is ip with the port that fd is bound to.
func localAddr(fd int, ip netip.Addr) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(ip, uint16(sa.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(ip, uint16(sa.Port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("getsockname: %w", err)
}

func closeAll(fds []int) {
	for _, fd := range fds {
		syscall.Close(fd)
	}
}
