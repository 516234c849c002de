{{/* The token that the run's gRPC services require. */}}

{{- define "sbrl.tokenSecret" -}}
{{- default (printf "%s-token" (include "sbrl.fullname" .)) .Values.token.existingSecret -}}
{{- end -}}

{{/*
The token in the release's own Secret. With a seed it is the same at every rendering, and different for each release. Otherwise
an existing token stays, because pods that are not restarted continue to use it. Without a cluster to ask, it is new each time.
*/}}
{{- define "sbrl.token" -}}
{{- if .Values.token.seed -}}
{{- printf "%s/%s/%s" .Release.Namespace .Release.Name .Values.token.seed | sha256sum -}}
{{- else -}}
{{- $live := lookup "v1" "Secret" .Release.Namespace (include "sbrl.tokenSecret" .) -}}
{{- default (randAlphaNum 48 | b64enc) (get (default dict $live.data) .Values.token.key) | b64dec -}}
{{- end -}}
{{- end -}}
