{{/* Names and labels. A StatefulSet's name may have 52 characters (its pods get a label with a hash after it). */}}

{{- define "sbrl.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "sbrl.fullname" -}}
{{- $name := include "sbrl.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "sbrl.tokenSecret" -}}
{{- default (printf "%s-token" (include "sbrl.fullname" .)) .Values.token.existingSecret -}}
{{- end -}}

{{/* What selects the release's pods, and never changes. */}}
{{- define "sbrl.releaseLabels" -}}
app.kubernetes.io/name: {{ include "sbrl.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* What selects one role's pods. Takes (dict "root" $ "component" "actor"). */}}
{{- define "sbrl.selectorLabels" -}}
{{ include "sbrl.releaseLabels" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* The labels of an object. Takes (dict "root" $ "component" "actor"). */}}
{{- define "sbrl.labels" -}}
{{ include "sbrl.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: {{ include "sbrl.name" .root }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* metadata of a namespaced object. Takes (dict "root" $ "component" "actor" "name" "actors"); name "" is the release's own. */}}
{{- define "sbrl.metadata" -}}
name: {{ include "sbrl.fullname" .root }}{{ with .name }}-{{ . }}{{ end }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "sbrl.labels" . | nindent 2 }}
{{- end -}}

{{- define "sbrl.coordinatorHost" -}}
{{ include "sbrl.fullname" . }}-coordinator.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end -}}
