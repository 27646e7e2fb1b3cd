{{- define "weir.namespace" -}}{{ .Values.global.istioNamespace | default .Release.Namespace }}{{- end }}

{{- define "weir.tag" -}}{{ .Values.global.tag | default .Chart.AppVersion }}{{- end }}

{{- /* Everything carries these, so that it can be found and removed. */ -}}
{{- define "weir.labels" -}}
app.kubernetes.io/managed-by: {{ .Values.managedBy | default .Release.Service | lower }}
app.kubernetes.io/part-of: istio
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
install.weir.dev/owner: {{ .Release.Name }}
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
