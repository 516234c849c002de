{{/*
Names and labels. The release's part of a name may have 40 characters. A StatefulSet's whole name may have 52, because its pods
get a label with a hash after the name. All other names may have 63.
*/}}

{{/*
A text within a limit. A text that is cut gets a hash of the whole, so that texts with the same beginning stay different.
Takes (dict "text" "limit").
*/}}
{{- define "sbrl.within" -}}
{{- if gt (len .text) (int .limit) -}}
{{- include "sbrl.hashed" (dict "text" .text "of" .text "limit" .limit) -}}
{{- else -}}
{{- .text -}}
{{- end -}}
{{- end -}}

{{/* A text with a hash of `of` after it, both within a limit. Takes (dict "text" "of" "limit"). */}}
{{- define "sbrl.hashed" -}}
{{- printf "%s-x%s" (trunc (sub (int .limit) 10 | int) .text) (sha256sum .of | trunc 8) -}}
{{- end -}}

{{- define "sbrl.name" -}}
{{- include "sbrl.within" (dict "text" (default .Chart.Name .Values.nameOverride) "limit" 40) -}}
{{- end -}}

{{/* The release's part of a name, before it is cut or gets a hash. */}}
{{- define "sbrl.plainName" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- end -}}

{{/*
The beginning of the names of all the release's objects. It is the plain name, plus a hash if another release in the namespace
could have the same name, or objects with the same name. With the chart's own name these are releases with names like
  pong-sbrl                       it is the plain name of pong
  sbrl-controller                 its ServiceAccount would have the name of sbrl's controller
  sbrl-x0123abcd                  it has the form of a hash
With nameOverride these are the releases with an ambiguous plain name.
*/}}
{{- define "sbrl.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- include "sbrl.within" (dict "text" .Values.fullnameOverride "limit" 40) -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $plain := include "sbrl.plainName" . -}}
{{- $other := ne $name .Chart.Name -}}
{{- if or (gt (len $plain) 40)
  (hasSuffix (printf "-%s" $name) .Release.Name)
  (regexMatch "-(controller|prometheus|x[0-9a-f]{8})$" $plain)
  (and $other (or (contains "-" $name) (contains $name .Release.Name) (contains .Chart.Name $plain))) -}}
{{- include "sbrl.hashed" (dict "text" $plain "of" (printf "%s/%s" .Release.Name $name) "limit" 40) -}}
{{- else -}}
{{- $plain -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
A name that is unique in the cluster. Namespace and name are joined by a hyphen, which is unambiguous if neither has another
hyphen. Otherwise they are joined by a dot, which neither can contain. Takes (dict "root" $ "name" "actors").
*/}}
{{- define "sbrl.clusterName" -}}
{{- $fullname := include "sbrl.fullname" .root -}}
{{- list .root.Release.Namespace $fullname .name | join (ternary "." "-" (contains "-" (print .root.Release.Namespace $fullname))) -}}
{{- end -}}

{{/* A version as a label's value. */}}
{{- define "sbrl.labelValue" -}}
{{- include "sbrl.within" (dict "text" (replace "+" "_" .) "limit" 63) -}}
{{- end -}}

{{/* The labels that select the release's pods. They never change. */}}
{{- define "sbrl.releaseLabels" -}}
app.kubernetes.io/name: {{ include "sbrl.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* The labels that select one role's pods. Takes (dict "root" $ "component" "actor"). */}}
{{- define "sbrl.selectorLabels" -}}
{{ include "sbrl.releaseLabels" .root }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* The labels of an object. Takes (dict "root" $ "component" "actor"). */}}
{{- define "sbrl.labels" -}}
{{ include "sbrl.selectorLabels" . }}
app.kubernetes.io/version: {{ include "sbrl.labelValue" .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: {{ include "sbrl.name" .root }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ include "sbrl.labelValue" (printf "%s-%s" .root.Chart.Name .root.Chart.Version) }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Kueue's label for objects that it should admit. Empty without a queue. */}}
{{- define "sbrl.queue" -}}
{{- with .Values.kueue.localQueue -}}
kueue.x-k8s.io/queue-name: {{ . }}
{{- end -}}
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
