package state

import (
	"cmp"
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"

	"github.com/weirmesh/weir/proxy/http/message"
	"github.com/weirmesh/weir/proxy/observe"
	"github.com/weirmesh/weir/proxy/tcp"
)

// decodeTunnel reads what endpoints, which are forward proxies, are asked for; nil: they are none.
func decodeTunnel(c *tcpproxyv3.TcpProxy_TunnelingConfig, path string) (*tcp.Tunnel, error) {
	if c == nil {
		return nil, nil
	}
	t := &tcp.Tunnel{Post: c.GetUsePost(), Path: c.GetPostPath()}
	var err error
	if t.Host, err = observe.ParseText(c.GetHostname(), true); err != nil {
		return nil, fmt.Errorf("%s.hostname: %w", path, err)
	}
	if s, ok := t.Host.Literal(); ok && (message.CheckAuthority([]byte(s)) != message.NoFault || s == "" || !t.Post && !message.HasPort([]byte(s))) {
		return nil, fmt.Errorf("%s.hostname: %q is not host:port", path, s)
	}
	switch {
	case t.Path != "" && !t.Post:
		return nil, fmt.Errorf("%s.post_path: needs use_post", path)
	case t.Path != "" && t.Path[0] != '/':
		return nil, fmt.Errorf("%s.post_path: %q does not begin with a slash", path, t.Path)
	}
	if err := oneWord(path+".post_path", t.Path); err != nil {
		return nil, err
	}
	for i, o := range c.GetHeadersToAdd() {
		at := fmt.Sprintf("%s.headers_to_add[%d]", path, i)
		h := tcp.Header{Name: strings.ToLower(o.GetHeader().GetKey())}
		switch message.IDOf(h.Name) {
		case message.Host, message.ContentLength, message.TransferEncoding, message.Connection, message.Upgrade:
			return nil, fmt.Errorf("%s.header.key: %q cannot be changed this way", at, h.Name)
		}
		if h.Name == "" {
			return nil, fmt.Errorf("%s.header.key: is empty", at)
		}
		if err := cmp.Or(token(at+".header.key", h.Name), oneLine(at+".header.value", o.GetHeader().GetValue())); err != nil {
			return nil, err
		}
		if h.Value, err = observe.ParseText(o.GetHeader().GetValue(), true); err != nil {
			return nil, fmt.Errorf("%s.header.value: %w", at, err)
		}
		switch {
		case o.GetAppend() != nil:
			h.Replaces = !o.GetAppend().GetValue()
		case o.GetAppendAction() == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD:
			h.Replaces = true
		case o.GetAppendAction() != corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD:
			return nil, fmt.Errorf("%s.append_action: %v is not supported here", at, o.GetAppendAction())
		}
		t.Headers = append(t.Headers, h)
	}
	return t, nil
}
