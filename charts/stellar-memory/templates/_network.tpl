{{/* Rules that several policies share. */}}

{{/* egress: names, Postgres, and the collector of traces. dict root */}}
{{- define "stellar-memory.egressBasics" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- if .root.Values.postgres.enabled }}
- to:
    - podSelector:
        matchLabels:
          {{- include "stellar-memory.selectorLabels" (dict "root" .root "component" "postgres") | nindent 10 }}
  ports:
    - {port: 5432}
{{- else }}
# A policy knows addresses and not names, so an external Postgres is its ports.
- ports:
    {{- with .root.Values.postgres.external }}
    {{- range .ports }}
    - {port: {{ . }}}
    {{- end }}
    {{- with .port }}
    - {port: {{ . }}}
    {{- end }}
    {{- end }}
{{- end }}
{{- with .root.Values.telemetry.otlpEndpoint }}
{{- $url := urlParse . }}
# The collector, by its port as well.
- ports:
    - {port: {{ regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (ternary "443" "80" (eq $url.scheme "https")) }}}
{{- end }}
{{- with .root.Values.networkPolicy.extraEgress }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* egress: the API server, whose addresses only the platform knows. dict root */}}
{{- define "stellar-memory.egressApiServer" -}}
- ports:
    {{- range .root.Values.networkPolicy.apiServerPorts }}
    - {port: {{ . }}}
    {{- end }}
{{- end }}

{{/* ingress: metrics. dict root */}}
{{- define "stellar-memory.ingressMetrics" -}}
- ports:
    - {port: metrics}
  {{- with .root.Values.networkPolicy.metricsFrom }}
  from:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{/* from/to: the pods of a component in this namespace. dict root, component */}}
{{- define "stellar-memory.peer" -}}
- podSelector:
    matchLabels:
      {{- include "stellar-memory.selectorLabels" . | nindent 6 }}
{{- end }}

{{/* from/to: the engines of dedicated tenants, each in its namespace. */}}
{{- define "stellar-memory.tenantEngines" -}}
- namespaceSelector:
    matchExpressions:
      - {key: stellar-memory.dev/tenant, operator: Exists}
{{- end }}
