package state

import (
	"cmp"
	"fmt"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	localratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	metadatav3 "github.com/envoyproxy/go-control-plane/envoy/type/metadata/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/weirmesh/weir/proxy/ratelimit"
	"github.com/weirmesh/weir/proxy/route"
)

// defaultDynamic is max_dynamic_descriptors's default, and mostDynamic is what a limit may ask for: each is a bucket of some 200 bytes.
const (
	defaultDynamic = 20
	mostDynamic    = 100_000
)

// decodeDescriptors reads the limits of requests with certain descriptors, nil for none.
func decodeDescriptors(x *localratelimitv3.LocalRateLimit, path string) (*ratelimit.Descriptors, error) {
	if len(x.GetDescriptors()) == 0 {
		return nil, nil
	}
	most := uint32(defaultDynamic)
	if m := x.GetMaxDynamicDescriptors(); m != nil {
		most = m.GetValue()
	}
	if most == 0 || most > mostDynamic {
		return nil, fmt.Errorf("%s.max_dynamic_descriptors: %d, must be 1 to %d", path, most, mostDynamic)
	}
	out := ratelimit.NewDescriptors(int(most))
	for i, d := range x.GetDescriptors() {
		at := fmt.Sprintf("%s.descriptors[%d]", path, i)
		if len(d.GetEntries()) == 0 {
			return nil, fmt.Errorf("%s.entries: is empty", at)
		}
		var entries []ratelimit.Entry
		for j, e := range d.GetEntries() {
			if e.GetKey() == "" {
				return nil, fmt.Errorf("%s.entries[%d].key: is empty", at, j)
			}
			entries = append(entries, ratelimit.Entry{Key: e.GetKey(), Value: []byte(e.GetValue())})
		}
		if _, err := decodeBucket(d.GetTokenBucket(), at+".token_bucket"); err != nil {
			return nil, err
		}
		fresh := func() *ratelimit.Bucket {
			b, _ := decodeBucket(d.GetTokenBucket(), "") // it was checked
			return b
		}
		if err := out.Add(entries, d.GetShadowMode(), fresh); err != nil {
			return nil, fmt.Errorf("%s: %w", at, err)
		}
	}
	return out, nil
}

// decodeRateRules reads rate_limits. What a route's metadata says is known here; own is nil where there is no route.
func decodeRateRules(list []*routev3.RateLimit, own *corev3.Metadata, path string) (out []route.RateRule, err error) {
	if len(list) > route.MostRateRules {
		return nil, fmt.Errorf("%s: %d, at most %d", path, len(list), route.MostRateRules)
	}
	for i, l := range list {
		at := fmt.Sprintf("%s[%d]", path, i)
		r := route.RateRule{Stage: l.GetStage().GetValue()}
		switch n := len(l.GetActions()); {
		case r.Stage > 10:
			return nil, fmt.Errorf("%s.stage: %d, at most 10", at, r.Stage)
		case n == 0 || n > route.MostRateActions:
			return nil, fmt.Errorf("%s.actions: %d, must be 1 to %d", at, n, route.MostRateActions)
		}
		for j, a := range l.GetActions() {
			action, err := decodeRateAction(a, own, fmt.Sprintf("%s.actions[%d]", at, j))
			if err != nil {
				return nil, err
			}
			r.Actions = append(r.Actions, action)
		}
		out = append(out, r)
	}
	return out, nil
}

