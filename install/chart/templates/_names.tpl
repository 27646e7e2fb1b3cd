{{- define "weir.namespace" -}}{{ .Values.global.istioNamespace | default .Release.Namespace }}{{- end }}

{{- /* The revision's name, and what it puts behind names of which there is one for each. */ -}}
{{- define "weir.rev" -}}{{ .Values.revision | default "default" }}{{- end }}
{{- define "weir.suffix" -}}{{ if ne (include "weir.rev" .) "default" }}-{{ .Values.revision }}{{ end }}{{- end }}
{{- define "weir.control" -}}istiod{{ include "weir.suffix" . }}{{- end }}

{{- define "weir.tag" -}}{{ .Values.global.tag | default .Chart.AppVersion }}{{- end }}

{{- /* Everything carries these, so that it can be found and removed. */ -}}
{{- define "weir.labels" -}}
app.kubernetes.io/managed-by: {{ .Values.managedBy | default .Release.Service | lower }}
app.kubernetes.io/part-of: istio
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
install.weir.dev/owner: {{ .Release.Name }}
{{- end }}

{{- /* What the node agent does about pods without rules: it says so in any case. Istio's settings, of which the first counts. */ -}}
{{- define "weir.cniRepair" -}}
{{- with .Values.cni.repair -}}
{{- if not .enabled }}label{{ else if .repairPods }}repair{{ else if .deletePods }}delete{{ else }}label{{ end }}
{{- end }}
{{- end }}

{{- /* For pods that talk to the mesh's control plane: projected token, root, memory for what is kept. */ -}}
{{- define "weir.proxyVolumes" -}}
- name: istio-token
  projected:
    sources:
    - serviceAccountToken: {audience: istio-ca, expirationSeconds: 43200, path: istio-token}
- name: istiod-ca-cert
  configMap: {name: istio-ca-root-cert, optional: true}
- name: istio-envoy
  emptyDir: {medium: Memory}
- name: istio-podinfo
  downwardAPI:
    items:
    - {path: labels, fieldRef: {fieldPath: metadata.labels}}
    - {path: annotations, fieldRef: {fieldPath: metadata.annotations}}
{{- end }}

{{- /* What the doors of the injector have in common: of is the whole. */ -}}
{{- define "weir.hook" }}
  admissionReviewVersions: [v1, v1beta1]
  sideEffects: None
  failurePolicy: Fail
  timeoutSeconds: 10
  reinvocationPolicy: Never
  clientConfig:
    service: {name: {{ include "weir.control" . }}, namespace: {{ include "weir.namespace" . }}, path: /inject, port: 443}
  rules:
  - {operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods]}
{{- end }}

