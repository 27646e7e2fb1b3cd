package inject

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"istio.io/api/annotation"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"

	"github.com/weirmesh/weir/config"
)

func settings(t interface{ Fatal(...any) }, src Source) *Settings {
	s, _, err := NewSettings(src, "0.1.0")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// The order of what decides: never, the pod's word (the label first), the selectors, the policy.
func TestDecide(t *testing.T) {
	const selectors = "neverInjectSelector: [{matchLabels: {never: x}}]\nalwaysInjectSelector: [{matchLabels: {always: x}}]\n"
	for _, c := range []struct {
		name                string
		namespace, config   string
		labels, annotations map[string]string
		host                bool
		want                bool
		reason              Reason
		finding             config.Code
	}{
		{name: "policy enabled", want: true, reason: ByPolicy},
		{name: "policy disabled", config: "policy: disabled", reason: ByPolicy},
		{name: "label against policy", config: "policy: disabled", labels: map[string]string{labelInject: "true"}, want: true, reason: ByLabel},
		{name: "label says no", labels: map[string]string{labelInject: "false"}, reason: ByLabel},
		{name: "annotation", config: "policy: disabled", annotations: map[string]string{annotationInject: "yes"}, want: true, reason: ByAnnotation, finding: config.DeprecatedAnnotation},
		{name: "label beats annotation", labels: map[string]string{labelInject: "false"}, annotations: map[string]string{annotationInject: "true"}, reason: ByLabel},
		{name: "neither true nor false", labels: map[string]string{labelInject: "maybe"}, reason: ByLabel, finding: config.InvalidAnnotation},
		{name: "host network beats the label", host: true, labels: map[string]string{labelInject: "true"}, reason: HostNetwork, finding: config.NotInjectable},
		{name: "host network in silence", host: true, reason: HostNetwork},
		{name: "ignored namespace", namespace: "kube-system", reason: IgnoredNamespace},
		{name: "the control plane's", namespace: "istio-system", config: "alwaysInjectSelector: [{matchLabels: {always: x}}]", labels: map[string]string{"always": "x"}, reason: OwnNamespace},
		{name: "a gateway beside the control plane", namespace: "istio-system", labels: map[string]string{labelInject: "true"}, annotations: map[string]string{annotationTemplates: "gateway"}, want: true, reason: ByLabel},
		{name: "an application beside the control plane", namespace: "istio-system", labels: map[string]string{labelInject: "true"}, reason: OwnNamespace, finding: config.NotInjectable},
		{name: "never before always", config: selectors, labels: map[string]string{"never": "x", "always": "x"}, reason: NeverSelector},
		{name: "the label before never", config: selectors, labels: map[string]string{"never": "x", labelInject: "true"}, want: true, reason: ByLabel},
		{name: "always before the policy", config: selectors + "policy: disabled", labels: map[string]string{"always": "x"}, want: true, reason: AlwaysSelector},
	} {
		t.Run(c.name, func(t *testing.T) {
			ns := c.namespace
			if ns == "" {
				ns = "shop"
			}
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "web", Labels: c.labels, Annotations: c.annotations},
				Spec: corev1.PodSpec{HostNetwork: c.host, Containers: []corev1.Container{{Name: "web"}}}}
			r := Inject(Input{Pod: pod, Namespace: Namespace{Name: ns}}, settings(t, Source{Config: c.config}))
			if r.Decision.Inject != c.want || r.Decision.Reason != c.reason || r.Decision.Message == "" || (r.Pod != nil) != c.want {
				t.Errorf("got %+v", r.Decision)
			}
			var codes []config.Code
			for _, f := range r.Findings {
				codes = append(codes, f.Code)
			}
			if c.finding == "" && len(codes) > 0 || c.finding != "" && !slices.Equal(codes, []config.Code{c.finding}) {
				t.Errorf("findings %v", r.Findings)
			}
		})
	}
}

