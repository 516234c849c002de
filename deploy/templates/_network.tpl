{{/* The selector of pods of the release by role, for a NetworkPolicy. Takes (dict "root" $ "roles" (list "actor" ...)). */}}
{{- define "sbrl.rolesSelector" -}}
matchLabels:
  {{- include "sbrl.releaseLabels" .root | nindent 2 }}
matchExpressions:
  - key: app.kubernetes.io/component
    operator: In
    values: [{{ join ", " .roles }}]
{{- end -}}

{{/* The roles that call the coordinator (calls to itself do not leave its pod). */}}
{{- define "sbrl.coordinatorClients" -}}
actor, learner, replay, evaluator, controller, check
{{- end -}}

{{/* The egress rule for pods that use the Kubernetes API. 443 is its Service's port, 6443 that of most API servers behind it,
8443 minikube's. */}}
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
