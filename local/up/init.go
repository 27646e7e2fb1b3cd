package up

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/weirmesh/weir/ca/token"
	"github.com/weirmesh/weir/local/netns"
	"github.com/weirmesh/weir/local/sandbox"
)

// leftoverGrace is for programs that pods do not know of; the others have ended.
const leftoverGrace = 100 * time.Millisecond

// RunInit is the first process of a namespace tree. The program calls it when it finds
// Options.InitArgs.
func RunInit() error {
	return netns.RunInit(netns.InitOptions{
		Network: sandbox.Network(), Grace: leftoverGrace, Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	}, runTree)
}

func runTree(ctx context.Context, f *netns.Fabric) error {
	w := &wire{c: f.Control}
	err := insideTree(ctx, f, w)
	if err != nil {
		_ = w.send(message{Failed: err.Error()})
	}
	return err
}

func insideTree(ctx context.Context, f *netns.Fabric, w *wire) error {
	first, _, err := w.receive()
	if err != nil || first.Task == nil || len(f.Files) != 1 {
		return errors.Join(errors.New("not told what to do"), err)
	}
	t := *first.Task
	if err := os.Chdir(t.Dir); err != nil {
		return err
	}
	tokens, err := token.OpenKey(t.Layout.CA())
	if err != nil {
		return err
	}
	p := &sandbox.Proxies{Tokens: tokens}
	t.proxies(p)
	i := newInside(t, sandbox.NewNamespaces(p, f, t.Resolvers, virtualRanges...), f.Host.DialContext, os.Stdout)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		for {
			m, file, err := w.receive()
			switch {
			case err != nil:
				cancel() // top is gone
				return
			case m.Say != "":
				i.say(m.Say)
			case m.Show:
				i.out.show()
			case file != nil:
				c, err := net.FileConn(file)
				file.Close()
				if u, ok := c.(*net.UnixConn); err == nil && ok {
					go i.server.Serve(ctx, u)
				}
			}
		}
	}()
	go func() {
		select {
		case r := <-i.started:
			if err := w.send(message{Report: r}); err != nil {
				i.say(fmt.Sprintf("the report was not delivered: %v", err))
			}
		case <-ctx.Done():
		}
	}()
	return i.run(ctx, f.Files[0])
}

// mayListen allows the tree what the gateway's mapping leads to.
func mayListen(allowed []sandbox.Listen) func(netip.AddrPort) bool {
	return func(a netip.AddrPort) bool {
		return slices.ContainsFunc(allowed, func(l sandbox.Listen) bool {
			return l.To == a || l.To.Port() == 0 && l.To.Addr() == a.Addr()
		})
	}
}
