package store

import (
	"fmt"

	"github.com/weirmesh/weir/config"
	"github.com/weirmesh/weir/config/istio"
	"github.com/weirmesh/weir/config/kube"
	"github.com/weirmesh/weir/mesh"
)

// State is what became of an object.
type State string

// States of objects.
const (
	Compiled    State = "compiled"    // in force as written
	Quarantined State = "quarantined" // not in force; its last good version is, if there was one
	Unenforced  State = "unenforced"  // understood, but this version does not do what it asks
	Ignored     State = "ignored"     // not the mesh's business
)

// Lower lowers one object of any kind: into mesh or registry values or objects of
// Kubernetes, as istio.Lower and kube.Lower say. It is pure.
func Lower(o *config.Object, settings *mesh.Settings) (any, State, []config.Finding) {
	use, problem, hint := config.Classify(o.APIVersion, o.ID.Kind)
	switch {
	case problem != "":
		return nil, Quarantined, []config.Finding{config.New(config.UnknownKind, o.Ref, "kind", o.Ref.Line, problem, hint)}
	case use == config.NotEnforced:
		message, hint := notEnforced(o.ID)
		return nil, Unenforced, []config.Finding{config.New(config.KindNotEnforced, o.Ref, "", o.Ref.Line, message, hint)}
	case use == config.NotUsed:
		message, hint := notUsed(o.ID)
		return nil, Ignored, []config.Finding{config.New(config.KindNotUsed, o.Ref, "", o.Ref.Line, message, hint)}
	case o.Astray() != "" && o.ID.Kind != "Namespace": // what that means for pods is told by config/analyze
		return nil, Unenforced, []config.Finding{config.New(config.AsksForNobody, o.Ref, "metadata.labels", o.LineOf("metadata.labels"),
			fmt.Sprintf("its label istio.io/rev=%s names no revision and no tag there is: it is in force nowhere", o.Astray()),
			"take the label away, and it is in force everywhere, or give it a name that `weir tag list` shows")}
	}
	var out any
	var findings []config.Finding
	if o.ID.Group == "" || o.ID.Group == "apps" {
		out, findings = kube.Lower(o, kube.Options{DomainSuffix: settings.DomainSuffix})
	} else {
		out, findings = istio.Lower(o, istio.Options{DomainSuffix: settings.DomainSuffix})
	}
	findings = append(findings, meshConfig(o, out, settings)...)
	switch {
	case config.Errors(findings) > 0:
		return nil, Quarantined, findings
	case out == nil:
		return nil, Ignored, findings
	}
	return out, Compiled, findings
}

// refuse is what stays closed while an object with errors has no version in force.
func refuse(o *config.Object, settings *mesh.Settings) (any, []config.Finding) {
	return istio.Refuse(o, istio.Options{DomainSuffix: settings.DomainSuffix})
}

// notEnforced says what the operator must not rely on.
func notEnforced(id config.ID) (message, hint string) {
	switch id.Kind {
	case "EnvoyFilter", "WasmPlugin", "TrafficExtension":
		return id.Kind + " is not enforced in this version: it changes no proxy", "remove it; what it patches may have a field in VirtualService, DestinationRule or Gateway"
	case "Telemetry":
		return "Telemetry is not enforced in this version: metrics and logs stay as they are", "remove it: metrics are always counted"
	}
	return id.Kind + " is not enforced in this version", "remove it, or do not rely on it"
}

func notUsed(id config.ID) (message, hint string) {
	switch id.Kind {
	case "StatefulSet", "DaemonSet", "ReplicaSet", "ReplicationController", "Job", "CronJob":
		return id.Kind + " is not run locally", "only Deployments are; join any program with: weir run --as " + id.Namespace + "/" + id.Name + " -- COMMAND"
	case "Ingress":
		return "Ingress is not used", "write a Gateway and a VirtualService"
	case "NetworkPolicy":
		return "NetworkPolicy is not applied by the mesh", ""
	}
	return id.Kind + " is not part of the mesh's configuration", ""
}
