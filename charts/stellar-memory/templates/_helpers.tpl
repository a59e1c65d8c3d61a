{{/* Names and labels. Objects are called <fullname>-<component>. */}}

{{- define "stellar-memory.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "stellar-memory.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "stellar-memory.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "stellar-memory.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* What Services, policies and budgets select on. dict root, component */}}
{{- define "stellar-memory.selectorLabels" -}}
app.kubernetes.io/name: stellar-memory
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{/* dict root, component */}}
{{- define "stellar-memory.labels" -}}
{{ include "stellar-memory.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: stellar-memory
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Name, namespace, labels, annotations. dict root, component; optional name, annotations, labels, clusterScoped */}}
{{- define "stellar-memory.metadata" -}}
name: {{ .name | default (printf "%s-%s" (include "stellar-memory.fullname" .root) .component) }}
{{- if not .clusterScoped }}
namespace: {{ .root.Release.Namespace }}
{{- end }}
labels:
  {{- include "stellar-memory.labels" . | nindent 2 }}
  {{- with .labels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with merge (dict) (.annotations | default dict) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "stellar-memory.image" -}}
{{ include "stellar-memory.reference" (merge (dict "tag" (.Values.image.tag | default .Chart.AppVersion)) .Values.image) }}
{{- end }}

{{/* repository, tag, digest. A tag of digits alone is a number in values. */}}
{{- define "stellar-memory.reference" -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ include "stellar-memory.text" .tag }}
{{- end -}}
{{- end }}

{{/* A scalar as text; a large number not as 1e+06. */}}
{{- define "stellar-memory.text" -}}
{{ kindIs "float64" . | ternary (toJson .) (toString .) }}
{{- end }}

{{/* A quantity, such as 5Gi, as a number of bytes. */}}
{{- define "stellar-memory.bytes" -}}
{{- $text := include "stellar-memory.text" . -}}
{{- $number := regexFind "^[0-9.]+" $text -}}
{{- $units := dict "" 1 "n" 1e-9 "u" 1e-6 "m" 1e-3 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "P" 1e15 "E" 1e18
      "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624 "Ei" 1152921504606846976 -}}
{{ mulf (float64 $number) (get $units (trimPrefix $number $text)) | printf "%.0f" }}
{{- end }}

{{/* From how many bytes of the database on an alert fires; empty: from none. */}}
{{- define "stellar-memory.databaseAlertBytes" -}}
{{- $size := .Values.metrics.prometheusRule.databaseSize -}}
{{- if not (or (kindIs "invalid" $size) (eq (include "stellar-memory.text" $size) "")) -}}
{{- $bytes := include "stellar-memory.bytes" $size -}}
{{ eq $bytes "0" | ternary "" $bytes }}
{{- else if and .Values.postgres.enabled .Values.postgres.persistence.enabled -}}
{{ include "stellar-memory.bytes" .Values.postgres.persistence.size | float64 | mulf 0.8 | printf "%.0f" }}
{{- end -}}
{{- end }}

{{/* dict root, component */}}
{{- define "stellar-memory.serviceAccountName" -}}
{{- $account := (.values | default (index .root.Values .component)).serviceAccount -}}
{{- if $account.name -}}
{{ $account.name }}
{{- else if $account.create -}}
{{ include "stellar-memory.fullname" .root }}-{{ .component }}
{{- else -}}
default
{{- end -}}
{{- end }}

{{/* The most replicas that the values allow for now. dict root, component */}}
{{- define "stellar-memory.minReplicas" -}}
{{- $values := index .root.Values .component -}}
{{- if ($values.autoscaling).enabled -}}
{{ $values.autoscaling.minReplicas }}
{{- else -}}
{{ $values.replicas }}
{{- end -}}
{{- end }}

{{/* Addresses inside the cluster. */}}

{{- define "stellar-memory.pooledEngine" -}}
{{ include "stellar-memory.fullname" . }}-engine.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}:8080
{{- end }}

{{- define "stellar-memory.postgresHost" -}}
{{ include "stellar-memory.fullname" . }}-postgres.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end }}

{{/* The Secret with the administrator's URL. */}}
{{- define "stellar-memory.adminSecret" -}}
{{- if .Values.postgres.enabled -}}
{{ .Values.postgres.auth.existingSecret | default (printf "%s-postgres" (include "stellar-memory.fullname" .)) }}
{{- else -}}
{{ .Values.postgres.external.existingSecret }}
{{- end -}}
{{- end }}
