package inject

import (
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	meshv1alpha1 "istio.io/api/mesh/v1alpha1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
	"github.com/weirmesh/weir/mesh"
)

// ConfigMapName is the injector's ConfigMap; ConfigKey and ValuesKey are its keys.
const (
	ConfigMapName = "istio-sidecar-injector"
	ConfigKey     = "config"
	ValuesKey     = "values"
)

// Settings are what injection depends on besides the pod. NewSettings makes them; they
// are not modified afterwards.
type Settings struct {
	Namespace string // of the control plane
	// Disabled: only pods that ask for a proxy get one (policy: disabled).
	Disabled bool
	Values   Values
	// NativeSidecars: the cluster runs init containers that stay (Kubernetes ≥ 1.29).
	NativeSidecars bool

	never, always []labels.Selector
	annotations   map[string]string // added to every pod
	mesh          meshDefaults
}

// Values are the installation's values that concern injection, under the names Istio's
// charts give them: the JSON of key "values".
type Values struct {
	Global                 Global   `json:"global"`
	Pilot                  Pilot    `json:"pilot"`
	SidecarInjectorWebhook Injector `json:"sidecarInjectorWebhook"`
	Revision               string   `json:"revision"`
	// CompatibilityVersion "1.0" lets hand-written sidecars speak plaintext to the
	// control plane: nothing is added to them.
	CompatibilityVersion string `json:"compatibilityVersion"`
}

// Global is values.global.
type Global struct {
	Hub              string            `json:"hub"`
	Tag              string            `json:"tag"`
	ImagePullPolicy  corev1.PullPolicy `json:"imagePullPolicy"`
	ImagePullSecrets []string          `json:"imagePullSecrets"`
	IstioNamespace   string            `json:"istioNamespace"`
	Network          string            `json:"network"`
	MeshID           string            `json:"meshID"`
	CAAddress        string            `json:"caAddress"`
	MultiCluster     MultiCluster      `json:"multiCluster"`
	Proxy            Proxy             `json:"proxy"`
	ProxyInit        ProxyInit         `json:"proxy_init"`
}

// Pilot is values.pilot.
type Pilot struct {
	CNI CNI `json:"cni"`
}

// CNI is values.pilot.cni: whether nodes make the capture rules of pods.
type CNI struct {
	Enabled bool `json:"enabled"`
}

// MultiCluster is values.global.multiCluster.
type MultiCluster struct {
	ClusterName string `json:"clusterName"`
}

// Proxy is values.global.proxy.
type Proxy struct {
	Image                        string                      `json:"image"`
	AutoInject                   string                      `json:"autoInject"` // enabled or disabled
	ClusterDomain                string                      `json:"clusterDomain"`
	LogLevel                     string                      `json:"logLevel"`
	Resources                    corev1.ResourceRequirements `json:"resources"`
	IncludeIPRanges              *string                     `json:"includeIPRanges"`
	ExcludeIPRanges              string                      `json:"excludeIPRanges"`
	IncludeInboundPorts          *string                     `json:"includeInboundPorts"`
	ExcludeInboundPorts          string                      `json:"excludeInboundPorts"`
	IncludeOutboundPorts         string                      `json:"includeOutboundPorts"`
	ExcludeOutboundPorts         string                      `json:"excludeOutboundPorts"`
	StatusPort                   *int32                      `json:"statusPort"`
	ReadinessInitialDelaySeconds int32                       `json:"readinessInitialDelaySeconds"`
	ReadinessPeriodSeconds       int32                       `json:"readinessPeriodSeconds"`
	ReadinessFailureThreshold    int32                       `json:"readinessFailureThreshold"`
	StartupProbe                 StartupProbe                `json:"startupProbe"`
	HoldApplication              *bool                       `json:"holdApplicationUntilProxyStarts"`
	Lifecycle                    *corev1.Lifecycle           `json:"lifecycle"`
	SeccompProfile               *corev1.SeccompProfile      `json:"seccompProfile"`
}

// StartupProbe is values.global.proxy.startupProbe.
type StartupProbe struct {
	Enabled          *bool `json:"enabled"`
	FailureThreshold int32 `json:"failureThreshold"`
}

// ProxyInit is values.global.proxy_init.
type ProxyInit struct {
	Image     string                      `json:"image"`
	Resources corev1.ResourceRequirements `json:"resources"`
}

