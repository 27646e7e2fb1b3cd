package inject

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"istio.io/api/annotation"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/document"
)

// Annotations that code names.
const (
	annotationStatus      = "sidecar.istio.io/status"
	annotationOverrides   = "proxy.istio.io/overrides"
	annotationProxyConfig = "proxy.istio.io/config"
	annotationTemplates   = "inject.istio.io/templates"
	annotationRevision    = "istio.io/rev"
	annotationScrape      = "prometheus.io/scrape"
	annotationScrapePort  = "prometheus.io/port"
	annotationScrapePath  = "prometheus.io/path"
)

// options are what the pod's annotations say.
type options struct {
	discoveryAddress, interceptionMode                     string
	image, logLevel, agentLogLevel                         string
	cpu, cpuLimit, memory, memoryLimit                     *resource.Quantity
	rewriteProbes, native, mergeMetrics                    *bool
	statusPort, initialDelay, period, failures             *int32
	includeRanges, includePorts                            *string
	excludeRanges, excludePorts                            string
	includeOutbound, excludeOutbound, excludeIfs, virtuals string
	volumes                                                []corev1.Volume
	mounts                                                 []corev1.VolumeMount
	templates                                              []string
}

// Treatment is what is done about an annotation.
type Treatment uint8

// Treatments.
const (
	// Honoured: it does what Istio's does.
	Honoured Treatment = iota
	// Written by the injector itself.
	Written
	// NotEnforced: it has no effect, and the pod's owner is told.
	NotEnforced
)

// Annotation is a row of the table of pod annotations.
type Annotation struct {
	Name      string
	Treatment Treatment
	// About says what it does, or why it has no effect.
	About string
	// Successor is what to write instead of a deprecated one.
	Successor string
	read      func(o *options, value string) error
}

// Annotations lists Istio's annotations of pods and what becomes of each.
func Annotations() []Annotation { return slices.Clone(annotations) }