// Which pods the webhooks of an installation ask about.
func TestSelected(t *testing.T) {
	l := func(pairs ...string) map[string]string {
		m := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			m[pairs[i]] = pairs[i+1]
		}
		return m
	}
	for _, c := range []struct {
		name           string
		namespace, pod map[string]string
		values         string
		want           bool
		reason         Reason
	}{
		{"nobody asks", nil, nil, "", false, NotSelected},
		{"the namespace", l(labelInjection, "enabled"), nil, "", true, ByNamespaceLabel},
		{"the namespace, not the pod", l(labelInjection, "enabled"), l(labelInject, "false"), "", false, NotSelected},
		{"the namespace says no, the pod yes", l(labelInjection, "disabled"), l(labelInject, "true"), "", false, NotSelected},
		{"the pod", nil, l(labelInject, "true"), "", true, ByLabel},
		{"revision of the namespace", l(labelRevision, "blue"), nil, `{"revision": "blue"}`, true, BySelectedRevision},
		{"another revision", l(labelRevision, "green"), nil, `{"revision": "blue"}`, false, NotSelected},
		{"revision of the pod", nil, l(labelRevision, "blue"), `{"revision": "blue"}`, true, BySelectedRevision},
		{"the plain label is the default revision's", l(labelInjection, "enabled"), nil, `{"revision": "blue"}`, false, NotSelected},
		{"both labels: the plain one decides", l(labelInjection, "enabled", labelRevision, "blue"), nil, "", true, ByNamespaceLabel},
		{"all namespaces", nil, nil, `{"sidecarInjectorWebhook": {"enableNamespacesByDefault": true}}`, true, ByDefault},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := Selected(Namespace{Name: "shop", Labels: c.namespace}, c.pod, settings(t, Source{Values: c.values}))
			if d.Inject != c.want || d.Reason != c.reason || d.Message == "" {
				t.Errorf("got %+v", d)
			}
		})
	}
	if d := Selected(Namespace{Name: "istio-system", Labels: l(labelInjection, "enabled")}, nil, settings(t, Source{})); d.Inject {
		t.Errorf("the control plane's namespace: %+v", d)
	}
	if d := Selected(Namespace{Name: "istio-system"}, l(labelInject, "true"), settings(t, Source{})); !d.Inject {
		t.Errorf("a gateway beside the control plane: %+v", d)
	}
}

// Every annotation of pods that Istio has is in the table, once, with a sentence.
func TestAnnotations(t *testing.T) {
	want := map[string]bool{}
	for _, a := range annotation.AllResourceAnnotations() {
		if slices.Contains(a.Resources, annotation.Pod) && !strings.HasPrefix(a.Name, "istio.io/workload") {
			want[a.Name] = true
		}
	}
	// features of Istio 1.31 that its list does not have, or calls by other kinds
	for _, name := range []string{annotationScrape, annotationScrapePort, annotationScrapePath, annotationRevision, "istio.io/reroute-virtual-interfaces",
		"ambient.istio.io/redirection", "ambient.istio.io/bypass-inbound-capture", "ambient.istio.io/dns-capture"} {
		want[name] = true
	}
	seen := map[string]bool{}
	for _, a := range Annotations() {
		if seen[a.Name] {
			t.Errorf("%s is there twice", a.Name)
		}
		seen[a.Name] = true
		if !want[a.Name] {
			t.Errorf("%s is no annotation of pods", a.Name)
		}
		if a.About == "" || a.Treatment != Honoured && a.read != nil {
			t.Errorf("%s: %+v", a.Name, a)
		}
	}
	for name := range want {
		if !seen[name] {
			t.Errorf("%s is missing", name)
		}
	}
}

// Whatever the pod: the patch makes it, a second injection changes nothing, names are
// unique and every mount has its volume.
func TestSound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		src := Source{NativeSidecars: rapid.Bool().Draw(t, "native"),
			Mesh: rapid.SampledFrom([]string{"", "enablePrometheusMerge: false", "defaultConfig: {statusPort: 15099}"}).Draw(t, "mesh"),
			Values: rapid.SampledFrom([]string{"", `{"global":{"imagePullSecrets":["pull"],"network":"n1","proxy":{"holdApplicationUntilProxyStarts":false}},"sidecarInjectorWebhook":{"injectedAnnotations":{"a/b~c":"d"}}}`,
				`{"compatibilityVersion":"1.0","revision":"blue"}`}).Draw(t, "values")}
		in := Input{Pod: drawPod(t), Namespace: Namespace{Name: "shop"}}
		s := settings(t, src)
		sound(t, in, s, Inject(in, s))
	})
}

