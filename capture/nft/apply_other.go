//go:build !linux

package nft

import (
	"errors"

	"github.com/weirmesh/weir/capture"
)

var errLinux = errors.New("capture rules exist on Linux only; use --capture=env")

// ErrNone says that the kernel has no nf_tables at all.
var ErrNone = errors.New("nf_tables exist on Linux only")

// Apply is for Linux.
func Apply(capture.Ruleset) error { return errLinux }

// Remove is for Linux.
func Remove(capture.Ruleset) error { return errLinux }

// Routes is for Linux.
func Routes(capture.Ruleset) error { return errLinux }

// RemoveRoutes is for Linux.
func RemoveRoutes(capture.Ruleset) error { return errLinux }

// In is for Linux.
func In(string, func() error) error { return errLinux }

// Present is for Linux.
func Present() (bool, error) { return false, errLinux }