var annotations = []Annotation{
	{Name: "sidecar.istio.io/inject", About: "whether the pod gets a proxy; the label of the same name beats it", Successor: "the label sidecar.istio.io/inject"},
	{Name: annotationStatus, Treatment: Written, About: "what was added, so that it can be done again"},
	{Name: "sidecar.istio.io/rewriteAppHTTPProbers", About: "whether probes are led through the proxy", read: boolean(func(o *options) **bool { return &o.rewriteProbes })},
	{Name: "sidecar.istio.io/proxyImage", About: "the image of the proxy", read: text(func(o *options) *string { return &o.image })},
	{Name: "sidecar.istio.io/proxyImageType", Treatment: NotEnforced, About: "there is one image, without a shell or a distribution in it"},
	{Name: "sidecar.istio.io/proxyCPU", About: "CPU the proxy requests", read: quantity(func(o *options) **resource.Quantity { return &o.cpu })},
	{Name: "sidecar.istio.io/proxyCPULimit", About: "limit of the proxy's CPU", read: quantity(func(o *options) **resource.Quantity { return &o.cpuLimit })},
	{Name: "sidecar.istio.io/proxyMemory", About: "memory the proxy requests", read: quantity(func(o *options) **resource.Quantity { return &o.memory })},
	{Name: "sidecar.istio.io/proxyMemoryLimit", About: "limit of the proxy's memory", read: quantity(func(o *options) **resource.Quantity { return &o.memoryLimit })},
	{Name: "sidecar.istio.io/interceptionMode", About: "how inbound traffic is captured", read: oneOf(func(o *options) *string { return &o.interceptionMode }, redirect, tproxy, none)},
	{Name: "sidecar.istio.io/bootstrapOverride", Treatment: NotEnforced, About: "the proxy is not Envoy and has no bootstrap to override"},
	{Name: "sidecar.istio.io/discoveryAddress", About: "address of the control plane", Successor: "discoveryAddress in proxy.istio.io/config", read: text(func(o *options) *string { return &o.discoveryAddress })},
	{Name: "sidecar.istio.io/statsInclusionPrefixes", Treatment: NotEnforced, About: "the proxy has none of Envoy's own statistics"},
	{Name: "sidecar.istio.io/statsInclusionSuffixes", Treatment: NotEnforced, About: "the proxy has none of Envoy's own statistics"},
	{Name: "sidecar.istio.io/statsInclusionRegexps", Treatment: NotEnforced, About: "the proxy has none of Envoy's own statistics"},
	{Name: "sidecar.istio.io/statsHistogramBuckets", Treatment: NotEnforced, About: "the buckets of histograms are fixed"},
	{Name: "sidecar.istio.io/statsFlushInterval", Treatment: NotEnforced, About: "metrics are read when they are asked for, never flushed"},
	{Name: "sidecar.istio.io/statsEvictionInterval", Treatment: NotEnforced, About: "the proxy decides itself when an unused metric goes"},
	{Name: "sidecar.istio.io/statsHistogramBins", Treatment: NotEnforced, About: "the buckets of histograms are fixed"},
	{Name: "sidecar.istio.io/statsCompression", Treatment: NotEnforced, About: "whoever scrapes decides about compression"},
	{Name: "sidecar.istio.io/userVolume", About: "volumes added to the pod, JSON", read: userVolumes},
	{Name: "sidecar.istio.io/userVolumeMount", About: "their mounts in the proxy, JSON", read: userMounts},
	{Name: "sidecar.istio.io/logLevel", About: "log level of the proxy", read: oneOf(func(o *options) *string { return &o.logLevel }, logLevels...)},
	{Name: "sidecar.istio.io/componentLogLevel", Treatment: NotEnforced, About: "Envoy's components do not exist; use sidecar.istio.io/logLevel"},
	{Name: "sidecar.istio.io/agentLogLevel", About: "log level of the proxy, too: proxy and agent are one program", read: scopes},
	{Name: "sidecar.istio.io/nativeSidecar", About: "whether the proxy is an init container that stays", read: boolean(func(o *options) **bool { return &o.native })},
	{Name: "sidecar.istio.io/extraStatTags", Treatment: NotEnforced, About: "the labels of metrics are fixed", Successor: "extraStatTags in proxy.istio.io/config"},

	{Name: "status.sidecar.istio.io/port", About: "port of the proxy's status server; 0 leads no probes through it", read: number(func(o *options) **int32 { return &o.statusPort }, 0, 65535)},
	{Name: "readiness.status.sidecar.istio.io/initialDelaySeconds", About: "of the proxy's readiness probe", read: number(func(o *options) **int32 { return &o.initialDelay }, 0, 3600)},
	{Name: "readiness.status.sidecar.istio.io/periodSeconds", About: "of the proxy's readiness probe", read: number(func(o *options) **int32 { return &o.period }, 1, 3600)},
	{Name: "readiness.status.sidecar.istio.io/failureThreshold", About: "of the proxy's readiness probe", read: number(func(o *options) **int32 { return &o.failures }, 1, 1<<20)},
	{Name: "readiness.status.sidecar.istio.io/applicationPorts", Treatment: NotEnforced, About: "the proxy is ready when it has its configuration; the application's readiness is its own probe's matter"},

	{Name: "traffic.sidecar.istio.io/includeOutboundIPRanges", About: "ranges whose traffic is captured, or *", read: ranges(func(o *options, v string) { o.includeRanges = &v }, true)},
	{Name: "traffic.sidecar.istio.io/excludeOutboundIPRanges", About: "ranges whose traffic is not captured", read: ranges(func(o *options, v string) { o.excludeRanges = v }, false)},
	{Name: "traffic.sidecar.istio.io/includeInboundPorts", About: "ports whose traffic is captured, or *", read: ports(func(o *options, v string) { o.includePorts = &v }, true)},
	{Name: "traffic.sidecar.istio.io/excludeInboundPorts", About: "ports whose traffic is not captured", read: ports(func(o *options, v string) { o.excludePorts = v }, false)},
	{Name: "traffic.sidecar.istio.io/includeOutboundPorts", About: "ports captured whatever the range, or *", read: ports(func(o *options, v string) { o.includeOutbound = v }, true)},
	{Name: "traffic.sidecar.istio.io/excludeOutboundPorts", About: "ports whose traffic is not captured", read: ports(func(o *options, v string) { o.excludeOutbound = v }, false)},
	{Name: "traffic.sidecar.istio.io/excludeInterfaces", About: "interfaces whose traffic is not captured", read: interfaces(func(o *options, v string) { o.excludeIfs = v })},
	{Name: "traffic.sidecar.istio.io/kubevirtInterfaces", About: "interfaces of virtual machines", Successor: "istio.io/reroute-virtual-interfaces", read: interfaces(func(o *options, v string) { o.virtuals = v })},
	{Name: "istio.io/reroute-virtual-interfaces", About: "interfaces of virtual machines: what comes in by them is outbound", read: interfaces(func(o *options, v string) { o.virtuals = v })},

	{Name: annotationProxyConfig, About: "fields of ProxyConfig for this pod, YAML"},
	{Name: annotationOverrides, Treatment: Written, About: "what the pod itself said about the proxy's containers"},
	{Name: annotationTemplates, About: "sidecar or gateway", read: templates},
	{Name: annotationRevision, Treatment: Written, About: "the revision that injected"},

	{Name: "prometheus.istio.io/merge-metrics", About: "whether the proxy serves the application's metrics with its own", read: boolean(func(o *options) **bool { return &o.mergeMetrics })},
	{Name: annotationScrape, About: "merged with the proxy's metrics"},
	{Name: annotationScrapePort, About: "where the application's metrics are"},
	{Name: annotationScrapePath, About: "where the application's metrics are"},

	{Name: "ambient.istio.io/redirection", Treatment: NotEnforced, About: "there is no ambient mode"},
	{Name: "ambient.istio.io/bypass-inbound-capture", Treatment: NotEnforced, About: "there is no ambient mode; use traffic.sidecar.istio.io/includeInboundPorts"},
	{Name: "ambient.istio.io/dns-capture", Treatment: NotEnforced, About: "there is no ambient mode; set ISTIO_META_DNS_CAPTURE under proxyMetadata in proxy.istio.io/config"},
}