func decodeRateAction(a *routev3.RateLimit_Action, own *corev3.Metadata, path string) (out route.RateAction, err error) {
	switch s := a.GetActionSpecifier().(type) {
	case *routev3.RateLimit_Action_SourceCluster_:
		out.Kind, out.Key = route.RateSource, "source_cluster"
	case *routev3.RateLimit_Action_DestinationCluster_:
		out.Kind, out.Key = route.RateDestination, "destination_cluster"
	case *routev3.RateLimit_Action_RemoteAddress_:
		out.Kind, out.Key = route.RateAddress, "remote_address"
	case *routev3.RateLimit_Action_RequestHeaders_:
		out.Kind, out.Key, out.Skip = route.RateHeader, s.RequestHeaders.GetDescriptorKey(), s.RequestHeaders.GetSkipIfAbsent()
		if out.Name = strings.ToLower(s.RequestHeaders.GetHeaderName()); out.Name == "" {
			return out, fmt.Errorf("%s.request_headers.header_name: is empty", path)
		}
		path += ".request_headers"
	case *routev3.RateLimit_Action_QueryParameters_:
		out.Kind, out.Key, out.Skip = route.RateQuery, s.QueryParameters.GetDescriptorKey(), s.QueryParameters.GetSkipIfAbsent()
		if out.Name = s.QueryParameters.GetQueryParameterName(); out.Name == "" {
			return out, fmt.Errorf("%s.query_parameters.query_parameter_name: is empty", path)
		}
		path += ".query_parameters"
	case *routev3.RateLimit_Action_GenericKey_:
		out.Key = cmp.Or(s.GenericKey.GetDescriptorKey(), "generic_key")
		out.Value, err = rateValue(s.GenericKey.GetDescriptorValue(), path+".generic_key")
	case *routev3.RateLimit_Action_HeaderValueMatch_:
		m := s.HeaderValueMatch
		path += ".header_value_match"
		out.Kind, out.Key, out.Invert = route.RateHeadersMatch, cmp.Or(m.GetDescriptorKey(), "header_match"), m.GetExpectMatch() != nil && !m.GetExpectMatch().GetValue()
		for i, h := range m.GetHeaders() {
			v, err := decodeHeaderMatch(h, fmt.Sprintf("%s.headers[%d]", path, i))
			if err != nil {
				return out, err
			}
			out.Matches = append(out.Matches, v)
		}
		if len(out.Matches) == 0 {
			return out, fmt.Errorf("%s.headers: is empty", path)
		}
		out.Value, err = rateValue(m.GetDescriptorValue(), path)
	case *routev3.RateLimit_Action_QueryParameterValueMatch_:
		m := s.QueryParameterValueMatch
		path += ".query_parameter_value_match"
		out.Kind, out.Key, out.Invert = route.RateQueryMatch, cmp.Or(m.GetDescriptorKey(), "query_match"), m.GetExpectMatch() != nil && !m.GetExpectMatch().GetValue()
		if out.Matches, err = decodeQueryMatches(m.GetQueryParameters(), path); err != nil {
			return out, err
		}
		if len(out.Matches) == 0 {
			return out, fmt.Errorf("%s.query_parameters: is empty", path)
		}
		out.Value, err = rateValue(m.GetDescriptorValue(), path)
	case *routev3.RateLimit_Action_MaskedRemoteAddress_:
		m := s.MaskedRemoteAddress
		out.Kind, out.Key, out.V4, out.V6 = route.RateAddressMasked, "masked_remote_address", 32, 128
		if n := m.GetV4PrefixMaskLen(); n != nil {
			out.V4 = int(n.GetValue())
		}
		if n := m.GetV6PrefixMaskLen(); n != nil {
			out.V6 = int(n.GetValue())
		}
		if out.V4 > 32 || out.V6 > 128 {
			return out, fmt.Errorf("%s.masked_remote_address: a prefix has at most 32 bits, of IPv6 128", path)
		}
	case *routev3.RateLimit_Action_RemoteAddressMatch_:
		m := s.RemoteAddressMatch
		path += ".remote_address_match"
		out.Kind, out.Key, out.Invert = route.RateAddressMatch, cmp.Or(m.GetDescriptorKey(), "remote_address_match"), m.GetAddressMatcher().GetInvertMatch()
		if out.Prefixes, err = cidrs(m.GetAddressMatcher().GetRanges(), path+".address_matcher.ranges"); err != nil {
			return out, err
		}
		out.Value, err = rateValue(m.GetDescriptorValue(), path)
	case *routev3.RateLimit_Action_DynamicMetadata:
		out, err = rateClaim(s.DynamicMetadata.GetMetadataKey(), path+".dynamic_metadata.metadata_key")
		out.Key, out.Value = s.DynamicMetadata.GetDescriptorKey(), s.DynamicMetadata.GetDefaultValue()
	case *routev3.RateLimit_Action_Metadata:
		m := s.Metadata
		path += ".metadata"
		switch m.GetSource() {
		case routev3.RateLimit_Action_MetaData_DYNAMIC:
			out, err = rateClaim(m.GetMetadataKey(), path+".metadata_key")
			out.Value = m.GetDefaultValue()
		case routev3.RateLimit_Action_MetaData_ROUTE_ENTRY:
			v := structpb.NewStructValue(own.GetFilterMetadata()[m.GetMetadataKey().GetKey()])
			for _, p := range m.GetMetadataKey().GetPath() {
				v = v.GetStructValue().GetFields()[p.GetKey()]
			}
			if out.Value = cmp.Or(v.GetStringValue(), m.GetDefaultValue()); out.Value == "" {
				out.Kind = route.RateClaim // of which there are none
				out.Claims = []string{""}
			}
		default:
			return out, fmt.Errorf("%s.source: %v is not supported", path, m.GetSource())
		}
		out.Key, out.Skip = m.GetDescriptorKey(), m.GetSkipIfAbsent()
	default:
		return out, fmt.Errorf("%s: has no action", path)
	}
	if err == nil && out.Key == "" {
		err = fmt.Errorf("%s.descriptor_key: is empty", path)
	}
	return out, err
}

// rateValue is a fixed value. Envoy takes it literally, or as a text with variables, by a flag of its own.
func rateValue(v, path string) (string, error) {
	switch {
	case v == "":
		return "", fmt.Errorf("%s.descriptor_value: is empty", path)
	case strings.Contains(v, "%"):
		return "", fmt.Errorf("%s.descriptor_value: %q: variables are not supported here; use request_headers", path, v)
	}
	return v, nil
}

// rateClaim finds a value in what tokens say. Other filters leave nothing.
func rateClaim(k *metadatav3.MetadataKey, path string) (out route.RateAction, err error) {
	if k.GetKey() != jwtFilter {
		return out, fmt.Errorf("%s.key: %q: only %s leaves metadata here", path, k.GetKey(), jwtFilter)
	}
	out.Kind = route.RateClaim
	for i, p := range k.GetPath() {
		if p.GetKey() == "" {
			return out, fmt.Errorf("%s.path[%d].key: is empty", path, i)
		}
		out.Claims = append(out.Claims, p.GetKey())
	}
	if len(out.Claims) == 0 {
		return out, fmt.Errorf("%s.path: is empty", path)
	}
	return out, nil
}
