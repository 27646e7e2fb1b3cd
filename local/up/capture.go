package up

import (
	"context"
	"fmt"
	"os"
	"runtime"

	"github.com/weirmesh/weir/local/netns"
)

// capture decides between namespaces and cooperation, by trying.
func (t *top) capture(ctx context.Context) error {
	if t.o.Capture == CaptureEnv {
		t.mode, t.why = CaptureEnv, "as asked"
		return nil
	}
	ok, reason := netns.Probe(ctx, t.o.InitArgs...)
	who := "as an ordinary user"
	if os.Geteuid() == 0 {
		who = "as root"
	}
	switch {
	case ok:
		t.mode, t.why = CaptureNetns, "network namespaces work here "+who
	case t.o.Capture == CaptureNetns:
		return &Error{"network namespaces do not work here: " + reason, "run as root, or use --capture=env, with programs that listen on $BIND_ADDRESS:$PORT"}
	default:
		t.mode, t.why = CaptureEnv, fmt.Sprintf("network namespaces do not work here %s: %s", who, reason)
		if runtime.GOOS != "linux" {
			t.why = "network namespaces exist on Linux only"
		}
	}
	return nil
}
