package istio

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/identity"
	"github.com/weirmesh/weir/mesh"
)

// MeshConfig is what Weir reads of Istio's MeshConfig: whom it is about, what of it is seen
// where objects do not say so themselves, and settings of the mesh. The zero value is
// Istio's default.
type MeshConfig struct {
	discovery                        []labels.Selector // nil: every namespace
	services, virtualServices, rules []string          // default exportTo
	registryOnly, accessLog          *bool             // nil: not said
	logFormat                        string
	logJSON                          bool
	retries                          *mesh.RetryPolicy
	locality                         *mesh.LocalityPolicy
	authorizers                      []mesh.Authorizer
	bundles                          []mesh.TrustBundle
	aliases                          []string
	paths                            mesh.PathNormalization
	topology                         mesh.Topology
}

// MeshConfigName and MeshConfigKey say where it stands: in a ConfigMap of the root namespace.
const (
	MeshConfigName  = "istio"
	MeshConfigKey   = "mesh"
	MeshNetworksKey = "meshNetworks"
)

// meshFields are the fields that are read here, and proxyFields those that injection and
// proxies read; all others are in tables.
var meshFields = []string{"discoverySelectors", "defaultServiceExportTo", "defaultVirtualServiceExportTo", "defaultDestinationRuleExportTo",
	"outboundTrafficPolicy", "accessLogFile", "accessLogFormat", "accessLogEncoding", "defaultHttpRetryPolicy", "localityLbSetting", "zoneAwareLbSetting", "trustDomain", "trustDomainAliases", "rootNamespace", "extensionProviders", "caCertificates", "pathNormalization"}

// LowerMeshConfig reads the text of a MeshConfig, which stands at path in o. settings are
// those the mesh was started with.
func LowerMeshConfig(o *config.Object, path, text string, settings *mesh.Settings) (*MeshConfig, []config.Finding) {
	r := config.NewReport(o)
	root := meshText(r, path, text)
	if root == nil {
		if r.Failed() {
			return nil, r.Findings
		}
		return &MeshConfig{}, r.Findings
	}
	read := takeNoted(r, path, root, meshNotes, []string{"enablePrometheusMerge", "defaultConfig"}, meshFields)
	var defaults *document.Value
	if d := root.Get("defaultConfig"); d != nil && d.Kind == document.Map {
		defaults = takeNoted(r, document.Key(path, "defaultConfig"), d, proxyNotes, proxyFields, []string{"gatewayTopology"})
	} else if d != nil && d.Kind != document.Null {
		r.Invalid(path, "defaultConfig is not a map of fields", "write FIELD: VALUE below it")
	}
	m := &meshv1alpha1.MeshConfig{}
	document.Proto(read, "", m, func(p document.Problem) { r.Invalid(path, p.Path+" "+p.Message, p.Hint) })
	out := &MeshConfig{services: m.DefaultServiceExportTo, virtualServices: m.DefaultVirtualServiceExportTo, rules: m.DefaultDestinationRuleExportTo}
	if defaults != nil {
		out.topology = topology(r, path, defaults)
	}
	out.settings(&lowerer{Report: r, o: o}, path, read, m, settings)
	for i, list := range [][]string{out.services, out.virtualServices, out.rules} {
		if _, problem, hint := ExportTo(list, "own", i == 0); problem != "" {
			r.Invalid(path, meshFields[i+1]+": "+problem, hint)
		}
	}
	for i, s := range m.DiscoverySelectors {
		selector := &metav1.LabelSelector{MatchLabels: s.MatchLabels}
		for _, e := range s.MatchExpressions {
			selector.MatchExpressions = append(selector.MatchExpressions, metav1.LabelSelectorRequirement{Key: e.Key, Operator: metav1.LabelSelectorOperator(e.Operator), Values: e.Values})
		}
		parsed, err := metav1.LabelSelectorAsSelector(selector)
		if err != nil {
			r.Invalid(path, document.Index("discoverySelectors", i)+": "+err.Error(), "write matchLabels, or matchExpressions with key, operator (In, NotIn, Exists, DoesNotExist) and values")
			continue
		}
		out.discovery = append(out.discovery, parsed)
	}
	if r.Failed() {
		return nil, r.Findings
	}
	return out, r.Findings
}

// meshText reads YAML that stands in a ConfigMap; nil if there is none, or it is wrong.
func meshText(r *config.Report, path, text string) *document.Value {
	root, err := document.ParseYAML(text, 1)
	switch {
	case err != nil:
		r.Invalid(path, "is not YAML: "+err.Error(), "repair the text")
		return nil
	case root == nil || root.Kind == document.Null:
		return nil
	case root.Kind != document.Map:
		r.Invalid(path, "is not a map of fields", "write FIELD: VALUE")
		return nil
	}
	return root
}