// Injector is values.sidecarInjectorWebhook.
type Injector struct {
	RewriteAppHTTPProbe       *bool                  `json:"rewriteAppHTTPProbe"`
	EnableNamespacesByDefault bool                   `json:"enableNamespacesByDefault"`
	NeverInjectSelector       []metav1.LabelSelector `json:"neverInjectSelector"`
	AlwaysInjectSelector      []metav1.LabelSelector `json:"alwaysInjectSelector"`
	InjectedAnnotations       map[string]string      `json:"injectedAnnotations"`
}

// injectorConfig is the YAML of key "config".
type injectorConfig struct {
	Policy               string                 `json:"policy"`
	NeverInjectSelector  []metav1.LabelSelector `json:"neverInjectSelector"`
	AlwaysInjectSelector []metav1.LabelSelector `json:"alwaysInjectSelector"`
	InjectedAnnotations  map[string]string      `json:"injectedAnnotations"`
}

// meshDefaults is what injection takes from MeshConfig. The rest is config/istio's.
type meshDefaults struct {
	proxy           map[string]any // ProxyConfig, in protobuf's JSON
	prometheusMerge bool
	trustDomain     string
}

// Source is the text that Settings are made of. The zero value gives the defaults.
type Source struct {
	Config string // YAML, key "config" of the injector's ConfigMap
	Values string // JSON or YAML, key "values"
	Mesh   string // YAML, key "mesh" of the ConfigMap istio
	// Namespace of the control plane; istio-system.
	Namespace, Revision string
	// TrustDomain unless MeshConfig names one; cluster.local.
	TrustDomain    string
	NativeSidecars bool
}

// Defaults of what nobody says.
const (
	DefaultNamespace = "istio-system"
	defaultHub       = "weir"
	defaultImage     = "weir-proxy"
)

// NewSettings reads what an installation says. A text that cannot be read is an error:
// pods must not be given something else than the operator asked for. The findings are
// about settings without effect.
func NewSettings(src Source, version string) (*Settings, []config.Finding, error) {
	s := &Settings{Namespace: src.Namespace, NativeSidecars: src.NativeSidecars, mesh: meshDefaults{prometheusMerge: true, trustDomain: src.TrustDomain}}
	r := &reader{}
	s.Values = Values{Revision: src.Revision, Global: Global{Hub: defaultHub, Tag: version, Proxy: Proxy{Image: defaultImage, ReadinessPeriodSeconds: 15, ReadinessFailureThreshold: 4,
		StartupProbe: StartupProbe{FailureThreshold: 600}}}}
	r.object = mesh.Ref{Kind: "ConfigMap", Namespace: src.Namespace, Name: ConfigMapName}
	r.read(src.Values, ValuesKey, &s.Values, true)
	var c injectorConfig
	r.read(src.Config, ConfigKey, &c, false)
	if s.Namespace == "" {
		s.Namespace = s.Values.Global.IstioNamespace
	}
	if s.Namespace == "" {
		s.Namespace = DefaultNamespace
	}
	policy := c.Policy
	if policy == "" {
		policy = s.Values.Global.Proxy.AutoInject
	}
	switch policy {
	case "", "enabled":
	case "disabled":
		s.Disabled = true
	default:
		r.fail(ConfigKey, "policy", fmt.Errorf("%q is neither enabled nor disabled", policy))
	}
	s.never = r.selectors("neverInjectSelector", c.NeverInjectSelector, s.Values.SidecarInjectorWebhook.NeverInjectSelector)
	s.always = r.selectors("alwaysInjectSelector", c.AlwaysInjectSelector, s.Values.SidecarInjectorWebhook.AlwaysInjectSelector)
	s.annotations = map[string]string{}
	maps.Copy(s.annotations, s.Values.SidecarInjectorWebhook.InjectedAnnotations)
	maps.Copy(s.annotations, c.InjectedAnnotations)
	r.object = mesh.Ref{Kind: "ConfigMap", Namespace: s.Namespace, Name: "istio"}
	r.mesh(src.Mesh, &s.mesh)
	if s.mesh.trustDomain == "" {
		s.mesh.trustDomain = "cluster.local"
	}
	if r.err != nil {
		return nil, nil, r.err
	}
	return s, config.Tidy(r.findings), nil
}

