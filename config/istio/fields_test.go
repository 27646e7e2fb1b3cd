package istio

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	networkingv1alpha3 "istio.io/api/networking/v1alpha3"
	securityv1beta1 "istio.io/api/security/v1beta1"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Every field of the traffic objects either does what Istio says or is refused by name: nothing is taken silently. A field
// that a newer Istio brings fails the test until somebody has decided.
func TestEveryFieldIsDoneOrRefused(t *testing.T) {
	roots := map[string]proto.Message{
		"VirtualService": &networkingv1alpha3.VirtualService{}, "DestinationRule": &networkingv1alpha3.DestinationRule{}, "Gateway": &networkingv1alpha3.Gateway{},
		"ServiceEntry": &networkingv1alpha3.ServiceEntry{}, "WorkloadEntry": &networkingv1alpha3.WorkloadEntry{}, "Sidecar": &networkingv1alpha3.Sidecar{},
		"AuthorizationPolicy": &securityv1beta1.AuthorizationPolicy{}, "RequestAuthentication": &securityv1beta1.RequestAuthentication{},
	}
	for kind := range gaps {
		if roots[kind] == nil {
			t.Errorf("gaps of %s: the test does not know the kind", kind)
		}
	}
	used := map[string]bool{}
	for _, kind := range slices.Sorted(maps.Keys(roots)) {
		refused := map[string]bool{}
		for _, g := range gaps[kind] {
			refused[g.path] = true
		}
		var walk func(m protoreflect.MessageDescriptor, path string)
		walk = func(m protoreflect.MessageDescriptor, path string) {
			for i := range m.Fields().Len() {
				f := m.Fields().Get(i)
				name := string(m.Name()) + "." + f.JSONName()
				at := path + "." + f.JSONName()
				if f.IsList() {
					at += "[]"
				}
				bare := strings.TrimSuffix(at, "[]")
				// A gap names a list itself, or what is in its entries.
				if refused[bare] || refused[at] {
					continue
				}
				if elsewhere[name] != "" {
					continue
				}
				used[name] = true
				if !slices.Contains(done[string(m.Name())], f.JSONName()) {
					t.Errorf("%s: %s is neither done (fields_test.go) nor refused (unenforced.go)", name, bare)
					continue
				}
				if next := f.Message(); next != nil && !f.IsMap() && (strings.HasPrefix(string(next.FullName()), "istio.networking.") || strings.HasPrefix(string(next.FullName()), "istio.security.")) {
					walk(next, at)
				}
			}
		}
		walk(roots[kind].ProtoReflect().Descriptor(), "spec")
	}
	for _, message := range slices.Sorted(maps.Keys(done)) {
		for _, f := range done[message] {
			if !used[message+"."+f] {
				t.Errorf("%s: there is no such field, or it is refused everywhere", fmt.Sprintf("%s.%s", message, f))
			}
		}
	}
}

// elsewhere are fields that lowering itself refuses, with the reason.
var elsewhere = map[string]string{
	"Delay.exponentialDelay": "Istio does not have it in force either",
	"Abort.http2Error":       "Istio does not have it in force either",
}

