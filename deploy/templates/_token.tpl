{{/* What the run's gRPC services ask for. */}}

{{- define "sbrl.tokenSecret" -}}
{{- default (printf "%s-token" (include "sbrl.fullname" .)) .Values.token.existingSecret -}}
{{- end -}}

{{/*
The token of the release's own Secret. From a seed it is the same at every rendering, and another one for each release. Else the one there
is stays, for pods that are not restarted go on with it; where there is no cluster to ask, it is another one each time.
*/}}
{{- define "sbrl.token" -}}
{{- if .Values.token.seed -}}
{{- printf "%s/%s/%s" .Release.Namespace .Release.Name .Values.token.seed | sha256sum -}}
{{- else -}}
{{- $live := lookup "v1" "Secret" .Release.Namespace (include "sbrl.tokenSecret" .) -}}
{{- default (randAlphaNum 48 | b64enc) (get (default dict $live.data) .Values.token.key) | b64dec -}}
{{- end -}}
{{- end -}}
