package state

import (
	"fmt"

	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
)

func (b *Builder) decodeListener(l *listenerv3.Listener, version string) (*Listener, error) {
	return nil, fmt.Errorf("listener %s: not yet", l.GetName())
}
