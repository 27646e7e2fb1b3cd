package main

import (
	"bytes"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A flag that would mean nothing is refused with what it needs.
func TestRefused(t *testing.T) {
	for args, want := range map[string]string{
		"--plaintext :15010":         "--plaintext is about Kubernetes: it needs --kube",
		"--state x --webhook :15017": "--webhook is about Kubernetes",
		"--context staging":          "--context is about Kubernetes",
		"--kube --kubeconfig x":      "choose one",
		"--kubeconfig x -f y":        "choose one",
		"--state":                    "flag needs an argument",
		"":                           "--state is missing",
		"--state x --grpc-optional":  "--grpc-optional needs --grpc-unix",
		// What a flag says is not the fault of a file in the state folder.
		"--state x --trust-domain a/b":       `--trust-domain "a/b": `,
		"--state x --cert-ttl -5s":           "--cert-ttl -5s",
		"--state x --cert-ttl 2161h":         "--cert-ttl 2161h",
		"--state x --max-cert-ttl 2161h":     "--max-cert-ttl 2161h",
		"--state x --max-cert-ttl 4h":        "--max-cert-ttl 4h0m0s: it is from --cert-ttl (24h0m0s)",
		"--state x --max-cert-ttl -1s":       "--max-cert-ttl -1s",
		"--state x --shutdown-duration -1s":  "--shutdown-duration -1s",
		"--state x --namespace My_Namespace": `--namespace "My_Namespace"`,
	} {
		if err := run(strings.Fields(args)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("weir-control %s: %v, want %q", args, err, want)
		}
	}
}

// `weir up` wants the address that remote proxies use where it can have it. Whether it is free is known when it is taken and no sooner: two
// meshes that began at the same moment both found it free, and the second did not come up.
func TestAddressOfAnother(t *testing.T) {
	another, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer another.Close()
	addr, dir := another.Addr().String(), t.TempDir()
	var said bytes.Buffer
	log := slog.New(slog.NewTextHandler(&said, nil))
	for _, c := range []struct {
		name, addr      string
		optional        bool
		serves          string
		refused, logged string
	}{
		{name: "needed", addr: addr, refused: "--grpc: " + addr + " is taken by another program"},
		{name: "optional", addr: addr, optional: true, serves: "unix", logged: "address=" + addr},
		{name: "free", addr: "127.0.0.1:0", optional: true, serves: "tcp unix"},
		{name: "no address of this machine", addr: "192.0.2.1:1", optional: true, refused: "--grpc: "},
	} {
		said.Reset()
		ls, err := listenGRPC(c.addr, filepath.Join(dir, "xds.sock"), c.optional, log)
		var serves []string
		for _, l := range ls {
			serves = append(serves, l.Addr().Network())
			l.Close()
		}
		if got := strings.Join(serves, " "); got != c.serves || (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%s: serves %q, want %q; %v, want %q", c.name, got, c.serves, err, c.refused)
		}
		if !strings.Contains(said.String(), c.logged) || c.logged == "" && said.Len() > 0 {
			t.Errorf("%s: said %q, want %q", c.name, &said, c.logged)
		}
	}
}

// A state folder has one writer, and a token once there was one.
func TestStateFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	held, err := openState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := openState(dir); err == nil || !strings.Contains(err.Error(), "in use by another weir-control") {
		t.Errorf("a second one: %v", err)
	}
	first, err := apiToken(dir)
	if err != nil || len(first.Reveal()) < 40 {
		t.Errorf("a token of %d characters, %v", len(first.Reveal()), err)
	}
	if again, err := apiToken(dir); err != nil || !again.Equal(first) {
		t.Errorf("the second time it is another: %v", err)
	}
	if info, err := os.Stat(filepath.Join(dir, "token")); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", info, err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	held, err = openState(dir)
	if err != nil {
		t.Fatalf("after the first ended: %v", err)
	}
	_ = held.Close()
}
