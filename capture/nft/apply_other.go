//go:build !linux

package nft

import (
	"errors"

	"github.com/weirmesh/weir/capture"
)

var errLinux = errors.New("capture rules exist on Linux only; use --capture=env")

// Apply is for Linux.
func Apply(capture.Ruleset) error { return errLinux }

// Remove is for Linux.
func Remove(capture.Ruleset) error { return errLinux }
