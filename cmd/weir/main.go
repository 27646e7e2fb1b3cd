// Command weir is the command line, and the laptop mesh behind `weir up`.
package main

import (
	"context"
	"os"
	"path/filepath"

	"github.com/weirmesh/weir/cli"
)

var version = "dev" // set by the linker

func main() {
	os.Exit(cli.Main(context.Background(), cli.Options{
		Args:     os.Args[1:],
		Version:  version,
		State:    state(),
		Stdin:    os.Stdin,
		Stdout:   os.Stdout,
		Stderr:   os.Stderr,
		Environ:  os.Environ(),
		Binaries: binaries(),
		NoColor:  os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb",
	}))
}

// binaries is the folder of this program, where the others are installed with it.
func binaries() string {
	exe, err := os.Executable()
	if err != nil {
		return ""
	}
	if real, err := filepath.EvalSymlinks(exe); err == nil {
		exe = real
	}
	return filepath.Dir(exe)
}

// state is the default state folder (XDG Base Directory Specification, "state").
func state() string {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "weir")
	}
	home, err := os.UserHomeDir()
	if err != nil {
		home = "/" // --state names it
	}
	return filepath.Join(home, ".local", "state", "weir")
}