// done are the fields in force, by message.
var done = map[string][]string{
	"RequestAuthentication":        strings.Fields("selector jwtRules"),
	"JWTRule":                      strings.Fields("issuer audiences jwksUri jwks fromHeaders fromParams fromCookies forwardOriginalToken outputPayloadToHeader outputClaimToHeaders timeout spaceDelimitedClaims"),
	"JWTHeader":                    strings.Fields("name prefix"),
	"ClaimToHeader":                strings.Fields("header claim"),
	"AuthorizationPolicy":          strings.Fields("selector rules action provider"),
	"ExtensionProvider":            strings.Fields("name"),
	"Rule":                         strings.Fields("from to when"),
	"From":                         strings.Fields("source"),
	"To":                           strings.Fields("operation"),
	"Source":                       strings.Fields("principals notPrincipals requestPrincipals notRequestPrincipals namespaces notNamespaces serviceAccounts notServiceAccounts ipBlocks notIpBlocks remoteIpBlocks notRemoteIpBlocks trustDomains notTrustDomains"),
	"Operation":                    strings.Fields("hosts notHosts ports notPorts methods notMethods paths notPaths"),
	"Condition":                    strings.Fields("key values notValues"),
	"Abort":                        strings.Fields("httpStatus grpcStatus percentage"),
	"ClientTLSSettings":            strings.Fields("credentialName mode clientCertificate privateKey caCertificates subjectAltNames sni insecureSkipVerify caCrl"),
	"ConnectionKeepalive":          strings.Fields("interval timeout"),
	"ConnectionPoolSettings":       strings.Fields("tcp http"),
	"CorsPolicy":                   strings.Fields("allowOrigin allowOrigins allowMethods allowHeaders exposeHeaders maxAge allowCredentials unmatchedPreflights"),
	"Delay":                        strings.Fields("percent fixedDelay percentage"),
	"Destination":                  strings.Fields("host subset port"),
	"DestinationRule":              strings.Fields("host trafficPolicy subsets exportTo workloadSelector"),
	"Gateway":                      strings.Fields("servers selector"),
	"HTTPBody":                     strings.Fields("string bytes"),
	"HTTPDirectResponse":           strings.Fields("status body"),
	"HTTPFaultInjection":           strings.Fields("delay abort"),
	"HTTPMatchRequest":             strings.Fields("statPrefix name uri scheme method authority headers port sourceLabels gateways queryParams ignoreUriCase withoutHeaders sourceNamespace"),
	"HTTPMirrorPolicy":             strings.Fields("destination percentage"),
	"HTTPRedirect":                 strings.Fields("uri authority port derivePort scheme redirectCode prefixRewrite"),
	"HTTPRetry":                    strings.Fields("attempts perTryTimeout retryOn retryIgnorePreviousHosts retryRemoteLocalities backoff"),
	"HTTPRewrite":                  strings.Fields("uri authority uriRegexRewrite"),
	"HTTPRoute":                    strings.Fields("name match route redirect directResponse delegate rewrite timeout retries fault mirror mirrors mirrorPercent mirrorPercentage corsPolicy headers"),
	"HTTPRouteDestination":         strings.Fields("destination weight headers"),
	"HTTPSettings":                 strings.Fields("http1MaxPendingRequests http2MaxRequests maxRequestsPerConnection maxRetries idleTimeout h2UpgradePolicy useClientProtocol maxConcurrentStreams http2KeepAlive"),
	"HeaderOperations":             strings.Fields("set add remove"),
	"Headers":                      strings.Fields("request response"),
	"IstioEgressListener":          strings.Fields("port bind captureMode hosts"),
	"IstioIngressListener":         strings.Fields("port bind captureMode defaultEndpoint tls connectionPool"),
	"L4MatchAttributes":            strings.Fields("destinationSubnets port sourceLabels gateways sourceNamespace"),
	"LoadBalancerSettings":         strings.Fields("simple consistentHash warmup warmupDurationSecs localityLbSetting zoneAwareLbSetting"),
	"ZoneAwareLoadBalancerSetting": strings.Fields("enabled failover failoverPriority minClusterSize"),
	"LocalityLoadBalancerSetting":  strings.Fields("distribute failover enabled failoverPriority"),
	"Distribute":                   strings.Fields("from to"),
	"Failover":                     strings.Fields("from to"),
	"ConsistentHashLB":             strings.Fields("httpHeaderName httpCookie useSourceIp httpQueryParameterName ringHash maglev minimumRingSize"),
	"HTTPCookie":                   strings.Fields("name path ttl attributes"),
	"Attribute":                    strings.Fields("name value"),
	"RingHash":                     strings.Fields("minimumRingSize"),
	"MagLev":                       strings.Fields("tableSize"),
	"WarmupConfiguration":          strings.Fields("duration minimumPercent aggression"),
	"OutboundTrafficPolicy":        strings.Fields("mode egressProxy"),
	"OutlierDetection":             strings.Fields("consecutiveErrors splitExternalLocalOriginErrors consecutiveLocalOriginFailures consecutiveGatewayErrors consecutive5xxErrors interval baseEjectionTime maxEjectionPercent minHealthPercent outlierDetectionHttpErrorCodes"),
	"Percent":                      strings.Fields("value"),
	"Port":                         strings.Fields("number protocol name targetPort"),
	"PortSelector":                 strings.Fields("number"),
	"PortTrafficPolicy":            strings.Fields("port loadBalancer connectionPool outlierDetection tls"),
	"ProxyProtocol":                strings.Fields("version"),
	"RegexRewrite":                 strings.Fields("match rewrite"),
	"RouteDestination":             strings.Fields("destination weight"),
	"Server":                       strings.Fields("port bind hosts tls name"),
	"ServerTLSSettings":            strings.Fields("httpsRedirect mode serverCertificate privateKey caCertificates caCrl credentialName credentialNames caCertCredentialName tlsCertificates subjectAltNames verifyCertificateSpki verifyCertificateHash minProtocolVersion maxProtocolVersion cipherSuites insecureSkipVerify"),
	"ServiceEntry":                 strings.Fields("hosts addresses ports location resolution endpoints workloadSelector exportTo subjectAltNames"),
	"ServicePort":                  strings.Fields("number protocol name targetPort"),
	"Sidecar":                      strings.Fields("workloadSelector ingress egress outboundTrafficPolicy inboundConnectionPool"),
	"SidecarPort":                  strings.Fields("number protocol name targetPort"),
	"StringMatch":                  strings.Fields("exact prefix regex"),
	"Subset":                       strings.Fields("name labels trafficPolicy"),
	"TCPRoute":                     strings.Fields("match route"),
	"TCPSettings":                  strings.Fields("maxConnections connectTimeout tcpKeepalive maxConnectionDuration idleTimeout"),
	"TLSMatchAttributes":           strings.Fields("sniHosts destinationSubnets port sourceLabels gateways sourceNamespace"),
	"TLSCertificate":               strings.Fields("serverCertificate privateKey caCertificates"),
	"Delegate":                     strings.Fields("name namespace"),
	"TLSRoute":                     strings.Fields("match route"),
	"TcpKeepalive":                 strings.Fields("probes time interval"),
	"TrafficPolicy":                strings.Fields("loadBalancer connectionPool outlierDetection tls portLevelSettings proxyProtocol retryBudget tunnel"),
	"TunnelSettings":               strings.Fields("protocol targetHost targetPort"),
	"RetryBudget":                  strings.Fields("percent minRetryConcurrency budgetInterval"),
	"VirtualService":               strings.Fields("hosts gateways http tls tcp exportTo"),
	"WorkloadEntry":                strings.Fields("address ports labels locality weight serviceAccount"),
	"WorkloadSelector":             strings.Fields("labels"),
}

// What is not done stands in the documentation, too.
func TestGapsAreDocumented(t *testing.T) {
	page, err := os.ReadFile("../../docs/traffic.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(page), "## What is not done")
	if !ok {
		t.Fatal("docs/traffic.md has no section of what is not done")
	}
	for _, kind := range []string{"VirtualService", "DestinationRule", "Gateway", "Sidecar", "WorkloadEntry", "ServiceEntry"} {
		for _, g := range gaps[kind] {
			field := g.path[strings.LastIndexByte(g.path, '.')+1:]
			if !strings.Contains(table, field) {
				t.Errorf("%s %s is not in the table", kind, g.path)
			}
		}
	}
}
