{{/* The Job's pod template. Its hash is in the Job's name, so it holds all that must make the Job run again. */}}
{{- define "stellar-memory.migratePod" -}}
{{- $this := dict "root" . "component" "migrate" -}}
metadata:
  {{- include "stellar-memory.podMetadata" (merge (dict
        "annotations" (dict "checksum/tiers" (include "stellar-memory.tiers" . | sha256sum))
      ) $this) | nindent 2 }}
spec:
  {{- include "stellar-memory.podSpec" (merge (dict "token" true) $this) | nindent 2 }}
  restartPolicy: OnFailure
  containers:
    - name: migrate
      {{- include "stellar-memory.container" $this | nindent 6 }}
      command: [/usr/local/bin/operator]
      args:
        - migrate
        - --admin-url-file=/etc/stellar-memory/admin-url
        - --namespace={{ .Release.Namespace }}
        - --wait-seconds={{ .Values.migrate.waitSeconds }}
        - --login-rotation={{ int .Values.migrate.rotation.logins }}
        - --login-rotation-wait-seconds={{ int .Values.migrate.rotation.waitSeconds }}
        - --tiers-file=/etc/stellar-memory-tiers/tiers.yaml
        {{- if and (not .Values.postgres.enabled) .Values.postgres.external.host }}
        - --pool-host={{ .Values.postgres.external.host }}{{ with .Values.postgres.external.port }}:{{ . }}{{ end }}
        {{- end }}
        {{- with .Values.migrate.extraArgs }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      volumeMounts:
        - {name: secrets, mountPath: /etc/stellar-memory, readOnly: true}
        - {name: tiers, mountPath: /etc/stellar-memory-tiers, readOnly: true}
  volumes:
    {{- include "stellar-memory.secretsVolume" (dict "items" (list
          (dict "secret" (include "stellar-memory.adminSecret" .) "key" "url" "path" "admin-url")
        )) | nindent 4 }}
    - name: tiers
      configMap:
        name: {{ include "stellar-memory.fullname" . }}-tiers
{{- end }}

{{/* The default Tiers, as the Job reads them. */}}
{{- define "stellar-memory.tiers" -}}
{{- if hasKey .Values.tiers "team" }}
{{- fail "tiers.team: tier `team` was renamed to promax" }}
{{- end -}}
{{ toYaml .Values.tiers }}
{{- end }}
