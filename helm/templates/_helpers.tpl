{{- define "darkroom.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "darkroom.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "darkroom.labels" -}}
{{ include "darkroom.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "darkroom.image" -}}
{{ .repository }}:{{ .tag }}
{{- end }}

{{- define "darkroom.gatewayImage" -}}
{{ .Values.gateway.image.repository }}:{{ .Values.gateway.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "darkroom.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "darkroom.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* seconds of drain: the gateway's own setting */}}
{{- define "darkroom.drain" -}}
{{ ceil (get .Values.gateway.settings "drain_seconds" | default 30) }}
{{- end }}

{{- define "darkroom.sidecar" -}}
{{- if and (eq .Values.engine "triton") (eq .Values.triton.placement "sidecar") }}true{{ end }}
{{- end }}

{{- define "darkroom.modelVolume" -}}
{{- if ne .Values.modelRepository.source "builtin" }}
- name: models
  {{- if eq .Values.modelRepository.source "pvc" }}
  persistentVolumeClaim: {claimName: {{ .Values.modelRepository.claim }}, readOnly: true}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}
{{- end }}

{{- define "darkroom.modelMount" -}}
{{- if ne .Values.modelRepository.source "builtin" }}
- name: models
  mountPath: /models
  readOnly: true
  {{- if and (eq .Values.modelRepository.source "pvc") .Values.modelRepository.path }}
  subPath: {{ .Values.modelRepository.path }}
  {{- end }}
{{- end }}
{{- end }}

{{/* copies the repository out of an image */}}
{{- define "darkroom.modelCopy" -}}
{{- if eq .Values.modelRepository.source "image" }}
initContainers:
  - name: models
    image: {{ include "darkroom.image" .Values.modelRepository.image }}
    imagePullPolicy: {{ .Values.modelRepository.image.pullPolicy }}
    command: [cp, -rT, {{ .Values.modelRepository.image.path }}, /models]
    securityContext: {{- include "darkroom.containerSecurity" . | nindent 6 }}
    volumeMounts:
      - {name: models, mountPath: /models}
{{- end }}
{{- end }}

{{- define "darkroom.triton" -}}
- name: triton
  image: {{ include "darkroom.image" .Values.triton.image }}
  imagePullPolicy: {{ .Values.triton.image.pullPolicy }}
  command: [tritonserver]
  args:
    - --model-repository={{ if eq .Values.modelRepository.source "builtin" }}/model_repository{{ else }}/models{{ end }}
    - --model-control-mode=explicit
    - --load-model=*
    - --grpc-port=8001
    - --http-port=8003
    - --metrics-port=8002
    - --exit-timeout-secs={{ include "darkroom.drain" . }}
  env:
    - {name: HOME, value: /tmp}
  ports:
    - {name: grpc, containerPort: 8001}
    - {name: triton-metrics, containerPort: 8002}
    - {name: triton-http, containerPort: 8003}
  startupProbe:
    httpGet: {path: /v2/health/ready, port: triton-http}
    periodSeconds: 5
    failureThreshold: 120
  readinessProbe:
    httpGet: {path: /v2/health/ready, port: triton-http}
  livenessProbe:
    httpGet: {path: /v2/health/live, port: triton-http}
    failureThreshold: 6
  resources: {{- toYaml .Values.triton.resources | nindent 4 }}
  securityContext: {{- include "darkroom.containerSecurity" . | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: shm, mountPath: /dev/shm}
    {{- include "darkroom.modelMount" . | nindent 4 }}
{{- end }}
