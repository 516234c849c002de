{{/* The bundled Prometheus, and the parts that it shares with the operator's objects. */}}

{{/* "true" if the chart should make an object of the operator. Takes (dict "root" $ "kind" "PodMonitor" "create" "auto"). */}}
{{- define "sbrl.operatorMakes" -}}
{{- $known := .root.Capabilities.APIVersions.Has (printf "monitoring.coreos.com/v1/%s" .kind) -}}
{{- if or (eq .create "always") (and (eq .create "auto") $known) -}}
true
{{- end -}}
{{- end -}}

{{/* The labels that rules and dashboards expect, from a pod's metadata. Both kinds of configuration use the same sources. */}}
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
# If a clock is set back, samples have past times. Without this they are dropped until the clock has caught up.
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
      # A pod is a target once for each of its ports: keep only the one for metrics.
      - source_labels: [__meta_kubernetes_pod_container_port_name]
        regex: metrics
        action: keep
      - source_labels: [__meta_kubernetes_namespace]
        target_label: namespace
      - source_labels: [__meta_kubernetes_pod_name]
        target_label: pod
      # Use the pod's name and not its address: a pod that is replaced under its old name continues its series.
      - source_labels: [__meta_kubernetes_pod_name]
        target_label: instance
      {{- range $label, $source := include "sbrl.targetLabels" . | fromYaml }}
      - source_labels: [{{ $source }}]
        target_label: {{ $label }}
      {{- end }}
{{- end -}}