// topology is what of a ProxyConfig concerns gateways that have none of their own.
func topology(r *config.Report, path string, read *document.Value) mesh.Topology {
	p := &meshv1alpha1.ProxyConfig{}
	document.Proto(read, "defaultConfig", p, func(p document.Problem) { r.Invalid(path, p.Path+" "+p.Message, p.Hint) })
	t := p.GatewayTopology
	const field = "defaultConfig.gatewayTopology."
	out := mesh.Topology{TrustedProxies: t.GetNumTrustedProxies()}
	if out.TrustedProxies > mesh.MaxTrustedProxies {
		r.Invalid(path, fmt.Sprintf("%snumTrustedProxies: %d are more than %d", field, out.TrustedProxies, mesh.MaxTrustedProxies), "write how many proxies stand between clients and the gateway, one behind the other")
	}
	switch how := t.GetForwardClientCertDetails(); {
	case how == meshv1alpha1.ForwardClientCertDetails_UNDEFINED:
	case meshv1alpha1.ForwardClientCertDetails_name[int32(how)] == "":
		r.Invalid(path, fmt.Sprintf("%sforwardClientCertDetails: there is no %v", field, how), "use SANITIZE, FORWARD_ONLY, APPEND_FORWARD, SANITIZE_SET or ALWAYS_FORWARD_ONLY")
	default:
		out.ClientCert = how.String()
	}
	return out
}

// settings reads what overrides how the mesh was started, and tells what cannot.
func (c *MeshConfig) settings(l *lowerer, path string, read *document.Value, m *meshv1alpha1.MeshConfig, started *mesh.Settings) {
	if p := m.OutboundTrafficPolicy; p != nil {
		only := p.Mode == meshv1alpha1.MeshConfig_OutboundTrafficPolicy_REGISTRY_ONLY
		c.registryOnly = &only
		if p.Mode != meshv1alpha1.MeshConfig_OutboundTrafficPolicy_REGISTRY_ONLY && p.Mode != meshv1alpha1.MeshConfig_OutboundTrafficPolicy_ALLOW_ANY {
			l.Add(config.FieldNotEnforced, path+".outboundTrafficPolicy.mode", p.Mode.String()+" is not enforced in this version: it is ALLOW_ANY", "use ALLOW_ANY or REGISTRY_ONLY")
		}
	}
	if read.Get("accessLogFile") != nil {
		on := m.AccessLogFile != ""
		if on && m.AccessLogFile != "/dev/stdout" {
			l.Add(config.FieldNotEnforced, path+".accessLogFile", m.AccessLogFile+" is not written: the log goes to standard output", "write /dev/stdout")
		}
		c.accessLog = &on
	}
	c.logFormat, c.logJSON = m.AccessLogFormat, m.AccessLogEncoding == meshv1alpha1.MeshConfig_JSON
	checkLogFormat(l.Report, path+".accessLogFormat", c.logFormat, c.logJSON)
	c.retries = l.retries(path, m.DefaultHttpRetryPolicy)
	c.authorizers = l.authorizers(path, m.ExtensionProviders)
	c.locality = l.locality(path+".localityLbSetting", m.LocalityLbSetting)
	if z := m.ZoneAwareLbSetting; z != nil {
		if p := l.zoneAware(path+".zoneAwareLbSetting", z); p != nil {
			c.locality = p
		}
	}
	switch p := m.PathNormalization.GetNormalization(); p {
	case meshv1alpha1.MeshConfig_ProxyPathNormalization_MERGE_SLASHES:
		c.paths = mesh.PathsMerged
	case meshv1alpha1.MeshConfig_ProxyPathNormalization_DECODE_AND_MERGE_SLASHES:
		c.paths = mesh.PathsDecoded
	case meshv1alpha1.MeshConfig_ProxyPathNormalization_NONE:
		c.paths = mesh.PathsAsTheyCome
		l.Add(config.PathsAsTheyCome, path+".pathNormalization.normalization", "NONE lets requests get around AuthorizationPolicies that name paths: /a//../admin is not denied by a rule about /admin, and many programs take it for that",
			"use BASE, or MERGE_SLASHES or DECODE_AND_MERGE_SLASHES for programs that read paths so")
	case meshv1alpha1.MeshConfig_ProxyPathNormalization_DEFAULT, meshv1alpha1.MeshConfig_ProxyPathNormalization_BASE:
	default:
		l.Invalid(path, fmt.Sprintf("pathNormalization.normalization: there is no %v", p), "use NONE, BASE, MERGE_SLASHES or DECODE_AND_MERGE_SLASHES")
	}
	if d := m.TrustDomain; d != "" && d != started.TrustDomain {
		l.Add(config.FieldNotEnforced, path+".trustDomain", d+" is not in force: identities are in "+started.TrustDomain,
			"it follows from how weir-control was started: in Kubernetes restart it, on files give it --trust-domain, and leave it out here under weir up")
	}
	for i, d := range m.TrustDomainAliases {
		if _, err := identity.New(d, "a", "a"); err != nil {
			l.Add(config.FieldNotEnforced, document.Index(path+".trustDomainAliases", i), err.Error(), "write the name alone, for example old.example")
		} else if d != started.TrustDomain && !slices.Contains(c.aliases, d) {
			c.aliases = append(c.aliases, d)
		}
	}
	c.bundles = trustBundles(l, path+".caCertificates", m.CaCertificates, started)
	if ns := m.RootNamespace; ns != "" && ns != started.RootNamespace {
		l.Add(config.FieldNotEnforced, path+".rootNamespace", ns+" is not in force: the root namespace is that of the installation, "+started.RootNamespace, "move mesh-wide policies there")
	}
}

