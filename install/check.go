package install

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
)

// check refuses values that the API server would refuse, or wait with for ever, when half of the installation is made.
func check(values map[string]any) error {
	pilot, cni, global := table(values, "pilot"), table(values, "cni"), table(values, "global")
	gateways := table(values, "gateways")
	err := cmp.Or(
		checkGlobal(global),
		checkComponent("pilot", pilot, 1),
		checkComponent("cni", cni, 0),
		checkNodes(cni),
	)
	for _, name := range slices.Sorted(maps.Keys(gateways)) {
		g := table(gateways, name)
		key := "gateways." + name
		err = cmp.Or(err,
			checkComponent(key, g, 0),
			typed[[]corev1.ServicePort](key+".ports", g["ports"], "a list of what `kubectl explain service.spec.ports` shows"),
		)
	}
	injector := table(values, "sidecarInjectorWebhook")
	for _, name := range []string{"neverInjectSelector", "alwaysInjectSelector"} {
		key := "sidecarInjectorWebhook." + name
		err = cmp.Or(err, typed[[]metav1.LabelSelector](key, injector[name], "a list of selectors, for example "+key+"[0].matchLabels.app=legacy"))
	}
	return cmp.Or(err, checkClosed(values))
}

func checkGlobal(global map[string]any) error {
	if name := global["priorityClassName"]; name != nil && name != "" {
		if s, _ := name.(string); len(validation.IsDNS1123Subdomain(s)) > 0 {
			return refused(fmt.Sprintf("global.priorityClassName=%v", name), "it is no name that a PriorityClass can have; `kubectl get priorityclasses` lists those there are, for example system-cluster-critical")
		}
	}
	return cmp.Or(
		typed[[]string]("global.imagePullSecrets", global["imagePullSecrets"], `a list of names, for example global.imagePullSecrets[0]=mine`),
		typed[[]corev1.Toleration]("global.defaultTolerations", global["defaultTolerations"], tolerations("global.defaultTolerations")),
		checkResources("global.proxy", table(global, "proxy")),
		checkResources("global.proxy_init", table(global, "proxy_init")),
	)
}

// checkComponent looks at what all that runs has in common; replicas are the least that it can do with.
func checkComponent(key string, of map[string]any, replicas int) error {
	return cmp.Or(
		whole(key+".replicaCount", of["replicaCount"], replicas, math.MaxInt32),
		whole(key+".autoscaleMin", of["autoscaleMin"], 1, math.MaxInt32),
		whole(key+".autoscaleMax", of["autoscaleMax"], 1, math.MaxInt32),
		whole(key+".cpu.targetAverageUtilization", table(of, "cpu")["targetAverageUtilization"], 1, math.MaxInt32),
		checkResources(key, of),
		typed[[]corev1.Toleration](key+".tolerations", of["tolerations"], tolerations(key+".tolerations")),
		typed[map[string]string](key+".nodeSelector", of["nodeSelector"], "labels with texts as values, for example "+key+`.nodeSelector.pool=mesh; with --set-string where a value is a number, true or false`),
		typed[corev1.Affinity](key+".affinity", of["affinity"], "what Kubernetes knows as the affinity of a pod (`kubectl explain pod.spec.affinity`)"),
		typed[[]corev1.TopologySpreadConstraint](key+".topologySpreadConstraints", of["topologySpreadConstraints"], "a list of what `kubectl explain pod.spec.topologySpreadConstraints` shows"),
	)
}

func checkNodes(cni map[string]any) error {
	for _, k := range []string{"cniBinDir", "cniConfDir", "cniRunDir"} {
		if dir, _ := cni[k].(string); !path.IsAbs(dir) || slices.Contains(strings.Split(dir, "/"), "..") {
			return refused(fmt.Sprintf("cni.%s=%v", k, cni[k]), "it must be the whole path of a folder of the nodes, for example /opt/cni/bin")
		}
	}
	return cmp.Or(
		whole("cni.port", cni["port"], 1, math.MaxUint16),
		whole("cni.rollingMaxUnavailable", cni["rollingMaxUnavailable"], 1, math.MaxInt32),
	)
}

// checkResources looks at of.resources.
func checkResources(key string, of map[string]any) error {
	key += ".resources"
	all := table(of, "resources")
	for _, part := range []string{"requests", "limits"} {
		list := table(all, part)
		for _, name := range slices.Sorted(maps.Keys(list)) {
			at := key + "." + part + "." + name
			if !slices.Contains([]string{"cpu", "memory", "ephemeral-storage"}, name) && !strings.Contains(name, "/") && !strings.HasPrefix(name, "hugepages-") {
				return refused(at, "Kubernetes knows no such resource: cpu, memory or ephemeral-storage")
			}
			if _, err := decode[corev1.ResourceList](map[string]any{name: list[name]}); err != nil {
				return refused(fmt.Sprintf("%s=%v", at, list[name]), "want a quantity, for example 100m of cpu or 128Mi of memory")
			}
		}
	}
	if err := typed[corev1.ResourceRequirements](key, of["resources"], "requests and limits, for example "+key+".requests.memory=128Mi"); err != nil {
		return err
	}
	r, err := decode[corev1.ResourceRequirements](of["resources"])
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(r.Requests)) {
		request, limit := r.Requests[name], r.Limits[name]
		if _, limited := r.Limits[name]; request.Sign() < 0 || limited && limit.Cmp(request) < 0 {
			return refused(fmt.Sprintf("%s.requests.%s=%s", key, name, request.String()), fmt.Sprintf("it must not be negative, nor more than %s.limits.%s; say less, or raise the limit", key, name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.Limits)) {
		if limit := r.Limits[name]; limit.Sign() < 0 {
			return refused(fmt.Sprintf("%s.limits.%s=%s", key, name, limit.String()), "it must not be negative")
		}
	}
	return nil
}

func tolerations(key string) string {
	return "a list, for example " + key + "[0].key=dedicated," + key + "[0].operator=Exists"
}

// typed refuses what Kubernetes cannot read as a T.
func typed[T any](key string, v any, want string) error {
	if _, err := decode[T](v); err != nil {
		b, _ := json.Marshal(v)
		return refused(key, fmt.Sprintf("%s is not what it must be: want %s", b, want))
	}
	return nil
}

func decode[T any](v any) (T, error) {
	var out T
	b, err := json.Marshal(v)
	if err != nil {
		return out, err
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return out, d.Decode(&out)
}

// whole refuses what is not a whole number from least to most. Nothing is one: the default of Kubernetes.
func whole(key string, v any, least, most int) error {
	n, err := decode[*int64](v)
	if err == nil && (n == nil || *n >= int64(least) && *n <= int64(most)) {
		return nil
	}
	want := fmt.Sprintf("a whole number from %d to %d", least, most)
	if most == math.MaxInt32 {
		want = fmt.Sprintf("a whole number, at least %d", least)
	}
	return refused(fmt.Sprintf("%s=%v", key, v), "want "+want)
}

func table(of map[string]any, key string) map[string]any {
	m, _ := of[key].(map[string]any)
	return m
}
