{{/* Labels and annotations of a pod. dict root, component; optional annotations */}}
{{- define "stellar-memory.podMetadata" -}}
{{- $values := .values | default (index .root.Values .component) -}}
labels:
  {{- include "stellar-memory.selectorLabels" . | nindent 2 }}
  app.kubernetes.io/part-of: stellar-memory
  {{- if has .component (list "operator" "gateway" "engine") }}
  stellar-memory.dev/metrics: "true"
  {{- end }}
  {{- with merge (dict) $values.podLabels .root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.annotations | default dict) $values.podAnnotations .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
Account, security and scheduling of a pod of the product's own image. dict root, component, token (bool); optional values,
for a pod that is no component of values.yaml

Secrets that the migrate Job makes are mounted as required volumes, not optional ones: a pod that comes too early
stays in ContainerCreating, and the kubelet tries again after 0.5, 1, 2, 4 … s, so this costs some seconds
at the first install and nothing later. An optional volume would start the program at once, but the kubelet
fills it in only at the pod's next sync, about a minute later.
*/}}
{{- define "stellar-memory.podSpec" -}}
{{- $values := .values | default (index .root.Values .component) -}}
serviceAccountName: {{ include "stellar-memory.serviceAccountName" . }}
automountServiceAccountToken: {{ .token }}
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with merge (dict) (dict "runAsUser" $values.runAsUser) .root.Values.podSecurityContext }}
securityContext:
  {{- range $key, $value := . }}
  {{- if not (kindIs "invalid" $value) }}
  {{- toYaml (dict $key $value) | nindent 2 }}
  {{- end }}
  {{- end }}
{{- end }}
{{ include "stellar-memory.scheduling" . }}
{{- end }}

{{/* dict root, component */}}
{{- define "stellar-memory.scheduling" -}}
{{- $values := .values | default (index .root.Values .component) -}}
{{- with $values.priorityClassName -}}
priorityClassName: {{ . }}
{{ end -}}
terminationGracePeriodSeconds: {{ $values.terminationGracePeriodSeconds }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if hasKey $values "topologySpreadConstraints" }}
topologySpreadConstraints:
  {{- with $values.topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
  {{- else }}
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "stellar-memory.selectorLabels" $ | nindent 8 }}
    matchLabelKeys: [pod-template-hash]
  {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Image, security, resources and environment of a container of the product. dict root, component; optional env */}}
{{- define "stellar-memory.container" -}}
{{- $values := .values | default (index .root.Values .component) -}}
image: {{ include "stellar-memory.image" .root }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
terminationMessagePolicy: FallbackToLogsOnError
{{- with .root.Values.securityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
env:
  {{- with $values.logLevel | default .root.Values.logging.level }}
  - name: RUST_LOG
    value: {{ . | quote }}
  {{- end }}
  - name: LOG_FORMAT
    value: {{ .root.Values.logging.format }}
  - name: POD_NAME
    valueFrom: {fieldRef: {fieldPath: metadata.name}}
  {{- with .env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- if not .root.Values.postgres.enabled }}
  {{- with .root.Values.postgres.external.caCertificate }}
  # The driver reads it; the operator hands it on to dedicated engines.
  - name: PGSSLROOTCERT
    value: {{ . | quote }}
  {{- end }}
  {{- end }}
  {{- with .root.Values.telemetry.otlpEndpoint }}
  - name: OTEL_EXPORTER_OTLP_ENDPOINT
    value: {{ . | quote }}
  {{- with $.root.Values.telemetry.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- end }}
  {{- with $values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* Health is served on its own port, which no Service of the public API exposes. */}}
{{- define "stellar-memory.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 2
{{- end }}

{{/* A projected volume `secrets` of Secret keys under the names that the programs are given. `rotated`: while its password is rotated, what comes next stands beside it. dict root, items (list of dict secret, key, path, rotated) */}}
{{- define "stellar-memory.secretsVolume" -}}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- range .items }}
      - secret:
          name: {{ .secret }}
          items:
            - {key: {{ .key }}, path: {{ .path }}}
      {{- if .rotated }}
      - secret:
          name: {{ .secret }}
          optional: true
          items:
            - {key: {{ .key }}-next, path: {{ .path }}-next}
      {{- end }}
      {{- end }}
{{- end }}

{{/* Time for the endpoint's removal to reach every proxy before the program is told to end. dict root, component */}}
{{- define "stellar-memory.preStop" -}}
{{- with (index .root.Values .component).preStopSleepSeconds -}}
lifecycle:
  preStop:
    sleep: {seconds: {{ . }}}
{{- end }}
{{- end }}

{{/* Arguments that say who tells narratives. dict root, prefix (of the flags) */}}
{{- define "stellar-memory.narrateArgs" -}}
{{- $prefix := .prefix -}}
{{- with .root.Values.engine.narrate }}
{{- if .url -}}
- --{{ $prefix }}-url={{ .url }}
- {{ printf "--%s-model=%s" $prefix .model | quote }}
{{- if .apiKeySecret }}
- --{{ $prefix }}-api-key-file=/etc/stellar-memory/narrate-api-key
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Items of a secretsVolume: the key that goes with it, or none. */}}
{{- define "stellar-memory.narrateSecret" -}}
{{- $items := list -}}
{{- with .Values.engine.narrate -}}
{{- if and .url .apiKeySecret -}}
{{- $items = list (dict "secret" .apiKeySecret "key" "api-key" "path" "narrate-api-key") -}}
{{- end -}}
{{- end -}}
{{- toYaml $items -}}
{{- end }}
