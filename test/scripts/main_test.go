package scripts

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain holds the mesh to its end: nothing that was started is left behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
