package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/weirmesh/weir/internal/healthz"
)

// runRequest asks the admin interface of the proxy in this pod: METHOD PATH [BODY].
func runRequest(ctx context.Context, args []string, out io.Writer) error {
	f := flag.NewFlagSet("weir-proxy request", flag.ContinueOnError)
	port := f.Uint("debug-port", 15000, "port of the admin interface")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() < 2 || f.NArg() > 3 {
		return errors.New("request: say METHOD PATH [BODY], for example GET /stats")
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	host := net.JoinHostPort("127.0.0.1", strconv.FormatUint(uint64(*port), 10))
	path := f.Arg(1)
	if path == "" || path[0] != '/' {
		path = "/" + path
	}
	req, err := http.NewRequestWithContext(ctx, f.Arg(0), "http://"+host+path, bytes.NewBufferString(f.Arg(2)))
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	resp, err := new(http.Transport).RoundTrip(req)
	if err != nil {
		return fmt.Errorf("request: the proxy's admin interface (%s, --debug-port): %w", host, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if _, err := io.Copy(out, resp.Body); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("request: the proxy answered %s", resp.Status)
	}
	return nil
}

// runWait returns when the proxy in this pod is ready: a postStart hook that keeps
// Kubernetes from starting the application before.
func runWait(ctx context.Context, args []string) error {
	f := flag.NewFlagSet("weir-proxy wait", flag.ContinueOnError)
	url := f.String("url", "http://127.0.0.1:15021/healthz/ready", "what answers 200 when the proxy is ready")
	period := f.Int("periodMillis", 500, "milliseconds between two attempts")
	each := f.Int("requestTimeoutMillis", 500, "milliseconds that an attempt may take")
	all := f.Int("timeoutSeconds", 60, "seconds until waiting is given up")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() > 0 || *period <= 0 || *each <= 0 || *all <= 0 {
		return errors.New("wait: takes flags only, and times above 0")
	}
	ctx, cancel := context.WithTimeout(ctx, time.Duration(*all)*time.Second)
	defer cancel()
	transport := &http.Transport{DisableKeepAlives: true}
	again := time.NewTicker(time.Duration(*period) * time.Millisecond)
	defer again.Stop()
	var last error
	for {
		err := ready(ctx, transport, *url, time.Duration(*each)*time.Millisecond)
		switch {
		case err == nil:
			return nil
		case last == nil || ctx.Err() == nil: // the end cuts an attempt short: that is no reason
			last = err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait: the proxy is not ready after %d s: %w", *all, last)
		case <-again.C:
		}
	}
}

func ready(ctx context.Context, t http.RoundTripper, url string, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return healthz.Get(ctx, t, url)
}
