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

{{/* What all replicas must share: the secret behind key hashes and cache salts, and the ways to Redis and database. */}}
{{- define "sluice.deploymentSecretName" -}}
{{- .Values.auth.deploymentSecret.existingSecret | default (printf "%s-deployment" (include "sluice.fullname" . | trunc 52 | trimSuffix "-")) }}
{{- end }}

{{- define "sluice.redisName" -}}
{{- printf "%s-redis" (include "sluice.fullname" . | trunc 57 | trimSuffix "-") }}
{{- end }}

{{- define "sluice.redisLabels" -}}
{{ include "sluice.instanceLabels" . }}
app.kubernetes.io/component: redis
{{- end }}

{{- define "sluice.postgresqlName" -}}
{{- printf "%s-postgresql" (include "sluice.fullname" . | trunc 52 | trimSuffix "-") }}
{{- end }}

{{- define "sluice.postgresqlLabels" -}}
{{ include "sluice.instanceLabels" . }}
app.kubernetes.io/component: postgresql
{{- end }}

{{- define "sluice.sharedVolume" -}}
name: shared
projected:
  defaultMode: 0440
  sources:
    - secret:
        name: {{ include "sluice.deploymentSecretName" . }}
        items:
          - key: {{ .Values.auth.deploymentSecret.key }}
            path: secret
    {{- if include "sluice.redis" . }}
    - secret:
        name: {{ .Values.redis.existingSecret.name | default (include "sluice.redisName" .) }}
        items:
          - key: {{ .Values.redis.enabled | ternary "url" .Values.redis.existingSecret.key }}
            path: redis-url
    {{- end }}
    {{- if include "sluice.postgresql" . }}
    - secret:
        name: {{ .Values.postgresql.existingSecret.name | default (include "sluice.postgresqlName" .) }}
        items:
          - key: {{ .Values.postgresql.enabled | ternary "url" .Values.postgresql.existingSecret.key }}
            path: database-url
    {{- end }}
{{- end }}

{{- define "sluice.redis" -}}
{{- if or .Values.redis.enabled .Values.redis.existingSecret.name }}true{{ end }}
{{- end }}

{{- define "sluice.postgresql" -}}
{{- if or .Values.postgresql.enabled .Values.postgresql.existingSecret.name }}true{{ end }}
{{- end }}

{{- define "sluice.scaled" -}}
{{- if or .Values.autoscaling.enabled .Values.keda.enabled }}true{{ end }}
{{- end }}

{{/* Most pods that will ever run at once. */}}
{{- define "sluice.mostReplicas" -}}
{{- if .Values.keda.enabled }}{{ .Values.keda.maxReplicas }}
{{- else if .Values.autoscaling.enabled }}{{ .Values.autoscaling.maxReplicas }}
{{- else }}{{ .Values.replicaCount }}{{ end }}
{{- end }}

{{/* Whether more than the API can be asked from outside of the cluster. */}}
{{- define "sluice.exposed" -}}
{{- $open := false }}
{{- if .Values.ingress.enabled }}
{{- range .Values.ingress.hosts }}{{ range .paths }}{{ if not (hasPrefix "/v1" .path) }}{{ $open = true }}{{ end }}{{ end }}{{ end }}
{{- end }}
{{- if .Values.httpRoute.enabled }}
{{- range .Values.httpRoute.paths }}{{ if not (hasPrefix "/v1" .) }}{{ $open = true }}{{ end }}{{ end }}
{{- end }}
{{- if or $open (ne .Values.service.type "ClusterIP") }}true{{ end }}
{{- end }}

{{- define "sluice.metricsNeedKey" -}}
{{- if hasKey .Values.config "metrics_need_key" }}{{ if .Values.config.metrics_need_key }}true{{ end }}
{{- else }}{{ include "sluice.exposed" . }}{{ end }}
{{- end }}

{{/* sluice.yaml: `config`, and what follows from the other values where `config` does not say otherwise. */}}
{{- define "sluice.config" -}}
{{- $config := deepCopy .Values.config }}
{{- if and (include "sluice.metricsNeedKey" .) (not (hasKey $config "metrics_need_key")) }}
{{- $_ := set $config "metrics_need_key" true }}
{{- end }}
{{- with .Values.modelSpec }}
{{- $_ := set $config "models" . }}
{{- end }}
{{- with .Values.tracing.endpoint }}
{{- $tracing := dict "otlp_endpoint" . "sample_ratio" $.Values.tracing.sampleRatio }}
{{- $_ := set $config "tracing" (merge ($config.tracing | default dict) $tracing) }}
{{- end }}
{{- if include "sluice.redis" . }}
{{- $limits := $config.limits | default dict }}
{{- if not (hasKey $limits "replicas") }}
{{- $_ := set $limits "replicas" (include "sluice.mostReplicas" . | int | max 1) }}
{{- end }}
{{- $_ := set $config "limits" $limits }}
{{- end }}
{{- toYaml $config }}
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
{{- if and .Values.metrics.podAnnotations (not .Values.metrics.serviceMonitor.enabled) (not (include "sluice.metricsNeedKey" .)) }}true{{ end }}
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
      "secret_file" "set auth.deploymentSecret"
      "redis_url_file" "set redis.existingSecret"
      "allow_no_auth" "the chart never opens the door"
      "dev" "development mode is not for a cluster" }}
{{- if hasKey $.Values.config $name }}
{{- fail (printf "config.%s: set by the chart: %s" $name $reason) }}
{{- end }}
{{- end }}
{{- if and .Values.modelSpec (or (hasKey .Values.config "model") (hasKey .Values.config "models")) }}
{{- fail "modelSpec and config.model, config.models: both say which models there are; choose one" }}
{{- end }}
{{- if and .Values.tracing.endpoint (hasKey (.Values.config.tracing | default dict) "otlp_endpoint") }}
{{- fail "tracing.endpoint and config.tracing.otlp_endpoint: both say where traces go; choose one" }}
{{- end }}
{{- if and (not .Values.tracing.endpoint) .Values.tracing.headers.existingSecret }}
{{- fail "tracing.headers.existingSecret: tracing.endpoint says for whom it is, and is empty" }}
{{- end }}
{{- if hasKey (.Values.config.store | default dict) "url_file" }}
{{- fail "config.store.url_file: set by the chart: set postgresql.existingSecret" }}
{{- end }}
{{- with .Values.config.allowed_hosts }}
{{- $allowed := . }}
{{- if $.Values.httpRoute.enabled }}
{{- range $.Values.httpRoute.hostnames }}
{{- if not (has . $allowed) }}
{{- fail (printf "httpRoute.hostnames: %s is not in config.allowed_hosts, so every request through it would be refused" .) }}
{{- end }}
{{- end }}
{{- end }}
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
{{- if and .Values.autoscaling.enabled .Values.keda.enabled }}
{{- fail "autoscaling.enabled and keda.enabled: KEDA makes a HorizontalPodAutoscaler of its own; choose one" }}
{{- end }}
{{- if and .Values.keda.enabled (gt (int .Values.keda.minReplicas) (int .Values.keda.maxReplicas)) }}
{{- fail "keda.minReplicas must not be above keda.maxReplicas" }}
{{- end }}
{{- range $name := list "redis" "postgresql" }}
{{- $part := index $.Values $name }}
{{- if and $part.enabled $part.existingSecret.name }}
{{- fail (printf "%s.enabled and %s.existingSecret.name: the chart's own or yours; choose one" $name $name) }}
{{- end }}
{{- end }}
{{- end }}
