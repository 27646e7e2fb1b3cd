// Command weir-sample runs the sample programs of Weir: bookinfo, helloworld,
// httpbin, tcp-echo, echo and sleep.
//
// Its arguments name a sample and its flags (`weir-sample help`); the environment
// is read here and nowhere else. SIGTERM and SIGINT end it: requests in flight
// finish, and the exit status is 0.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/weirmesh/weir/sample"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	host := os.Getenv("HOSTNAME") // in a pod, its name
	if host == "" {
		host, _ = os.Hostname()
	}
	err := sample.Run(ctx, sample.Environment{
		Getenv: os.Getenv,
		Host:   host,
		Log:    slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Output: os.Stderr,
	}, os.Args[1:])
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", sample.Binary, err)
		stop()
		os.Exit(1)
	}
}
