// Package server runs the samples' HTTP handlers the way a workload in a mesh should run.
//
// Listeners and a handler enter; nothing leaves until the context ends. Then
// requests are still answered for the drain time (on connections that are told
// to close), after which listeners close, requests in flight finish, and HTTP
// returns nil. Every sample's start uses it; tests may. Calls are independent of
// each other.
package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

const (
	// readHeaderTimeout bounds what a client that never finishes its head can hold.
	readHeaderTimeout = 10 * time.Second

	// idleTimeout is longer than the hour after which Istio-style proxies drop an
	// idle upstream connection, so that the proxy closes first and a request never
	// races with a close.
	idleTimeout = 75 * time.Minute

	// FinishTimeout is how long what is in flight may take after the drain: the
	// longest a bookinfo call waits is 10 s, Kubernetes kills after 30 s.
	FinishTimeout = 25 * time.Second
)

// Listen opens one TCP listener per port on address, "" meaning every IPv4 and
// IPv6 address. Either all ports are open on return or none.
func Listen(ctx context.Context, address string, ports ...int) ([]net.Listener, error) {
	var out []net.Listener
	for _, port := range ports {
		ln, err := new(net.ListenConfig).Listen(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(port)))
		if err != nil {
			for _, open := range out {
				open.Close()
			}
			return nil, fmt.Errorf("listening on port %d: %w", port, err)
		}
		out = append(out, ln)
	}
	return out, nil
}

// HTTP serves handler on all listeners until ctx ends and then, for drain, goes
// on serving. It owns the listeners. It returns nil after an orderly end and an
// error if a listener failed or requests had to be cut off.
func HTTP(ctx context.Context, lns []net.Listener, handler http.Handler, drain time.Duration, log *slog.Logger) error {
	stopping := ctx.Done()
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-stopping: // the peer should take its next request elsewhere
				w.Header().Set("Connection", "close")
			default:
			}
			handler.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		Protocols:         new(http.Protocols),
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true) // for those that begin with its preface
	failed := make(chan error, len(lns))
	var serving sync.WaitGroup
	for _, ln := range lns {
		serving.Go(func() {
			if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serving on %s: %w", ln.Addr(), err)
			}
		})
	}
	defer serving.Wait()

	select {
	case err := <-failed:
		srv.Close()
		return err
	case <-stopping:
	}
	select {
	case err := <-failed:
		srv.Close()
		return err
	case <-time.After(drain):
	}
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), FinishTimeout)
	defer cancel()
	if err := srv.Shutdown(finish); err != nil {
		srv.Close()
		return fmt.Errorf("finishing requests in flight: %w", err)
	}
	return nil
}