// Gives says which proxy pods get that say nothing about it: the image, and the revision that they will name.
func (s *Settings) Gives() (revision, image string) {
	return s.revision(), (&work{s: s}).image(s.Values.Global.Proxy.Image)
}

func (s *Settings) revision() string {
	if s.Values.Revision == "" {
		return defaultRevision
	}
	return s.Values.Revision
}

// compatible reports whether hand-written sidecars may do without certificates.
func (s *Settings) compatible() bool { return s.Values.CompatibilityVersion == "1.0" }

// reader reads texts and keeps the first error.
type reader struct {
	object   mesh.Ref
	findings []config.Finding
	err      error
}

func (r *reader) fail(key, path string, err error) {
	if r.err == nil {
		r.err = fmt.Errorf("reading key %s of ConfigMap %s: %s: %w", key, r.object.Name, path, err)
	}
}

// knownElsewhere are parts of the values that other components read, below
// values.global and values.global.proxy.
var knownElsewhere = []string{"templates", "defaultTemplates", "aliases", "template"}

// read fills a struct. Values hold much that is not about injection, so that unknown
// fields of theirs are passed over; a field of the wrong type is an error.
func (r *reader) read(text, key string, to any, lenient bool) {
	if strings.TrimSpace(text) == "" {
		return
	}
	root, err := document.ParseYAML(text, 1)
	if err != nil {
		r.fail(key, "the text", err)
		return
	}
	if root == nil || root.Kind == document.Null {
		return
	}
	document.Struct(root, "", to, func(p document.Problem) {
		unknown := strings.HasPrefix(p.Message, "unknown field")
		switch {
		case unknown && lenient:
		case unknown:
			hint := p.Hint
			for _, k := range knownElsewhere {
				if p.Path == k {
					hint = "pods are patched by a program, not by templates: say it by values and annotations"
				}
			}
			r.findings = append(r.findings, config.New(config.InjectorSetting, r.object, document.Key("data", key), p.Line, p.Path+" has no effect", hint))
		default:
			r.fail(key, p.Path, fmt.Errorf("%s (%s)", p.Message, p.Hint))
		}
	})
}

func (r *reader) selectors(name string, lists ...[]metav1.LabelSelector) []labels.Selector {
	var out []labels.Selector
	for _, list := range lists {
		for i := range list {
			s, err := metav1.LabelSelectorAsSelector(&list[i])
			if err != nil {
				r.fail(ConfigKey, document.Index(name, i), err)
				continue
			}
			if !s.Empty() { // Istio's charts leave an empty one where none is meant
				out = append(out, s)
			}
		}
	}
	return out
}

// mesh reads what concerns injection. What is wrong with the rest, config/istio says.
func (r *reader) mesh(text string, to *meshDefaults) {
	if strings.TrimSpace(text) == "" {
		return
	}
	root, err := document.ParseYAML(text, 1)
	if err != nil {
		r.fail("mesh", "the text", err)
		return
	}
	if td := root.Get("trustDomain").String(); td != "" {
		to.trustDomain = td
	}
	if v := root.Get("enablePrometheusMerge"); v != nil && v.Kind == document.Bool {
		to.prometheusMerge = string(v.AppendJSON(nil)) == "true"
	}
	if v := root.Get("defaultConfig"); v != nil && v.Kind != document.Null {
		to.proxy, _ = decodeProxyConfig(v, func(p document.Problem) {
			// What exists no more is reported with the rest of MeshConfig.
			if !p.Deprecated && !strings.HasPrefix(p.Message, "unknown field") {
				r.fail("mesh", "defaultConfig."+p.Path, fmt.Errorf("%s (%s)", p.Message, p.Hint))
			}
		})
	}
}

// decodeProxyConfig reads a ProxyConfig into its JSON form, in which two are merged.
func decodeProxyConfig(v *document.Value, report func(document.Problem)) (map[string]any, error) {
	m := &meshv1alpha1.ProxyConfig{}
	document.Proto(v, "", m, report)
	data, err := proxyJSON(m)
	if err != nil {
		return nil, err
	}
	var out map[string]any
	if err := json.Unmarshal(data, &out); err != nil {
		return nil, err
	}
	return out, nil
}
