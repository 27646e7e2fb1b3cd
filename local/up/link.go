package up

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/weirmesh/weir/ca/token"
	"github.com/weirmesh/weir/local/netns"
	"github.com/weirmesh/weir/local/process"
	"github.com/weirmesh/weir/local/sandbox"
)

// link is inside as top sees it.
type link interface {
	// Connect hands over a connection of the local API.
	Connect(*net.UnixConn)
	// Say shows a sentence among the logs; Show begins to show logs.
	Say(string)
	Show()
	// Started waits for the report.
	Started(context.Context) (*Report, error)
	// End asks it to end, Wait returns when it has. Close frees what is left, after both.
	End()
	Wait() error
	Close()
}

var errEnded = errors.New("the workloads' process has ended")

// here is inside in this process.
type here struct {
	*inside
	ctx    context.Context //nolint:containedctx // its own life
	cancel context.CancelFunc
	done   chan struct{}
	err    error
}

func startHere(ctx context.Context, t task, o Options, controlLog *os.File, starter *process.Starter) (link, error) {
	tokens, err := token.OpenKey(t.Layout.CA())
	if err != nil {
		return nil, err
	}
	p := &sandbox.Proxies{Tokens: tokens}
	t.proxies(p)
	var d net.Dialer
	h := &here{inside: newInside(t, sandbox.NewLoopback(p, starter, t.Shape), d.DialContext, o.Logs), done: make(chan struct{})}
	h.ctx, h.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(h.done)
		h.err = h.run(h.ctx, controlLog)
	}()
	return h, nil
}

func (h *here) Connect(c *net.UnixConn) { go h.server.Serve(h.ctx, c) }
func (h *here) Say(s string)            { h.say(s) }
func (h *here) Show()                   { h.out.show() }
func (h *here) End()                    { h.cancel() }
func (h *here) Close()                  { h.cancel() }

func (h *here) Started(ctx context.Context) (*Report, error) {
	select {
	case r := <-h.started:
		return r, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-h.done:
		return nil, errEnded
	}
}

func (h *here) Wait() error {
	<-h.done
	return h.err
}

// message goes between top and the first process of the tree, one JSON object a line.
type message struct {
	Task       *task   `json:",omitempty"` // down, the first
	Say        string  `json:",omitempty"` // down
	Show       bool    `json:",omitempty"` // down
	Connection bool    `json:",omitempty"` // down, a descriptor beside it
	Report     *Report `json:",omitempty"` // up
	Failed     string  `json:",omitempty"` // up, the last
}

// wire carries messages. Sending is safe for concurrent use, receiving for one goroutine.
type wire struct {
	c    *net.UnixConn
	mu   sync.Mutex
	read []byte
	fds  []int
}

func (w *wire) send(m message, files ...*os.File) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range files {
		if _, _, err := w.c.WriteMsgUnix(b[:1], syscall.UnixRights(int(f.Fd())), nil); err != nil {
			return err
		}
		b = b[1:]
	}
	_, err = w.c.Write(b)
	return err
}

// receive returns the next message, and the descriptor of a connection.
func (w *wire) receive() (m message, f *os.File, err error) {
	for {
		if line, rest, ok := bytes.Cut(w.read, []byte("\n")); ok {
			w.read = rest
			if err := json.Unmarshal(line, &m); err != nil {
				return m, nil, err
			}
			if m.Connection && len(w.fds) > 0 {
				f = os.NewFile(uintptr(w.fds[0]), "connection")
				w.fds = w.fds[1:]
			}
			return m, f, nil
		}
		b, oob := make([]byte, 4096), make([]byte, syscall.CmsgSpace(4*4))
		n, oobn, _, _, err := w.c.ReadMsgUnix(b, oob)
		if err != nil {
			return m, nil, err
		}
		w.read = append(w.read, b[:n]...)
		rights, err := syscall.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return m, nil, err
		}
		for _, r := range rights {
			fds, err := syscall.ParseUnixRights(&r)
			if err != nil {
				return m, nil, err
			}
			for _, fd := range fds {
				syscall.CloseOnExec(fd)
			}
			w.fds = append(w.fds, fds...)
		}
	}
}

// tree is inside in the first process of a namespace tree.
type tree struct {
	tree   *netns.Tree
	wire   *wire
	cancel context.CancelFunc
	report chan *Report
	heard  chan struct{} // everything it said was received
	failed string        // once heard
}

func startTree(ctx context.Context, t task, o Options, controlLog *os.File) (link, error) {
	l := &tree{report: make(chan *Report, 1), heard: make(chan struct{})}
	ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	allowed := gatewayListen(o.Ingress)
	var err error
	l.tree, err = netns.Start(ctx, netns.Options{
		Args: o.InitArgs, Stdout: o.Logs, Stderr: os.Stderr, Files: []*os.File{controlLog}, AllowListen: mayListen(allowed), Grace: endTime,
	})
	controlLog.Close()
	if err != nil {
		l.cancel()
		return nil, fmt.Errorf("starting the workloads' process: %w", err)
	}
	l.wire = &wire{c: l.tree.Control}
	go l.hear()
	if err := l.wire.send(message{Task: &t}); err != nil {
		l.Close()
		return nil, fmt.Errorf("starting the workloads' process: %w", err)
	}
	return l, nil
}

func (l *tree) hear() {
	defer close(l.heard)
	for {
		m, _, err := l.wire.receive()
		switch {
		case err != nil:
			return
		case m.Failed != "":
			l.failed = m.Failed
		case m.Report != nil:
			l.report <- m.Report
		}
	}
}

func (l *tree) Connect(c *net.UnixConn) {
	defer c.Close()
	f, err := c.File()
	if err != nil {
		return
	}
	defer f.Close()
	_ = l.wire.send(message{Connection: true}, f) // a tree that ended answers nobody
}

func (l *tree) Say(s string) { _ = l.wire.send(message{Say: s}) }
func (l *tree) Show()        { _ = l.wire.send(message{Show: true}) }
func (l *tree) End()         { l.cancel() }

func (l *tree) Started(ctx context.Context) (*Report, error) {
	select {
	case r := <-l.report:
		return r, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.heard:
		return nil, errEnded
	}
}

func (l *tree) Wait() error {
	err := l.tree.Wait()
	<-l.heard
	switch {
	case l.failed != "":
		return errors.New(l.failed)
	case err != nil:
		return fmt.Errorf("the workloads' process has ended: %w", err)
	}
	return nil
}

func (l *tree) Close() {
	l.cancel()
	if l.tree != nil {
		_ = l.tree.Wait()
	}
}
