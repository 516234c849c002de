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

{{/* The egress rule of those who ask the Kubernetes API: 443 is its Service's port, 6443 what most API servers listen on behind
it, 8443 minikube's. */}}
{{- define "sbrl.apiServerEgress" -}}
- ports:
    {{- range .Values.networkPolicy.apiServerPorts }}
    - port: {{ int . }}
      protocol: TCP
    {{- end }}
  {{- with .Values.networkPolicy.apiServerTo }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
