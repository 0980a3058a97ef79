{{- define "samstream.labels" -}}
app.kubernetes.io/name: samstream
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "samstream.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "samstream.pod" -}}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  fsGroup: 1000
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "samstream.container" -}}
image: {{ include "samstream.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
{{- with .Values.secret }}
envFrom:
  - secretRef: {name: {{ . }}}
{{- end }}
{{- end }}

{{- define "samstream.peers" -}}
[{{- range $peer := until (int .Values.gateway.replicas) }}
{{- if $peer }},{{ end }}"http://{{ $.Release.Name }}-gateway-{{ $peer }}.{{ $.Release.Name }}-gateways:8080"
{{- end }}]
{{- end }}

{{- define "samstream.probes" -}}
# /health answers from the start on, and says by 503 that a job makes no progress: that is for an alert and, after
# minutes, for a restart. A pod is ready as soon as it answers: nothing is sent to it, it reads Kafka by itself.
startupProbe:
  tcpSocket: {port: metrics}
  periodSeconds: 2
  failureThreshold: 60
readinessProbe:
  httpGet: {path: /health, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
livenessProbe:
  httpGet: {path: /health, port: metrics}
  periodSeconds: 30
  timeoutSeconds: 10
  failureThreshold: 10
ports:
  - {name: metrics, containerPort: 9100}
{{- end }}

{{- define "samstream.mounts" -}}
- {name: settings, mountPath: /etc/samstream, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- with .Values.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "samstream.volumes" -}}
- name: settings
  configMap: {name: {{ .Release.Name }}-settings}
- name: tmp
  emptyDir: {}
{{- with .Values.volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "samstream.settings" -}}
{{ .Values.settings | toJson }}
{{- end }}
