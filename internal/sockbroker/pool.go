package sockbroker

import (
	"context"
	"syscall"
)

// Pool keeps unconnected sockets of one kind and family ahead of demand, so that an
// event loop can take one without waiting. An unused socket is in no state that ages.
type Pool struct {
	client *Client
	kind   Kind
	family Family
	ready  chan int
	low    chan struct{} // fell to half
	done   chan struct{} // Run has ended; err says why
	err    error
}

// NewPool keeps up to size sockets (1 to MaxBatch), once Run runs.
func NewPool(c *Client, kind Kind, family Family, size int) *Pool {
	return &Pool{
		client: c,
		kind:   kind,
		family: family,
		ready:  make(chan int, max(1, min(size, MaxBatch))),
		low:    make(chan struct{}, 1),
		done:   make(chan struct{}),
	}
}

// Run fills the pool until ctx ends (nil) or the server fails. It closes the sockets
// that nobody took. Run it once.
func (p *Pool) Run(ctx context.Context) error {
	err := p.fill(ctx)
	p.err = err
	if err == nil {
		p.err = ctx.Err()
	}
	close(p.done)
	for {
		select {
		case fd := <-p.ready:
			syscall.Close(fd)
		default:
			return err
		}
	}
}

func (p *Pool) fill(ctx context.Context) error {
	for {
		if n := cap(p.ready) - len(p.ready); n > 0 {
			fds, err := p.client.Sockets(p.kind, p.family, n)
			if err != nil {
				return err
			}
			for _, fd := range fds {
				p.ready <- fd // never blocks: only this goroutine adds
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.low:
		}
	}
}

// Take returns a socket if one is at hand. It never waits.
func (p *Pool) Take() (fd int, ok bool) {
	select {
	case fd = <-p.ready:
		p.took()
		return fd, true
	default:
		p.took()
		return -1, false
	}
}

// Wait returns a socket as soon as there is one.
func (p *Pool) Wait(ctx context.Context) (int, error) {
	p.took()
	select {
	case fd := <-p.ready:
		p.took()
		return fd, nil
	case <-p.done:
		return -1, p.err
	case <-ctx.Done():
		return -1, ctx.Err()
	}
}

func (p *Pool) took() {
	if len(p.ready) > cap(p.ready)/2 {
		return
	}
	select {
	case p.low <- struct{}{}:
	default:
	}
}
