package config

import (
	"slices"
	"strings"

	"github.com/weirmesh/weir/config/document"
)

// Use says what Weir does with a kind.
type Use uint8

// Uses of a kind.
const (
	// Enforced kinds are lowered into the mesh.
	Enforced Use = iota
	// NotEnforced kinds ask for something this version does not do: never silently
	// ignored.
	NotEnforced
	// NotUsed kinds belong to somebody else.
	NotUsed
)

// kindInfo is a row of the table of kinds: all kinds of a group that Weir looks into.
type kindInfo struct {
	group    string
	versions []string // served, the preferred first
	use      Use
	kinds    []string
}

var kinds = []kindInfo{
	{"networking.istio.io", []string{"v1", "v1beta1", "v1alpha3"}, Enforced, []string{"VirtualService", "DestinationRule", "Gateway", "ServiceEntry", "WorkloadEntry", "Sidecar"}},
	{"networking.istio.io", []string{"v1", "v1beta1", "v1alpha3"}, NotEnforced, []string{"WorkloadGroup"}},
	{"networking.istio.io", []string{"v1alpha3"}, NotEnforced, []string{"EnvoyFilter"}},
	{"networking.istio.io", []string{"v1beta1"}, NotEnforced, []string{"ProxyConfig"}},
	{"security.istio.io", []string{"v1", "v1beta1"}, Enforced, []string{"PeerAuthentication", "RequestAuthentication", "AuthorizationPolicy"}},
	{"rbac.istio.io", []string{"v1alpha1"}, Enforced, []string{"ServiceRole", "ServiceRoleBinding", "RbacConfig", "ClusterRbacConfig"}},
	{"authentication.istio.io", []string{"v1alpha1"}, Enforced, []string{"Policy", "MeshPolicy"}},
	{"telemetry.istio.io", []string{"v1", "v1alpha1"}, NotEnforced, []string{"Telemetry"}},
	{"extensions.istio.io", []string{"v1alpha1"}, NotEnforced, []string{"WasmPlugin", "TrafficExtension"}},

	{"", []string{"v1"}, Enforced, []string{"Service", "ServiceAccount", "Namespace", "ConfigMap", "Secret", "Pod"}},
	{"apps", []string{"v1"}, Enforced, []string{"Deployment"}},
	{"", []string{"v1"}, NotUsed, []string{"Binding", "ComponentStatus", "Endpoints", "Event", "LimitRange", "Node", "PersistentVolume",
		"PersistentVolumeClaim", "PodTemplate", "ReplicationController", "ResourceQuota"}},
	{"apps", []string{"v1"}, NotUsed, []string{"ControllerRevision", "DaemonSet", "ReplicaSet", "StatefulSet"}},
}

// policyGroups are API groups whose every kind asks for routing or security, so that
// ignoring one is never harmless.
var policyGroups = []string{"gateway.networking.k8s.io", "gateway.networking.x-k8s.io", "inference.networking.k8s.io", "multicluster.x-k8s.io",
	"split.smi-spec.io", "access.smi-spec.io", "specs.smi-spec.io", "config.istio.io", "install.istio.io"}

// clusterScoped are the common kinds without a namespace.
var clusterScoped = []string{"Namespace", "Node", "PersistentVolume", "ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition", "StorageClass",
	"IngressClass", "GatewayClass", "PriorityClass", "MutatingWebhookConfiguration", "ValidatingWebhookConfiguration", "APIService", "ComponentStatus",
	"MeshPolicy", "ClusterRbacConfig"}

// Classify says what is done with a kind; problem and hint are not empty if there is no
// such kind.
func Classify(apiVersion, kind string) (use Use, problem, hint string) {
	group, version := splitAPIVersion(apiVersion)
	if slices.Contains(policyGroups, group) {
		return NotEnforced, "", ""
	}
	known := false
	var names []string
	for _, row := range kinds {
		if row.group != group {
			continue
		}
		known = true
		names = append(names, row.kinds...)
		if !slices.Contains(row.kinds, kind) {
			continue
		}
		if !slices.Contains(row.versions, version) {
			return row.use, "version " + version + " of " + kind + " does not exist", "write apiVersion: " + strings.TrimPrefix(group+"/"+row.versions[0], "/")
		}
		return row.use, "", ""
	}
	if !known {
		if g := document.Suggest(group, groups()); g != "" && group != "" && !strings.HasSuffix(group, ".k8s.io") {
			return NotUsed, "API group " + group + " does not exist", "did you mean " + g + "?"
		}
		return NotUsed, "", ""
	}
	name := strings.TrimPrefix(group+"/"+version, "/")
	if s := document.Suggest(kind, names); s != "" {
		return NotUsed, "there is no kind " + kind + " in " + name, "did you mean " + s + "?"
	}
	// The same word in another group is the next common mistake: kind: Deployment in v1.
	for _, row := range kinds {
		if slices.Contains(row.kinds, kind) {
			return NotUsed, "there is no kind " + kind + " in " + name, "write apiVersion: " + strings.TrimPrefix(row.group+"/"+row.versions[0], "/")
		}
	}
	return NotUsed, "there is no kind " + kind + " in " + name, ""
}

// AsksForPolicy reports whether kinds of an API group ask for routing or security: none of
// their objects may be ignored without a word.
func AsksForPolicy(group string) bool {
	return slices.Contains(policyGroups, group) || strings.HasSuffix(group, ".istio.io") && slices.Contains(groups(), group)
}

// Istios reports whether the name of a label or an annotation is in one of Istio's domains.
func Istios(name string) bool {
	domain, _, _ := strings.Cut(name, "/")
	return domain == "istio.io" || strings.HasSuffix(domain, ".istio.io")
}

// PreferredVersion is the one of the versions an API server serves in which objects of a
// kind are read; "" if it serves none that Weir knows.
func PreferredVersion(group, kind string, served []string) string {
	for _, row := range kinds {
		if row.group == group && slices.Contains(row.kinds, kind) {
			for _, v := range row.versions {
				if slices.Contains(served, v) {
					return v
				}
			}
			return ""
		}
	}
	if len(served) == 0 || !AsksForPolicy(group) {
		return ""
	}
	return served[0] // nothing is read of them but that they are there
}

func splitAPIVersion(apiVersion string) (group, version string) {
	if g, v, ok := strings.Cut(apiVersion, "/"); ok {
		return g, v
	}
	return "", apiVersion
}

func groups() []string {
	var out []string
	for _, row := range kinds {
		if row.group != "" && row.group != "apps" && !slices.Contains(out, row.group) {
			out = append(out, row.group)
		}
	}
	return out
}
