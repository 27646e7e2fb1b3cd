// Package client is the receiving end of the xDS corridor: it subscribes at a control
// plane by delta (or state-of-the-world) ADS, xDS v3, and keeps what it was told.
//
// Subscriptions enter, Updates leave to one function, whose verdict is the ACK or NACK:
// nothing is ACKed before it was built and checked. What is wanted and the versions of what
// is held survive the stream: a control plane that comes back sends only the difference.
// The protocol is a pure machine (machine.go); Client is the gRPC edge around it. Apply is
// called from the goroutine of Run only; every method may be called from any goroutine,
// Apply included.
package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/weirmesh/weir/internal/backoff"
	"github.com/weirmesh/weir/xds/resource"
)

// Resource is one named resource as received.
type Resource struct {
	Name, Version string
	Body          *anypb.Any
}

// Update is what one response says about one type.
type Update struct {
	TypeURL string
	Version string // the server's, of its whole configuration; for people
	Set     []Resource
	Removed []string // or asked for by name and not there
	// Absent are those of Removed that are asked for by name: the server says that there
	// are none now. (Of the others it says only that a wildcard does not mean them.)
	Absent []string
}

// Conn is a connection to a control plane; *grpc.ClientConn is one.
type Conn interface {
	grpc.ClientConnInterface
	io.Closer
}

// Options are what a Client needs. Dial, Node, Apply and Log are required.
type Options struct {
	// Dial makes a connection, which the Client closes when its stream has ended; every
	// attempt has its own. It need not wait until the connection is there. Use
	// DialOptions with it.
	Dial func(ctx context.Context) (Conn, error)
	// Node is called once per stream.
	Node func() *corev3.Node
	// Apply makes an update effective; it is empty only where it is the first of its type: there is nothing. An error
	// leaves what was before and refuses it. If the error is, or wraps, a
	// Refuser, it is tried again without the resources that are wrong: what is right in a
	// refused response is in effect, as in Envoy, which matters most in state of the world,
	// where the same response would come again and again. Subscriptions that Apply changes are
	// sent before the ACK, as servers that wait with routes for endpoints expect, and count for what
	// the next response means.
	Apply func(ctx context.Context, u Update) error
	Log   *slog.Logger

	// Opened, where set, is called with control_plane.identifier of the first response on
	// each stream, before that is applied, from the goroutine that calls Apply.
	Opened func(identifier string)
	// Announced are types, by URL, that are asked for only on streams whose control plane
	// has this word in its identifier.
	Announced map[string]string

	// SotW speaks state of the world instead of delta.
	SotW bool
	// Secrets asks the secret discovery service, which knows that one type, instead of the aggregated one.
	Secrets bool
	// Held are versions by type and name of resources that are in effect already, from a
	// saved state. What the server has in the same version is not sent again.
	Held map[string]map[string]string

	// MinBackoff and MaxBackoff bound the wait between attempts; 0: 100 ms and 10 s. The
	// first retry is at once. While there is nobody to talk to, which costs nobody anything,
	// the wait is 2 s at most: with what DialOptions promises, whoever comes back is found
	// within 4 s.
	MinBackoff, MaxBackoff time.Duration
}

// Refuser is an error of Apply that is about certain resources only.
type Refuser interface {
	error
	Refused() []string // their names
}

// InForce is a Refuser's whose resources are in force nevertheless, as far as they can be: they are refused so that whoever
// wrote them hears what is wrong.
type InForce interface {
	Refuser
	InForce()
}

// Client is a subscriber at one control plane.
type Client struct {
	opts Options
	wake chan struct{} // subscriptions changed

	mu      sync.Mutex
	m       machine
	state   State // without Types
	nacks   map[string]NACK
	changed chan struct{}

	lost  error     // why the last stream that had begun ended, until the next begins
	told  string    // what the log says about the time since then, "" for nothing
	since time.Time // when it said so
}