func drawPod(t *rapid.T) *corev1.Pod {
	maybe := func(name string) bool { return rapid.Bool().Draw(t, name) }
	p := &corev1.Pod{}
	choices := map[string][]string{
		"sidecar.istio.io/interceptionMode": {"REDIRECT", "TPROXY", "NONE"}, "sidecar.istio.io/nativeSidecar": {"true", "false"}, "prometheus.io/scrape": {"true", "false"},
		"prometheus.io/port": {"9102", "15020"}, "prometheus.io/path": {"/m", "/stats/prometheus"}, "sidecar.istio.io/rewriteAppHTTPProbers": {"false"}, "inject.istio.io/templates": {"gateway"},
		"sidecar.istio.io/userVolume": {`{"mine": {"emptyDir": {}}}`}, "status.sidecar.istio.io/port": {"0", "15999"}, "proxy.istio.io/config": {"holdApplicationUntilProxyStarts: false"},
		"a~/b": {""},
	}
	for _, k := range slices.Sorted(maps.Keys(choices)) {
		vs := choices[k]
		if i := rapid.IntRange(-2*len(vs), len(vs)-1).Draw(t, k); i >= 0 {
			if p.Annotations == nil {
				p.Annotations = map[string]string{}
			}
			p.Annotations[k] = vs[i]
		}
	}
	if maybe("labels") {
		p.Labels = map[string]string{"app": "web", "security.istio.io/tlsMode": "disabled"}
	}
	handler := func(name string) corev1.ProbeHandler {
		return rapid.SampledFrom([]corev1.ProbeHandler{
			{HTTPGet: &corev1.HTTPGetAction{Path: "/x", Port: intstr.FromString("http")}}, {HTTPGet: &corev1.HTTPGetAction{Host: "h", Port: intstr.FromInt32(1)}},
			{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(80)}}, {GRPC: &corev1.GRPCAction{Port: 9}}, {Exec: &corev1.ExecAction{Command: []string{"x"}}},
		}).Draw(t, name)
	}
	container := func(name string) corev1.Container {
		c := corev1.Container{Name: name, Image: "x"}
		if maybe("port") {
			c.Ports = []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}
		}
		for _, f := range probesOf(&c) {
			if maybe(f.field) {
				*f.probe = &corev1.Probe{ProbeHandler: handler(f.field), TimeoutSeconds: 1}
			}
		}
		if maybe("lifecycle") {
			h := handler("preStop")
			c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{HTTPGet: h.HTTPGet, Exec: h.Exec}, PostStart: &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(1)}}}
		}
		return c
	}
	own := func(name string) corev1.Container {
		c := corev1.Container{Name: name, Image: autoImage}
		switch rapid.IntRange(0, 3).Draw(t, "own") {
		case 0:
			c.Image, c.Command = "istio/proxyv2:1.0.0", []string{"bash", "-c", "exec /usr/local/bin/pilot-agent proxy sidecar --controlPlaneAuthPolicy NONE"}
			c.VolumeMounts = []corev1.VolumeMount{{Name: volumeState, MountPath: "/etc/istio/proxy"}}
			if !slices.ContainsFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == volumeState }) {
				p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: volumeState})
			}
		case 1:
			c.Env = []corev1.EnvVar{{Name: "POD_NAME", Value: "x"}}
			c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"x"}}}}
		case 2:
			c.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
		}
		return c
	}
	for i := range rapid.IntRange(0, 2).Draw(t, "init") {
		p.Spec.InitContainers = append(p.Spec.InitContainers, container(fmt.Sprint("init", i)))
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "containers") {
		p.Spec.Containers = append(p.Spec.Containers, container(fmt.Sprint("c", i)))
	}
	if maybe("own init") {
		i := rapid.IntRange(0, len(p.Spec.InitContainers)).Draw(t, "place of init")
		p.Spec.InitContainers = slices.Insert(p.Spec.InitContainers, i, own(InitContainer))
	}
	switch rapid.IntRange(0, 3).Draw(t, "own proxy") {
	case 0:
		i := rapid.IntRange(0, len(p.Spec.Containers)).Draw(t, "place of proxy")
		p.Spec.Containers = slices.Insert(p.Spec.Containers, i, own(ProxyContainer))
	case 1:
		p.Spec.InitContainers = append(p.Spec.InitContainers, own(ProxyContainer))
	}
	if maybe("volume") {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: "data"})
	}
	if maybe("volume of ours") {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: volumeToken})
	}
	if maybe("pull secret") {
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "pull"}}
	}
	return p
}
