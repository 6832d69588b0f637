{{- define "ark.labels" -}}
{{ include "ark.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: ark
{{- end }}

{{- define "ark.selector" -}}
app.kubernetes.io/name: ark
app.kubernetes.io/component: operator
{{- end }}

{{- define "ark.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* One argument NAME=VALUE. The kubelet replaces $(X) in arguments: what a value has of it is kept as it is. */ -}}
{{- define "ark.agentEnv" -}}
- {{ printf "--agent-env=%s=%s" .name (.value | replace "$(" "$$(") | quote }}
{{- end }}

{{- define "ark.proxyEnv" -}}
{{- $p := .Values.proxy -}}
{{- with $p.http }}
- {name: HTTP_PROXY, value: {{ . | quote }}}
{{- end }}
{{- with $p.https }}
- {name: HTTPS_PROXY, value: {{ . | quote }}}
{{- end }}
{{- if or $p.http $p.https }}
- {name: NO_PROXY, value: {{ printf "$(KUBERNETES_SERVICE_HOST),%s" $p.noProxy | trimSuffix "," | quote }}}
{{- end }}
{{- end }}

{{- define "ark.podSpec" -}}
{{- $v := .Values -}}
serviceAccountName: ark-operator
{{- with $v.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
terminationGracePeriodSeconds: {{ $v.terminationGracePeriodSeconds }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
containers:
- name: operator
  image: {{ include "ark.image" . | quote }}
  imagePullPolicy: {{ $v.image.pullPolicy }}
  args:
  - operator
  {{- if or $v.proxy.http $v.proxy.https }}
  {{- range $name, $value := dict "HTTP_PROXY" $v.proxy.http "HTTPS_PROXY" $v.proxy.https "NO_PROXY" $v.proxy.noProxy }}
  {{- if $value }}
  {{- include "ark.agentEnv" (dict "name" $name "value" $value) | nindent 2 }}
  {{- end }}
  {{- end }}
  {{- end }}
  {{- if $v.otlp.endpoint }}
  {{- include "ark.agentEnv" (dict "name" "OTEL_EXPORTER_OTLP_ENDPOINT" "value" $v.otlp.endpoint) | nindent 2 }}
  {{- include "ark.agentEnv" (dict "name" "OTEL_EXPORTER_OTLP_PROTOCOL" "value" $v.otlp.protocol) | nindent 2 }}
  {{- end }}
  {{- range $v.agentExtraEnv }}
  {{- include "ark.agentEnv" . | nindent 2 }}
  {{- end }}
  env:
  - name: POD_NAME
    valueFrom: {fieldRef: {fieldPath: metadata.name}}
  - name: POD_NAMESPACE
    valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
  - name: GOMEMLIMIT
    valueFrom: {resourceFieldRef: {resource: limits.memory}}
  {{- with $v.watchNamespaces }}
  - {name: ARK_WATCH_NAMESPACES, value: {{ join "," . | quote }}}
  {{- end }}
  - {name: ARK_AGENT_IMAGE, value: {{ $v.agentImage | default (include "ark.image" .) | quote }}}
  - {name: ARK_AGENT_ENV_FROM, value: {{ join "," $v.agentEnvFrom | quote }}}
  {{- if $v.nats.url }}
  - {name: ARK_NATS_URL, value: {{ $v.nats.url | quote }}}
  - {name: ARK_NATS_REPLICAS, value: {{ $v.nats.streamReplicas | quote }}}
  - {name: ARK_LEADER_ELECT, value: "true"}
  {{- if $v.nats.credentialsSecret.name }}
  - {name: ARK_NATS_CREDS, value: {{ printf "/etc/ark/nats/%s" $v.nats.credentialsSecret.key | quote }}}
  {{- end }}
  {{- if $v.nats.agentCredentialsSecret.name }}
  - {name: ARK_NATS_AGENT_CREDS, value: {{ printf "/etc/ark/nats-agents/%s" $v.nats.agentCredentialsSecret.key | quote }}}
  {{- end }}
  {{- if or $v.nats.ca.configMap $v.nats.ca.secret }}
  - {name: ARK_NATS_CA, value: /etc/ark/nats-ca/ca.crt}
  {{- end }}
  {{- else }}
  - name: ARK_POD_INDEX
    valueFrom: {fieldRef: {fieldPath: "metadata.labels['apps.kubernetes.io/pod-index']"}}
  - {name: ARK_STORE, value: /var/lib/ark}
  - {name: ARK_STORE_SIZE, value: {{ $v.persistence.storeSize | quote }}}
  - {name: ARK_NATS_LISTEN, value: ":4222"}
  - {name: ARK_NATS_ADVERTISE, value: {{ printf "tls://ark-nats.%s.svc:4222" .Release.Namespace | quote }}}
  {{- end }}
  - {name: ARK_METRICS_LISTEN, value: ":8080"}
  {{- if $v.aggregatedAPI.enabled }}
  - {name: ARK_API_LISTEN, value: ":8443"}
  {{- end }}
  - {name: ARK_LOG_LEVEL, value: {{ $v.log.level }}}
  - {name: ARK_LOG_FORMAT, value: {{ $v.log.format }}}
  {{- with $v.otlp.endpoint }}
  - {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }}}
  - {name: OTEL_EXPORTER_OTLP_PROTOCOL, value: {{ $v.otlp.protocol | quote }}}
  {{- end }}
  {{- with include "ark.proxyEnv" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- if or $v.extraCA.configMap $v.extraCA.secret }}
  - {name: SSL_CERT_DIR, value: /etc/ark/ca}
  - {name: ARK_AGENT_CA, value: /etc/ark/ca/ca.crt}
  {{- end }}
  ports:
  {{- if not $v.nats.url }}
  - {name: nats, containerPort: 4222}
  {{- end }}
  - {name: metrics, containerPort: 8080}
  {{- if $v.aggregatedAPI.enabled }}
  - {name: api, containerPort: 8443}
  {{- end }}
  # It starts in a second or two, but may have a large store to read after a crash.
  startupProbe:
    httpGet: {path: /healthz, port: metrics}
    periodSeconds: 1
    failureThreshold: 300
  livenessProbe:
    httpGet: {path: /healthz, port: metrics}
    periodSeconds: 10
    timeoutSeconds: 5
    failureThreshold: 6
  readinessProbe:
    {{- /* Of several operators only the one that acts is ready in the sense of /readyz; a rollout waits for all of them. */}}
    httpGet: {path: {{ ternary "/healthz" "/readyz" (ne $v.nats.url "") }}, port: metrics}
    periodSeconds: 2
    timeoutSeconds: 5
  resources: {{- toYaml $v.resources | nindent 4 }}
  securityContext:
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities: {drop: [ALL]}
  volumeMounts:
  - {name: tmp, mountPath: /tmp}
  {{- if not $v.nats.url }}
  - {name: store, mountPath: /var/lib/ark}
  {{- else }}
  {{- if $v.nats.credentialsSecret.name }}
  - {name: nats, mountPath: /etc/ark/nats, readOnly: true}
  {{- end }}
  {{- if $v.nats.agentCredentialsSecret.name }}
  - {name: nats-agents, mountPath: /etc/ark/nats-agents, readOnly: true}
  {{- end }}
  {{- if or $v.nats.ca.configMap $v.nats.ca.secret }}
  - {name: nats-ca, mountPath: /etc/ark/nats-ca, readOnly: true}
  {{- end }}
  {{- end }}
  {{- if or $v.extraCA.configMap $v.extraCA.secret }}
  - {name: ca, mountPath: /etc/ark/ca, readOnly: true}
  {{- end }}
volumes:
- name: tmp
  emptyDir: {sizeLimit: 64Mi}
{{- if $v.nats.url }}
{{- with $v.nats.credentialsSecret.name }}
- name: nats
  secret: {secretName: {{ . | quote }}}
{{- end }}
{{- with $v.nats.agentCredentialsSecret.name }}
- name: nats-agents
  secret: {secretName: {{ . | quote }}}
{{- end }}
{{- with $v.nats.ca.configMap }}
- name: nats-ca
  configMap: {name: {{ . | quote }}, items: [{key: {{ $v.nats.ca.key | quote }}, path: ca.crt}]}
{{- end }}
{{- with $v.nats.ca.secret }}
- name: nats-ca
  secret: {secretName: {{ . | quote }}, items: [{key: {{ $v.nats.ca.key | quote }}, path: ca.crt}]}
{{- end }}
{{- end }}
{{- with $v.extraCA.configMap }}
- name: ca
  configMap: {name: {{ . | quote }}, items: [{key: {{ $v.extraCA.key | quote }}, path: ca.crt}]}
{{- end }}
{{- with $v.extraCA.secret }}
- name: ca
  secret: {secretName: {{ . | quote }}, items: [{key: {{ $v.extraCA.key | quote }}, path: ca.crt}]}
{{- end }}
{{- with $v.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $v.topologySpreadConstraints }}
topologySpreadConstraints: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "ark.podMetadata" -}}
labels:
  {{- with .Values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- include "ark.labels" . | nindent 2 }}
{{- if or .Values.metrics.scrapeAnnotations .Values.podAnnotations }}
annotations:
  {{- if .Values.metrics.scrapeAnnotations }}
  prometheus.io/scrape: "true"
  prometheus.io/port: "8080"
  prometheus.io/path: /metrics
  {{- end }}
  {{- with .Values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}