// New makes a Client. It does nothing before Run.
func New(o Options) *Client {
	o.MinBackoff = cmp.Or(o.MinBackoff, 100*time.Millisecond)
	o.MaxBackoff = cmp.Or(o.MaxBackoff, 10*time.Second)
	c := &Client{
		opts: o, wake: make(chan struct{}, 1), nacks: map[string]NACK{},
		m: machine{sotw: o.SotW, restored: o.Held, announced: o.Announced},
	}
	c.state.Since = time.Now()
	return c
}

// Subscribe asks for resources by name, or with no names for all of a type. It counts from
// now on over all streams.
func (c *Client) Subscribe(typeURL string, names ...string) {
	c.change(func() { c.m.subscribe(typeURL, names...) })
}

// Unsubscribe ends what Subscribe with the same arguments began. There is no Removed for
// what is dropped by this.
func (c *Client) Unsubscribe(typeURL string, names ...string) {
	c.change(func() { c.m.unsubscribe(typeURL, names...) })
}

// Asked are those of names that are subscribed to by name now.
func (c *Client) Asked(typeURL string, names []string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.m.find(typeURL)
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool {
		if s == nil {
			return true
		}
		_, ok := s.names[n]
		return !ok
	})
}

func (c *Client) change(f func()) {
	c.mu.Lock()
	f()
	c.notify()
	c.mu.Unlock()
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Run keeps a stream open until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	wait := backoff.Backoff{Min: c.opts.MinBackoff, Max: c.opts.MaxBackoff}
	for {
		start := time.Now()
		err := c.session(ctx)
		if ctx.Err() != nil {
			err = nil
		}
		// A server that answers only to end the stream is not given more of them for it.
		if c.disconnected(err) && time.Since(start) > time.Second {
			wait.Reset()
		}
		wait.Max = c.opts.MaxBackoff
		if status.Code(err) == codes.Unavailable {
			wait.Max = min(wait.Max, nobodyThere)
		}
		if wait.Wait(ctx) != nil {
			return nil
		}
	}
}

// nobodyThere is the longest wait for a control plane that cannot be reached. 2,000 proxies
// of one that is away then knock 1,300 times a second in all, which costs it nothing until
// it is back, and it is found within 2 s.
const nobodyThere = 2 * time.Second

// tellAgain is how long the log keeps to itself that attempts now fail for another reason.
const tellAgain = time.Minute

// disconnected notes the end of a stream and reports whether it had begun.
func (c *Client) disconnected(err error) (was bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m.disconnect()
	if was = c.state.Connected; was {
		c.state.Connected, c.state.Since = false, time.Now()
	}
	if err != nil {
		c.state.LastError = err
		if was {
			c.lost = err // the retry at once tells more
		} else if now := time.Now(); c.told == "" || c.told != err.Error() && now.Sub(c.since) >= tellAgain {
			c.told, c.since = err.Error(), now
			if c.lost == nil {
				c.opts.Log.Warn("no control plane", "err", err)
			} else {
				c.opts.Log.Warn("no control plane: what it said last stays in force", "err", err, "lost", c.lost)
			}
		}
	}
	c.notify()
	return was
}

// connected notes the first response on a stream. c.mu is held.
func (c *Client) connected(controlPlane string) {
	now := time.Now()
	args := []any{"controlPlane", controlPlane}
	if c.lost != nil {
		args = append(args, "away", now.Sub(c.state.Since).Round(time.Millisecond))
		if c.told == "" {
			args = append(args, "lost", c.lost)
		}
	}
	c.opts.Log.Info("configuration stream open", args...)
	c.state.Connected, c.state.Since = true, now
	c.lost, c.told = nil, ""
}

// readAhead is how many responses are read before they are applied. A server
// that keeps one response per type in flight never fills it.
const readAhead = 16