// readAnnotations reads and reports every annotation of Istio's, in order of their names.
func (w *work) readAnnotations() {
	for _, name := range slices.Sorted(maps.Keys(w.pod.Annotations)) {
		value, path := w.pod.Annotations[name], annotationPath(name)
		i := slices.IndexFunc(annotations, func(a Annotation) bool { return a.Name == name })
		if i < 0 {
			w.foreign("Pod", name)
			continue
		}
		a := &annotations[i]
		if a.Treatment == NotEnforced {
			w.add(config.AnnotationNotEnforced, path, "has no effect: "+a.About, "remove it")
			continue
		}
		// Who writes the label, too, knows of it, and has the annotation for those who read nothing else.
		if _, labelled := w.pod.Labels[name]; a.Successor != "" && !labelled {
			w.add(config.DeprecatedAnnotation, path, "is deprecated", "use "+a.Successor)
		}
		if a.read == nil {
			continue
		}
		if err := a.read(&w.options, strings.TrimSpace(value)); err != nil {
			w.add(config.InjectionRefused, path, fmt.Sprintf("%q: %v", value, err), "correct or remove it; it is for: "+a.About)
		}
	}
}

func suggestion(name string) string {
	var known []string
	for i := range annotations {
		known = append(known, annotations[i].Name)
	}
	for _, a := range annotation.AllResourceAnnotations() {
		known = append(known, a.Name)
	}
	if near := document.Suggest(name, known); near != "" {
		return "did you mean " + near + "?"
	}
	return "remove it"
}

func text(field func(*options) *string) func(*options, string) error {
	return func(o *options, v string) error {
		if strings.ContainsAny(v, " \t\n") {
			return errors.New("must be one word")
		}
		*field(o) = v
		return nil
	}
}

func oneOf(field func(*options) *string, words ...string) func(*options, string) error {
	return func(o *options, v string) error {
		if !slices.Contains(words, v) {
			return errors.New("must be one of " + strings.Join(words, ", "))
		}
		*field(o) = v
		return nil
	}
}

// logLevels are Envoy's words and Istio's, all of which the proxy takes (proxy/agent).
var logLevels = []string{"trace", "debug", "info", "warning", "warn", "error", "critical", "fatal", "off", "none"}

// scopes reads "default:info,xds:debug", or a level alone.
func scopes(o *options, v string) error {
	for _, part := range fields(v) {
		level := part[strings.LastIndexByte(part, ':')+1:]
		if !slices.Contains(logLevels, level) {
			return fmt.Errorf("%q is no level; write SCOPE:LEVEL, where LEVEL is one of %s", level, strings.Join(logLevels, ", "))
		}
	}
	o.agentLogLevel = strings.Join(fields(v), ",")
	return nil
}

