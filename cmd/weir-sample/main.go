// Command weir-sample runs the sample programs of Weir: bookinfo, helloworld,
// httpbin, tcp-echo, echo, grpc, client and sleep.
//
// Its arguments name a sample and its flags (`weir-sample help`); in an image it is also
// called by the names of the programs it stands for (sample.Argv). The environment
// is read here and nowhere else. SIGTERM and SIGINT end it: requests in flight
// finish, and the exit status is 0, or what the client is told.
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/weirmesh/weir/sample"
	"github.com/weirmesh/weir/sample/curl"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	host := os.Getenv("HOSTNAME") // in a pod, its name
	if host == "" {
		host, _ = os.Hostname()
	}
	argv, err := sample.Argv(os.Args)
	if len(argv) > 0 && argv[0] == "curl" {
		os.Exit(curl.Run(ctx, argv[1:], os.Stdout, os.Stderr))
	}
	if err == nil {
		err = sample.Run(ctx, sample.Environment{
			Getenv: os.Getenv,
			Host:   host,
			Log:    slog.New(slog.NewTextHandler(os.Stderr, nil)),
			Output: os.Stderr,
			Result: os.Stdout,
		}, argv)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", sample.Binary, err)
		stop()
		status := sample.Status(1)
		_ = errors.As(err, &status)
		os.Exit(int(status))
	}
}
