{{/* Pods of the release by role, as a NetworkPolicy names them. Takes (dict "root" $ "roles" (list "actor" ...)). */}}
{{- define "sbrl.rolesSelector" -}}
matchLabels:
  {{- include "sbrl.releaseLabels" .root | nindent 2 }}
matchExpressions:
  - key: app.kubernetes.io/component
    operator: In
    values: [{{ join ", " .roles }}]
{{- end -}}

{{/* The roles that call the coordinator (it calls itself without leaving its pod). */}}
{{- define "sbrl.coordinatorClients" -}}
actor, learner, replay, evaluator, controller, check
{{- end -}}
