package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// holding is an application that answers when it is told to.
func holding(t *testing.T) (port int, asked <-chan struct{}, answer func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	came, told := make(chan struct{}, 1), make(chan struct{})
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		came <- struct{}{}
		<-told
		fmt.Fprint(w, r.URL.Path)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close() })
	return l.Addr().(*net.TCPAddr).Port, came, func() { close(told) }
}

// SIGTERM: what is under way is finished, and who watches hears of it until the end. A second one is for those who cannot wait.
func TestSignals(t *testing.T) {
	for _, twice := range []bool{false, true} {
		t.Run(fmt.Sprintf("twice %t", twice), func(t *testing.T) {
			port, asked, answer := holding(t)
			socket := filepath.Join(t.TempDir(), "admin")
			p := startProgram(t, fmt.Sprintf(oneConnection, "http_protocol_options", port), "--drain", "1h", "--admin", "unix://"+socket)
			admin := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			}}}
			defer admin.CloseIdleConnections()
			got := make(chan error, 1)
			client := p.dial()
			go func() { got <- client.ask("/slow") }()
			<-asked
			_ = p.cmd.Process.Signal(syscall.SIGTERM)
			tick := time.NewTicker(10 * time.Millisecond)
			defer tick.Stop()
			for {
				r, err := admin.Get("http://admin/ready")
				if err != nil {
					t.Fatalf("nobody answers who watches: %v", err)
				}
				body, _ := io.ReadAll(r.Body)
				r.Body.Close()
				if r.StatusCode == http.StatusServiceUnavailable && strings.HasPrefix(string(body), "DRAINING") {
					break
				}
				<-tick.C
			}
			if twice {
				_ = p.cmd.Process.Signal(syscall.SIGTERM)
				var e *exec.ExitError
				if err := p.cmd.Wait(); !errors.As(err, &e) || e.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
					t.Errorf("it ended with %v, want by the signal", err)
				}
				p.cmd = nil
				if err := <-got; err == nil {
					t.Error("the request was answered")
				}
				answer()
				return
			}
			answer()
			if err := <-got; err != nil {
				t.Errorf("the request under way: %v", err)
			}
			if err := p.cmd.Wait(); err != nil {
				t.Errorf("it ended with %v", err)
			}
			p.cmd = nil
		})
	}
}
