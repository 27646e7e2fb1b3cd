{{- define "weir.namespace" -}}{{ .Values.global.istioNamespace | default .Release.Namespace }}{{- end }}

{{- define "weir.tag" -}}{{ .Values.global.tag | default .Chart.AppVersion }}{{- end }}

{{- /* Everything carries these, so that it can be found and removed. */ -}}
{{- define "weir.labels" -}}
app.kubernetes.io/managed-by: {{ .Values.managedBy | default .Release.Service | lower }}
app.kubernetes.io/part-of: istio
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
install.weir.dev/owner: {{ .Release.Name }}
{{- end }}

{{- /* What the node agent does about pods without rules. Istio's settings, of which the first counts. */ -}}
{{- define "weir.cniRepair" -}}
{{- with .Values.cni.repair -}}
{{- if not .enabled }}off{{ else if .repairPods }}repair{{ else if .deletePods }}delete{{ else if .labelPods }}label{{ else }}off{{ end }}
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

{{- /* What the doors of the injector have in common. */ -}}
{{- define "weir.hook" }}
  admissionReviewVersions: [v1, v1beta1]
  sideEffects: None
  failurePolicy: Fail
  timeoutSeconds: 10
  reinvocationPolicy: Never
  clientConfig:
    service: {name: istiod, namespace: {{ . }}, path: /inject, port: 443}
  rules:
  - {operations: [CREATE], apiGroups: [""], apiVersions: [v1], resources: [pods]}
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
{{- with .of.affinity }}
affinity: {{ toJson . }}
{{- end }}
{{- with .of.topologySpreadConstraints }}
topologySpreadConstraints: {{ toJson . }}
{{- else }}
{{- /* One lost node, or zone, does not take all of them, as far as the cluster can do it. */}}
topologySpreadConstraints:
- {maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {{ toJson .labels }}}}
- {maxSkew: 1, topologyKey: topology.kubernetes.io/zone, whenUnsatisfiable: ScheduleAnyway, labelSelector: {matchLabels: {{ toJson .labels }}}}
{{- end }}
{{- end }}