// Settings are those of a mesh that was started with s; s itself if nothing is said.
func (c *MeshConfig) Settings(s *mesh.Settings) *mesh.Settings {
	if c.registryOnly == nil && c.accessLog == nil && c.logFormat == "" && !c.logJSON && c.retries == nil && c.locality == nil && c.authorizers == nil && c.bundles == nil && c.aliases == nil && c.paths == mesh.PathsBase && c.topology == (mesh.Topology{}) {
		return s
	}
	own := *s
	if c.registryOnly != nil {
		own.RegistryOnly = *c.registryOnly
	}
	if c.accessLog != nil {
		own.AccessLog = *c.accessLog
	}
	own.Authorizers, own.TrustBundles = c.authorizers, c.bundles
	if c.aliases != nil {
		own.TrustDomainAliases = c.aliases
	}
	own.AccessLogFormat, own.AccessLogJSON = c.logFormat, c.logJSON
	own.Paths, own.Topology = c.paths, c.topology
	if c.retries != nil {
		own.DefaultRetries = *c.retries
		own.DefaultRetries.RetryOn = cmp.Or(c.retries.RetryOn, s.DefaultRetries.RetryOn)
	}
	if c.locality != nil {
		own.Locality = c.locality
	}
	return &own
}

// CheckMeshNetworks says what is wrong with the text of MeshNetworks at path in o; cluster is the one that is served.
func CheckMeshNetworks(o *config.Object, path, text, cluster string) []config.Finding {
	r := config.NewReport(o)
	root := meshText(r, path, text)
	if root == nil {
		return r.Findings
	}
	m := &meshv1alpha1.MeshNetworks{}
	document.Proto(root, "", m, func(p document.Problem) { r.Invalid(path, p.Path+" "+p.Message, p.Hint) })
	for _, name := range sortedKeys(m.Networks) {
		for i, e := range m.Networks[name].GetEndpoints() {
			if from := e.GetFromRegistry(); from != "" && from != cluster {
				r.Add(config.UnknownRegistry, document.Index(document.Key(path+".networks", name)+".endpoints", i)+".fromRegistry", fmt.Sprintf("%q is no cluster that is known here", from), "it is "+cluster)
			}
		}
		r.Add(config.FieldNotEnforced, document.Key(path+".networks", name), "is not enforced in this version: "+oneNet, "call workloads of other networks through a ServiceEntry of their gateway")
	}
	return r.Findings
}

// Selective reports whether namespaces may be left out.
func (c *MeshConfig) Selective() bool { return len(c.discovery) > 0 }

// Discovers reports whether objects in a namespace with these labels are part of the mesh.
func (c *MeshConfig) Discovers(namespace string, l map[string]string) bool {
	all := labels.Set{"kubernetes.io/metadata.name": namespace} // as the API server labels it
	maps.Copy(all, l)
	return !c.Selective() || slices.ContainsFunc(c.discovery, func(s labels.Selector) bool { return s.Matches(all) })
}

// DefaultExportTo is what a Visibility comes to in an object of a kind and namespace.
func (c *MeshConfig) DefaultExportTo(v mesh.Visibility, kind, namespace string) mesh.Visibility {
	values := c.services
	switch kind {
	case "VirtualService":
		values = c.virtualServices
	case "DestinationRule":
		values = c.rules
	}
	if v.Limited || v.Public || len(values) == 0 {
		return v
	}
	v, _, _ = ExportTo(values, namespace, true) // checked before
	return v
}
