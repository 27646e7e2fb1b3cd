package state

import (
	"cmp"
	"fmt"
	"slices"

	setstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	httpsetstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/set_filter_state/v3"
	networksetstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/set_filter_state/v3"
	"google.golang.org/protobuf/types/known/anypb"
)

// filterState says of the objects of filter state that Istio sets to what it sets them, and why nothing has to be done for it
// here. Any other object, or value, would be missed by whoever reads it, so it is refused.
var filterState = map[string]struct {
	values []string // one of them
	inert  string
}{
	peerPrincipal:              {[]string{"%DOWNSTREAM_PEER_URI_SAN%"}, "the client's identity is read where it always is: from the connection's TLS"},
	"io.istio.local_principal": {[]string{"%DOWNSTREAM_LOCAL_URI_SAN%"}, "the workload's own identity is known to the proxy"},
	"envoy.filters.listener.original_dst.local_ip": {[]string{"%REQ(:AUTHORITY)%", "%FILTER_STATE(envoy.filters.listener.original_dst.local_ip:PLAIN)%"},
		"connect_authority: it is for HBONE tunnels, which are not taken in this version"},
	"envoy.filters.listener.original_dst.remote_ip": {[]string{"%DOWNSTREAM_REMOTE_ADDRESS%"}, "connect_authority: as local_ip"},
}

func (b *Builder) filterStateFilter(_ *filterList, config *anypb.Any, at string) error {
	x := &httpsetstatev3.Config{}
	if err := unpack(config, x, at); err != nil {
		return err
	}
	return inertState(x.GetOnRequestHeaders(), at+".on_request_headers")
}

func networkFilterState(config *anypb.Any, at string) error {
	x := &networksetstatev3.Config{}
	if err := unpack(config, x, at); err != nil {
		return err
	}
	return cmp.Or(inertState(x.GetOnNewConnection(), at+".on_new_connection"), inertState(x.GetOnDownstreamTlsHandshake(), at+".on_downstream_tls_handshake"))
}

func inertState(values []*setstatev3.FilterStateValue, path string) error {
	for i, v := range values {
		known, ok := filterState[v.GetObjectKey()]
		if !ok {
			return fmt.Errorf("%s[%d].object_key: nothing here reads %q", path, i, v.GetObjectKey())
		}
		if text := cmp.Or(v.GetFormatString().GetTextFormatSource().GetInlineString(), v.GetFormatString().GetTextFormat()); !slices.Contains(known.values, text) {
			return fmt.Errorf("%s[%d].format_string: %s is always %s here, not %q", path, i, v.GetObjectKey(), known.values[0], text)
		}
	}
	return nil
}
