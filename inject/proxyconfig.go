package inject

import (
	"bytes"
	"encoding/json"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	meshv1alpha1 "istio.io/api/mesh/v1alpha1"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
)

// proxyConfig is the effective ProxyConfig of one pod.
type proxyConfig struct {
	*meshv1alpha1.ProxyConfig
	json string // what the proxy is given
}

// obsoleteFields of ProxyConfig are gone from Istio's API; files of the time have them.
var obsoleteFields = []string{"parentShutdownDuration", "connectTimeout", "concurrencyLimit", "zipkinSampling", "sdsUdsPath", "sds", "proxyDiscoveryType"}

// readProxyConfig merges the mesh's default with the pod's annotations.
func (w *work) readProxyConfig() {
	merged := map[string]any{}
	merge(merged, w.s.mesh.proxy)
	if text := w.pod.Annotations[annotationProxyConfig]; text != "" {
		merge(merged, w.annotatedProxyConfig(text))
	}
	if a := w.options.discoveryAddress; a != "" {
		merged["discoveryAddress"] = a
	}
	if m := w.options.interceptionMode; m != "" {
		merged["interceptionMode"] = m
	}
	if p := w.options.statusPort; p != nil {
		merged["statusPort"] = *p
	} else if _, ok := merged["statusPort"]; !ok {
		merged["statusPort"] = defaultStatusPort(w.s.Values.Global.Proxy.StatusPort)
	}
	address, _ := merged["discoveryAddress"].(string)
	merged["discoveryAddress"] = w.secureAddress(address)
	if !w.s.compatible() {
		delete(merged, "controlPlaneAuthPolicy") // NONE is no choice any more
	}
	w.proxy = &proxyConfig{ProxyConfig: &meshv1alpha1.ProxyConfig{}}
	data, err := json.Marshal(merged)
	if err == nil {
		err = protojson.Unmarshal(data, w.proxy.ProxyConfig)
	}
	if err == nil {
		data, err = proxyJSON(w.proxy.ProxyConfig)
	}
	if err != nil { // both halves were read before
		w.add(config.InjectionRefused, annotationPath(annotationProxyConfig), "cannot be joined with the mesh's defaultConfig: "+err.Error(), "correct the annotation")
	}
	w.proxy.json = string(data)
}

func defaultStatusPort(p *int32) int32 {
	if p == nil {
		return portStatus
	}
	return *p
}

func (w *work) annotatedProxyConfig(text string) map[string]any {
	path := annotationPath(annotationProxyConfig)
	root, err := document.ParseYAML(text, 1)
	if err != nil {
		w.add(config.InjectionRefused, path, "is not YAML: "+err.Error(), "write fields of ProxyConfig, one a line")
		return nil
	}
	if root == nil {
		return nil
	}
	out, err := decodeProxyConfig(root, func(p document.Problem) {
		switch {
		case p.Deprecated:
			w.add(config.Deprecated, path, p.Path+" "+p.Message, p.Hint)
		case slices.Contains(obsoleteFields, p.Path):
			w.add(config.AnnotationNotEnforced, path, p.Path+" is gone from Istio and has no effect", "remove it")
		default:
			w.add(config.InjectionRefused, path, p.Path+": "+p.Message, p.Hint)
		}
	})
	if err != nil {
		w.add(config.InjectionRefused, path, err.Error(), "correct the annotation")
	}
	if t, ok := out["gatewayTopology"].(map[string]any); ok && t["numTrustedProxies"] == nil && root.Get("gatewayTopology").Get("numTrustedProxies") != nil {
		t["numTrustedProxies"] = 0 // protobuf leaves it out, and the mesh's would hold at a gateway that nothing stands in front of
	}
	return out
}

// merge puts b over a: fields of mappings one by one, everything else whole.
func merge(a, b map[string]any) {
	for _, k := range slices.Sorted(maps.Keys(b)) {
		if from, ok := b[k].(map[string]any); ok {
			to, ok := a[k].(map[string]any)
			into := map[string]any{}
			if ok {
				merge(into, to)
			}
			merge(into, from)
			a[k] = into
			continue
		}
		a[k] = b[k]
	}
}

// proxyJSON is protobuf's JSON without the spaces it varies on purpose.
func proxyJSON(m *meshv1alpha1.ProxyConfig) ([]byte, error) {
	data, err := protojson.Marshal(m)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := json.Compact(&b, data); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// oldPorts of the control plane's Service, all of which lead to one that is secure now;
// 15007 and 15010 were plaintext.
var oldPorts = []string{"15003", "15005", "15007", "15010", "15011"}

// secureAddress leads addresses of old installations to the secure port.
func (w *work) secureAddress(address string) string {
	own := "istiod." + w.s.Namespace + ".svc:15012"
	if w.s.revision() != defaultRevision {
		own = "istiod-" + w.s.revision() + "." + w.s.Namespace + ".svc:15012"
	}
	if address == "" {
		return own
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || w.s.compatible() {
		return address
	}
	service, rest, _ := strings.Cut(host, ".")
	if service != "istio-pilot" && service != "istiod" || !slices.Contains(oldPorts, port) {
		return address
	}
	namespace, _, _ := strings.Cut(rest, ".")
	if namespace == "" || namespace == w.s.Namespace {
		return own
	}
	return "istiod." + namespace + ".svc:15012"
}

// portOf reads a number of a port.
func portOf(s string) (int32, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return int32(n), err == nil && n > 0
}
