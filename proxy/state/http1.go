package state

import (
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	preservecasev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/http/header_formatters/preserve_case/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/proxy/http/h1"
)

const preserveCaseURL = typePrefix + "envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig"

// decodeHTTP1 reads Http1ProtocolOptions of a cluster or of a connection manager.
func decodeHTTP1(o *corev3.Http1ProtocolOptions, path string) (r h1.Rules, err error) {
	r.HTTP10, r.DefaultHost = o.GetAcceptHttp_10(), o.GetDefaultHostForHttp_10()
	path += ".header_key_format"
	switch f := o.GetHeaderKeyFormat().GetHeaderFormat().(type) {
	case *corev3.Http1ProtocolOptions_HeaderKeyFormat_ProperCaseWords_:
		r.Names = h1.ProperCase
	case *corev3.Http1ProtocolOptions_HeaderKeyFormat_StatefulFormatter:
		if url := f.StatefulFormatter.GetTypedConfig().GetTypeUrl(); url != preserveCaseURL {
			return r, fmt.Errorf("%s.stateful_formatter: %s is not supported", path, url)
		}
		p := &preservecasev3.PreserveCaseFormatterConfig{}
		if err := unpack(f.StatefulFormatter.GetTypedConfig(), p, path+".stateful_formatter"); err != nil {
			return r, err
		}
		r.Names = h1.PreserveCase
		if p.GetFormatterTypeOnEnvoyHeaders() == preservecasev3.PreserveCaseFormatterConfig_PROPER_CASE {
			r.Names = h1.PreserveOrProperCase
		}
	}
	return r, nil
}

// headBytes reads max_request_headers_kb or max_response_headers_kb.
func headBytes(kb *wrapperspb.UInt32Value, path string) (int, error) {
	if n := kb.GetValue(); kb != nil && (n < 1 || n > 8192) {
		return 0, fmt.Errorf("%s: %d is not 1 to 8192", path, n)
	}
	return int(kb.GetValue()) << 10, nil
}

// headFields reads max_headers_count.
func headFields(o *corev3.HttpProtocolOptions, path string) (int, error) {
	n := o.GetMaxHeadersCount()
	if n != nil && (n.GetValue() < 1 || n.GetValue() > 1<<15) {
		return 0, fmt.Errorf("%s.max_headers_count: %d is not 1 to 32768", path, n.GetValue())
	}
	return int(n.GetValue()), nil
}

// never is longer than any process lives.
const never = 100 * 365 * 24 * time.Hour
