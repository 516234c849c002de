{{/* The bundled Prometheus, and what the operator's objects share with it. */}}

{{/* "true" if an object of the operator's is to be made. Takes (dict "root" $ "kind" "PodMonitor" "create" "auto"). */}}
{{- define "sbrl.operatorMakes" -}}
{{- $known := .root.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" .kind) -}}
{{- if or (eq .create "always") (and (eq .create "auto") $known) -}}
true
{{- end -}}
{{- end -}}

{{/* The labels that rules and dashboards expect, from what is known of a pod; both kinds of configuration name the same sources. */}}
{{- define "sbrl.targetLabels" -}}
release: __meta_kubernetes_pod_label_app_kubernetes_io_instance
component: __meta_kubernetes_pod_label_app_kubernetes_io_component
group: __meta_kubernetes_pod_label_sbrl_group
{{- end -}}

{{/* prometheus.yaml. Paths are relative to it. */}}
{{- define "sbrl.prometheusConfig" -}}
global:
  scrape_interval: {{ int .Values.metrics.intervalSeconds }}s
  scrape_timeout: {{ min 10 (int .Values.metrics.intervalSeconds) }}s
  evaluation_interval: {{ int .Values.metrics.intervalSeconds }}s
rule_files: [rules/*.yaml]
{{- with .Values.prometheus.alertmanagers }}
alerting:
  alertmanagers:
    - static_configs:
        - targets: {{ toJson . }}
{{- end }}
# Where a clock is set back, samples are of times that have been: without this none is kept until it has caught up.
storage:
  tsdb:
    out_of_order_time_window: 1d
scrape_configs:
  - job_name: sbrl
    kubernetes_sd_configs:
      - role: pod
        namespaces:
          names: [{{ .Release.Namespace }}]
        selectors:
          - role: pod
            label: {{ printf "app.kubernetes.io/name=%s,app.kubernetes.io/instance=%s" (include "sbrl.name" .) .Release.Name }}
    relabel_configs:
      # A pod is a target once for each of its ports: the one for metrics is meant.
      - source_labels: [__meta_kubernetes_pod_container_port_name]
        regex: metrics
        action: keep
      - source_labels: [__meta_kubernetes_namespace]
        target_label: namespace
      - source_labels: [__meta_kubernetes_pod_name]
        target_label: pod
      # By the pod, not by its address: a pod that is replaced under its old name goes on with its series.
      - source_labels: [__meta_kubernetes_pod_name]
        target_label: instance
      {{- range $label, $source := include "sbrl.targetLabels" . | fromYaml }}
      - source_labels: [{{ $source }}]
        target_label: {{ $label }}
      {{- end }}
{{- end -}}
