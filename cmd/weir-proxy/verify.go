package main

import (
	"context"
	"fmt"
	"time"

	"github.com/weirmesh/weir/capture"
)

// inboundPort is where every mesh has its sidecars listen for inbound connections.
const inboundPort = 15006

// captureTime is how long a sidecar awaits rules that come from outside the pod.
const captureTime = 5 * time.Second

// captured refuses to start a sidecar beside an application whose connections would pass
// it by: unencrypted, unauthorized, unseen. Where the proxy is not in the workload's
// network namespace, who starts it makes the rules.
func (m *meshFlags) captured(ctx context.Context, kind string) error {
	if kind != "sidecar" || m.capture == "none" || m.appFD >= 0 {
		return nil
	}
	if err := verify(ctx, inboundPort, capture.ProbePort, captureTime); err != nil {
		return fmt.Errorf("%w; weir-proxy init (image weir-proxy-init, capability NET_ADMIN) has to run in this pod before; --capture none is for a sidecar that captures nothing", err)
	}
	return nil
}

// notCaptured has the exit status by which Istio's CNI agent knows a pod whose rules
// are missing.
type notCaptured struct{ error }

func (notCaptured) exitStatus() int { return 126 }

func (e notCaptured) Unwrap() error { return e.error }

func verify(ctx context.Context, inbound, probe uint16, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if err := capture.Verify(ctx, inbound, probe); err != nil {
		return notCaptured{err}
	}
	return nil
}
