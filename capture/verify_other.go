//go:build !linux

package capture

import (
	"context"
	"errors"
)

// Verify is for Linux.
func Verify(context.Context, uint16, uint16) error {
	return errors.New("capture rules exist on Linux only; use --capture none")
}

// InForce is for Linux.
func InForce(context.Context, uint16, uint16) (bool, error) {
	return false, errors.New("capture rules exist on Linux only")
}
