package translate

import (
	"slices"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	filev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/file/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/weirmesh/weir/api/substitution"
	"github.com/weirmesh/weir/mesh"
)

// audits reports whether a policy marks calls for the log.
func (a *authorization) audits() bool {
	return slices.ContainsFunc(a.policies, func(p *mesh.AuthorizationPolicy) bool { return p.Action == mesh.AuthorizationAudit && !p.DryRun })
}

// auditLog writes a line of JSON for each call that RBAC filters with action LOG have marked, as Envoy's documentation of
// that action has it, whether or not access logs are written.
func auditLog(k *mint) *accesslogv3.AccessLog {
	values := map[string]*structpb.Value{}
	for name, format := range map[string]string{
		"audit": "%DYNAMIC_METADATA(" + substitution.AuditName + ")%", "start_time": "%START_TIME%", "duration": "%DURATION%",
		"source_principal": "%DOWNSTREAM_PEER_URI_SAN%", "source_address": "%DOWNSTREAM_REMOTE_ADDRESS%", "destination_address": "%DOWNSTREAM_LOCAL_ADDRESS%",
		"method": "%REQ(:METHOD)%", "authority": "%REQ(:AUTHORITY)%", "path": "%REQ_WITHOUT_QUERY(X-ENVOY-ORIGINAL-PATH?:PATH)%", "request_id": "%REQ(X-REQUEST-ID)%",
		"response_code": "%RESPONSE_CODE%", "response_code_details": "%RESPONSE_CODE_DETAILS%", "response_flags": "%RESPONSE_FLAGS%",
	} {
		values[name] = text(format)
	}
	return &accesslogv3.AccessLog{
		Name: "envoy.access_loggers.file",
		Filter: &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_MetadataFilter{MetadataFilter: &accesslogv3.MetadataFilter{
			Matcher: &matcherv3.MetadataMatcher{Filter: "envoy.common", Path: []*matcherv3.MetadataMatcher_PathSegment{{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: "access_log_hint"}}},
				Value: &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_BoolMatch{BoolMatch: true}}},
			MatchIfKeyNotFound: wrapperspb.Bool(false)}}},
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: k.any(&filev3.FileAccessLog{Path: "/dev/stdout",
			AccessLogFormat: &filev3.FileAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{Format: &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: fields(values)}}}})},
	}
}
