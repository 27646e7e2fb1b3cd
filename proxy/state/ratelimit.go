package state

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	localratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	networkratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/local_ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"

	ratelimitfilter "github.com/weirmesh/weir/proxy/filter/ratelimit"
	"github.com/weirmesh/weir/proxy/ratelimit"
	"github.com/weirmesh/weir/proxy/route"
)

const (
	localRateLimitURL   = typePrefix + "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
	networkRateLimitURL = typePrefix + "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit"
)

func (b *Builder) rateLimitFilter(l *filterList, config *anypb.Any, at string) error {
	limit, prefix, err := decodeRateLimit(config, at)
	if err == nil {
		limit.Counts = counted(b.counts.limits, prefix+".http_local_rate_limit.")
		l.enter(ratelimitfilter.Stage(limit, b.opts.Cluster))
	}
	return err
}

func decodeRateLimit(config *anypb.Any, path string) (l *route.RateLimit, prefix string, err error) {
	x := &localratelimitv3.LocalRateLimit{}
	if err := unpack(config, x, path); err != nil {
		return nil, "", err
	}
	// Without a share nothing is counted, or refused (the fields' defaults).
	l = &route.RateLimit{Status: 429, Exhausted: x.GetRateLimitedAsResourceExhausted(), Counts: &ratelimit.Counts{},
		Per1M: perMillion(x.GetFilterEnabled().GetDefaultValue()), Enforced1M: perMillion(x.GetFilterEnforced().GetDefaultValue()),
		RetryAfter: x.GetEnableRetryAfterHeader(), Stage: x.GetStage(), OnlyOthers: x.GetAlwaysConsumeDefaultTokenBucket() != nil && !x.GetAlwaysConsumeDefaultTokenBucket().GetValue()}
	if s := int(x.GetStatus().GetCode()); s >= 400 && s <= 599 { // less is an error of the operator's that Envoy corrects alike
		l.Status = s
	}
	switch x.GetEnableXRatelimitHeaders() {
	case ratelimitv3.XRateLimitHeadersRFCVersion_OFF:
	case ratelimitv3.XRateLimitHeadersRFCVersion_DRAFT_VERSION_03:
		l.Tell = true
	default:
		return nil, "", fmt.Errorf("%s.enable_x_ratelimit_headers: %v is not supported", path, x.GetEnableXRatelimitHeaders())
	}
	if l.Headers, err = literals(x.GetResponseHeadersToAdd(), path+".response_headers_to_add"); err != nil {
		return nil, "", err
	}
	if l.Unenforced, err = literals(x.GetRequestHeadersToAddWhenNotEnforced(), path+".request_headers_to_add_when_not_enforced"); err != nil {
		return nil, "", err
	}
	switch x.GetVhRateLimits() {
	case ratelimitv3.VhRateLimitsOptions_OVERRIDE:
	case ratelimitv3.VhRateLimitsOptions_INCLUDE:
		l.Hosts = route.HostRulesToo
	case ratelimitv3.VhRateLimitsOptions_IGNORE:
		l.Hosts = route.HostRulesNever
	default:
		return nil, "", fmt.Errorf("%s.vh_rate_limits: %v is not supported", path, x.GetVhRateLimits())
	}
	if l.Rules, err = decodeRateRules(x.GetRateLimits(), nil, path+".rate_limits"); err != nil {
		return nil, "", err
	}
	if l.Descriptors, err = decodeDescriptors(x, path); err != nil {
		return nil, "", err
	}
	if x.GetTokenBucket() != nil {
		if l.Bucket, err = decodeBucket(x.GetTokenBucket(), path+".token_bucket"); err != nil {
			return nil, "", err
		}
	}
	return l, x.GetStatPrefix(), nil
}

// decodeBucket keeps to the limits of the field, and to Envoy's of 50 ms.
func decodeBucket(t *typev3.TokenBucket, path string) (*ratelimit.Bucket, error) {
	fill, every := uint32(1), t.GetFillInterval().AsDuration()
	if t.GetTokensPerFill() != nil {
		fill = t.GetTokensPerFill().GetValue()
	}
	switch {
	case t.GetMaxTokens() == 0:
		return nil, fmt.Errorf("%s.max_tokens: must be 1 or more", path)
	case fill == 0:
		return nil, fmt.Errorf("%s.tokens_per_fill: must be 1 or more", path)
	case every < 50*time.Millisecond:
		return nil, fmt.Errorf("%s.fill_interval: %v, must be 50ms or more", path, every)
	}
	return ratelimit.NewBucket(t.GetMaxTokens(), fill, every), nil
}

// literals are headers without variables.
func literals(list []*corev3.HeaderValueOption, path string) (out []route.LiteralHeader, err error) {
	for i, o := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		name, value := strings.ToLower(o.GetHeader().GetKey()), o.GetHeader().GetValue()
		if err := cmp.Or(token(at+".header.key", name), oneLine(at+".header.value", value)); err != nil {
			return nil, err
		}
		h := route.LiteralHeader{Name: []byte(name), Value: []byte(value)}
		switch {
		case strings.Contains(value, "%"):
			return nil, fmt.Errorf("%s.header.value: %q: variables are not supported here", at, value)
		case o.GetAppend() != nil:
			h.Replaces = !o.GetAppend().GetValue()
		case o.GetAppendAction() == corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD:
			h.Replaces = true
		case o.GetAppendAction() != corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD:
			return nil, fmt.Errorf("%s.append_action: %v is not supported here", at, o.GetAppendAction())
		}
		out = append(out, h)
	}
	return out, nil
}

// decodeConnectionRate is the limit of new connections of a filter chain, nil for none.
func decodeConnectionRate(config *anypb.Any, path string) (*ratelimit.Bucket, error) {
	x := &networkratelimitv3.LocalRateLimit{}
	if err := unpack(config, x, path); err != nil {
		return nil, err
	}
	if on := x.GetRuntimeEnabled(); on != nil && !on.GetDefaultValue().GetValue() {
		return nil, nil
	}
	return decodeBucket(x.GetTokenBucket(), path+".token_bucket")
}