func boolean(field func(*options) **bool) func(*options, string) error {
	return func(o *options, v string) error {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return errors.New("must be true or false")
		}
		*field(o) = &b
		return nil
	}
}

func number(field func(*options) **int32, low, high int32) func(*options, string) error {
	return func(o *options, v string) error {
		n, err := strconv.ParseInt(v, 10, 32)
		if err != nil || int32(n) < low || int32(n) > high {
			return fmt.Errorf("must be a number from %d to %d", low, high)
		}
		i := int32(n)
		*field(o) = &i
		return nil
	}
}

func quantity(field func(*options) **resource.Quantity) func(*options, string) error {
	return func(o *options, v string) error {
		q, err := resource.ParseQuantity(v)
		if err != nil || q.Sign() < 0 {
			return errors.New(`must be a quantity such as "100m" or "128Mi"`)
		}
		*field(o) = &q
		return nil
	}
}

// fields splits a list by commas and leaves out what is empty.
func fields(v string) []string {
	var out []string
	for f := range strings.SplitSeq(v, ",") {
		if f = strings.TrimSpace(f); f != "" {
			out = append(out, f)
		}
	}
	return out
}

// listOf reads values with commas between, or a * where that is allowed, in the form that
// the proxy's init reads.
func listOf(set func(*options, string), wildcard bool, check func(string) error) func(*options, string) error {
	return func(o *options, v string) error {
		if wildcard && v == "*" {
			set(o, v)
			return nil
		}
		words := fields(v)
		for _, w := range words {
			if err := check(w); err != nil {
				return err
			}
		}
		set(o, strings.Join(words, ","))
		return nil
	}
}

func ranges(set func(*options, string), wildcard bool) func(*options, string) error {
	return listOf(set, wildcard, func(f string) error {
		if _, err := netip.ParsePrefix(f); err != nil {
			return fmt.Errorf("%q is not a range such as 10.0.0.0/8", f)
		}
		return nil
	})
}

func ports(set func(*options, string), wildcard bool) func(*options, string) error {
	return listOf(set, wildcard, func(f string) error {
		if _, ok := portOf(f); !ok {
			return fmt.Errorf("%q is not a port", f)
		}
		return nil
	})
}

func interfaces(set func(*options, string)) func(*options, string) error {
	return listOf(set, false, func(f string) error {
		if len(f) > 15 || strings.ContainsAny(f, "/ \t") { // IFNAMSIZ is 16 with its end
			return fmt.Errorf("%q is not the name of an interface", f)
		}
		return nil
	})
}

func templates(o *options, v string) error {
	o.templates = fields(v)
	for _, t := range o.templates {
		switch t {
		case "sidecar", "gateway":
		case "grpc-simple", "grpc-agent":
			return errors.New("proxyless gRPC is not there yet")
		default:
			return fmt.Errorf("there is no template %q; there are sidecar and gateway", t)
		}
	}
	return nil
}

// named reads JSON that is a list of objects with names, or a mapping from names to them.
func named[T any](v string, name func(*T) *string) ([]T, error) {
	var list []T
	if strings.HasPrefix(v, "[") {
		if err := json.Unmarshal([]byte(v), &list); err != nil {
			return nil, fmt.Errorf("is not JSON of the right form: %w", err)
		}
	} else {
		var m map[string]T
		if err := json.Unmarshal([]byte(v), &m); err != nil {
			return nil, fmt.Errorf("is not JSON of the right form: %w", err)
		}
		for _, k := range slices.Sorted(maps.Keys(m)) {
			item := m[k]
			if n := name(&item); *n == "" {
				*n = k
			}
			list = append(list, item)
		}
	}
	for i := range list {
		if *name(&list[i]) == "" {
			return nil, errors.New("an entry has no name")
		}
	}
	return list, nil
}

func userVolumes(o *options, v string) (err error) {
	o.volumes, err = named(v, func(v *corev1.Volume) *string { return &v.Name })
	return err
}

func userMounts(o *options, v string) (err error) {
	o.mounts, err = named(v, func(m *corev1.VolumeMount) *string { return &m.Name })
	for _, m := range o.mounts {
		if m.MountPath == "" {
			return errors.Join(err, fmt.Errorf("the mount of %q has no mountPath", m.Name))
		}
	}
	return err
}
