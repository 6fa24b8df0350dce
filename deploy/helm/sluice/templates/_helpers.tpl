{{- define "sluice.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "sluice.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "sluice.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "sluice.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "sluice.instanceLabels" -}}
app.kubernetes.io/name: {{ include "sluice.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The component keeps the chart's test pod out of the Service. */}}
{{- define "sluice.selectorLabels" -}}
{{ include "sluice.instanceLabels" . }}
app.kubernetes.io/component: server
{{- end }}

{{- define "sluice.testLabels" -}}
{{ include "sluice.instanceLabels" . }}
app.kubernetes.io/component: test
{{- end }}

{{- define "sluice.chartLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "sluice.labels" -}}
{{ include "sluice.selectorLabels" . }}
{{ include "sluice.chartLabels" . }}
{{- end }}

{{- define "sluice.image" -}}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end }}

{{- define "sluice.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "sluice.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{- define "sluice.secretName" -}}
{{- .Values.auth.existingSecret | default (printf "%s-api-key" (include "sluice.fullname" .)) }}
{{- end }}

{{- define "sluice.cacheClaim" -}}
{{- .Values.cache.persistence.existingClaim | default (printf "%s-cache" (include "sluice.fullname" .)) }}
{{- end }}

{{/* The key as a read-only file: unlike the environment it is not inherited by the engine's processes. */}}
{{- define "sluice.apiKeyVolume" -}}
name: api-key
secret:
  secretName: {{ include "sluice.secretName" . }}
  defaultMode: 0440
  items:
    - key: {{ .Values.auth.secretKey }}
      path: api-key
{{- end }}

{{/* preStop, then the drain, then time to stop the engine: always more than 10 s beyond the first two. */}}
{{- define "sluice.gracePeriod" -}}
{{- add .Values.preStopSleepSeconds (ceil .Values.config.drain_timeout) 15 }}
{{- end }}

{{/* The Host header of callers inside the cluster: the first of allowed_hosts, or nothing when any host will do. */}}
{{- define "sluice.host" -}}
{{- with .Values.config.allowed_hosts }}{{ first . }}{{ end }}
{{- end }}

{{- define "sluice.scraped" -}}
{{- if or .Values.metrics.serviceMonitor.enabled (include "sluice.annotated" .) }}true{{ end }}
{{- end }}

{{/* Annotations cannot carry a key, and a second scrape beside the ServiceMonitor's would count everything twice. */}}
{{- define "sluice.annotated" -}}
{{- if and .Values.metrics.podAnnotations (not .Values.metrics.serviceMonitor.enabled) (not .Values.config.metrics_need_key) }}true{{ end }}
{{- end }}

{{/* One HTTP probe: a list of root context, path and settings. The kubelet sends the pod's IP as Host unless told. */}}
{{- define "sluice.probe" -}}
{{- $root := index . 0 -}}
httpGet:
  path: {{ index . 1 }}
  port: http
  {{- with include "sluice.host" $root }}
  httpHeaders:
    - name: Host
      value: {{ . | quote }}
  {{- end }}
{{ toYaml (index . 2) }}
{{- end }}

{{- define "sluice.validate" -}}
{{- range $name, $reason := dict
      "host" "the container always listens on 0.0.0.0"
      "port" "the container always listens on 8000; set service.port"
      "api_key_file" "set auth.existingSecret"
      "state_dir" "the chart mounts it; see state"
      "cache_dir" "the chart mounts it; see cache"
      "allow_no_auth" "the chart never opens the door"
      "dev" "development mode is not for a cluster" }}
{{- if hasKey $.Values.config $name }}
{{- fail (printf "config.%s: set by the chart: %s" $name $reason) }}
{{- end }}
{{- end }}
{{- with .Values.config.allowed_hosts }}
{{- $allowed := . }}
{{- if $.Values.ingress.enabled }}
{{- range $.Values.ingress.hosts }}
{{- if not (has .host $allowed) }}
{{- fail (printf "ingress.hosts: %s is not in config.allowed_hosts, so every request through it would be refused" .host) }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) }}
{{- fail "autoscaling.minReplicas must not be above autoscaling.maxReplicas" }}
{{- end }}
{{- end }}