{{- /*
The doors of the injector for who asks for revision or tag .rev (of is the whole): at most one is open to a pod, the namespace's label or the pod's. A pod
whose own label says false meets none, and an absent control plane can block only what asked to be meshed. Who asks without naming a revision
means "default".
*/ -}}
{{- define "weir.doors" -}}
{{- $all := .of }}{{- $rev := .rev }}{{- $default := eq .rev "default" }}
{{- $never := list "kube-system" "kube-public" "kube-node-lease" "local-path-storage" (include "weir.namespace" $all) }}
{{- $always := and $default $all.Values.sidecarInjectorWebhook.enableNamespacesByDefault }}
{{- if $default }}
- name: namespace.sidecar-injector.istio.io
  {{- include "weir.hook" $all }}
  namespaceSelector:
    matchExpressions:
    - {key: kubernetes.io/metadata.name, operator: NotIn, values: {{ toJson $never }}}
    {{- if $always }}
    - {key: istio-injection, operator: Exists}
    - {key: istio-injection, operator: NotIn, values: [disabled]}
    {{- else }}
    - {key: istio-injection, operator: In, values: [enabled]}
    {{- end }}
  objectSelector:
    matchExpressions:
    - {key: sidecar.istio.io/inject, operator: NotIn, values: ["false"]}
{{- end }}
- name: rev.namespace.sidecar-injector.istio.io
  {{- include "weir.hook" $all }}
  namespaceSelector:
    matchExpressions:
    - {key: kubernetes.io/metadata.name, operator: NotIn, values: {{ toJson $never }}}
    - {key: istio.io/rev, operator: In, values: [{{ $rev | quote }}]}
    - {key: istio-injection, operator: DoesNotExist}
  objectSelector:
    matchExpressions:
    - {key: sidecar.istio.io/inject, operator: NotIn, values: ["false"]}
{{- if $always }}
- name: auto.sidecar-injector.istio.io
  {{- include "weir.hook" $all }}
  namespaceSelector:
    matchExpressions:
    - {key: kubernetes.io/metadata.name, operator: NotIn, values: {{ toJson $never }}}
    - {key: istio-injection, operator: DoesNotExist}
    - {key: istio.io/rev, operator: DoesNotExist}
  objectSelector:
    matchExpressions:
    - {key: sidecar.istio.io/inject, operator: NotIn, values: ["false"]}
    - {key: istio.io/rev, operator: DoesNotExist}
{{- end }}
{{- if $default }}
- name: object.sidecar-injector.istio.io
  {{- include "weir.hook" $all }}
  namespaceSelector:
    matchExpressions:
    {{- if $always }}
    - {key: kubernetes.io/metadata.name, operator: In, values: [{{ include "weir.namespace" $all }}]}
    {{- else }}
    - {key: kubernetes.io/metadata.name, operator: NotIn, values: {{ toJson (without $never (include "weir.namespace" $all)) }}}
    {{- end }}
    - {key: istio-injection, operator: DoesNotExist}
    - {key: istio.io/rev, operator: DoesNotExist}
  objectSelector:
    matchExpressions:
    - {key: sidecar.istio.io/inject, operator: In, values: ["true"]}
    - {key: istio.io/rev, operator: DoesNotExist}
{{- end }}
- name: rev.object.sidecar-injector.istio.io
  {{- include "weir.hook" $all }}
  namespaceSelector:
    matchExpressions:
    - {key: kubernetes.io/metadata.name, operator: NotIn, values: {{ toJson (without $never (include "weir.namespace" $all)) }}}
    - {key: istio-injection, operator: DoesNotExist}
    - {key: istio.io/rev, operator: DoesNotExist}
  objectSelector:
    matchExpressions:
    - {key: sidecar.istio.io/inject, operator: NotIn, values: ["false"]}
    - {key: istio.io/rev, operator: In, values: [{{ $rev | quote }}]}
{{- end }}

{{- /* An autoscaler owns the number of replicas: it would be set back by every installation. */ -}}
{{- define "weir.replicas" }}
{{- if .autoscaleEnabled }}{{ "" }}{{ else -}}
replicas: {{ .replicaCount }}
{{- end }}
{{- end }}

{{- /* The least number of pods there are. */ -}}
{{- define "weir.least" -}}{{ if .autoscaleEnabled }}{{ .autoscaleMin }}{{ else }}{{ .replicaCount }}{{ end }}{{- end }}

{{- /* Where pods of a component (of) go: by its own settings, or those for all. */ -}}
{{- define "weir.scheduling" }}
{{- with .global.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .of.nodeSelector | default .global.defaultNodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .of.tolerations | default .global.defaultTolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- /* One lost node, or zone, does not take all of them, as far as the cluster can do it. Of zones this is not a second constraint of the
       spread: the scheduler leaves nodes that lack a label of any constraint out of all of them, and many clusters have no zones. */}}
{{- with .of.affinity }}
affinity: {{ toJson . }}
{{- else }}
affinity: {podAntiAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [{weight: 100, podAffinityTerm: {topologyKey: topology.kubernetes.io/zone, labelSelector: {matchLabels: {{ toJson .labels }}}}}]}}
{{- end }}
{{- with .of.topologySpreadConstraints }}
topologySpreadConstraints: {{ toJson . }}
{{- else }}
{{- /* Pods of the version before do not count, else the new ones are spread around them, and stand together when they are gone. */}}
topologySpreadConstraints:
- {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {{ toJson .labels }}}, matchLabelKeys: [pod-template-hash]}
{{- end }}
{{- end }}