// session is one stream, until it ends.
func (c *Client) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := c.opts.Dial(ctx)
	if err != nil {
		return fmt.Errorf("connecting: %w", err)
	}
	defer conn.Close()
	st, err := c.open(ctx, conn)
	if err != nil {
		return fmt.Errorf("opening the stream: %w", err)
	}

	// This goroutine always reads, so a server that is writing can go on and then read
	// what we write.
	responses := make(chan response, readAhead)
	ended := make(chan error, 1)
	go func() {
		for {
			r, err := st.recv()
			if err != nil {
				ended <- err
				return
			}
			select {
			case responses <- r:
			case <-ctx.Done():
				return
			}
		}
	}()

	c.mu.Lock()
	first := c.m.connect()
	c.mu.Unlock()
	if err := send(st, first); err != nil {
		return err
	}
	for {
		select {
		case r := <-responses:
			err = c.apply(ctx, st, r)
		case <-c.wake:
			err = c.flush(st)
		case err = <-ended:
			if errors.Is(err, io.EOF) {
				err = errors.New("the control plane ended the stream")
			}
		case <-ctx.Done():
			return ctx.Err()
		}
		if err != nil {
			return err
		}
	}
}

// flush sends changed subscriptions.
func (c *Client) flush(st *stream) error {
	c.mu.Lock()
	out := c.m.pending()
	c.mu.Unlock()
	return send(st, out)
}

// apply applies and answers a response. What it means depends on what is subscribed to, which the one before may have changed.
func (c *Client) apply(ctx context.Context, st *stream, resp response) error {
	identifier := resp.GetControlPlane().GetIdentifier()
	c.mu.Lock()
	first := !c.state.Connected
	if first {
		c.m.identifier = identifier
		c.connected(identifier)
	}
	c.state.ControlPlane = identifier
	c.mu.Unlock()
	if first && c.opts.Opened != nil {
		c.opts.Opened(identifier)
	}
	c.mu.Lock()
	r := st.read(&c.m, resp)
	c.mu.Unlock()

	if r.problem == nil && (!r.empty() || r.first) {
		r.problem = c.opts.Apply(ctx, r.Update)
		if rest := r.without(r.problem); rest != nil && c.opts.Apply(ctx, rest.Update) == nil {
			r.accepted = rest
		}
	}
	if ctx.Err() != nil {
		return ctx.Err() // what Apply said then is no verdict
	}

	c.mu.Lock()
	out := c.m.pending()
	nack := ""
	if r.problem != nil {
		nack = cmp.Or(r.problem.Error(), "rejected")
		c.nacks[r.TypeURL] = NACK{Version: r.Version, Names: c.refused(r), Message: nack, Time: time.Now()}
		c.opts.Log.Warn("configuration rejected", "type", resource.Short(r.TypeURL), "version", r.Version, "err", r.problem)
		if r.accepted != nil {
			c.m.partly(r.accepted)
		}
		if x, ok := errors.AsType[InForce](r.problem); ok {
			c.m.impaired(r.TypeURL, x.Refused())
		}
	} else {
		c.m.accepted(r)
		if n, ok := c.nacks[r.TypeURL]; ok {
			n.Names = r.strange(n.Names)
			c.nacks[r.TypeURL] = n
		}
	}
	out = append(out, c.m.answer(r.TypeURL, r.nonce, nack))
	c.notify()
	c.mu.Unlock()
	return send(st, out)
}

// refused are the names that a NACK of r is about, with those of the NACK before that
// nothing has come for.
func (c *Client) refused(r *received) []string {
	names := r.strange(c.nacks[r.TypeURL].Names)
	accepted := map[string]bool{}
	if r.accepted != nil {
		for _, x := range r.accepted.Set {
			accepted[x.Name] = true
		}
	}
	for _, x := range r.Set {
		if !accepted[x.Name] {
			names = append(names, x.Name)
		}
	}
	slices.Sort(names)
	return names
}

// strange are the names that r says nothing about.
func (r *received) strange(names []string) []string {
	if len(names) == 0 {
		return nil
	}
	said := map[string]bool{}
	for _, x := range r.Set {
		said[x.Name] = true
	}
	for _, n := range r.Removed {
		said[n] = true
	}
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return said[n] })
}
