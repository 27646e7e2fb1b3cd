package faults

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain holds the meshes to their end: nothing that was started is left behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
