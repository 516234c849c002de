{{/* The common parts of the roles' pods. Every helper takes (dict "root" $ "key" "actors" "role" "actor" ...). */}}

{{/* A role's settings: `defaults` of values.yaml, with each key replaced by the role's own (probes key by key). */}}
{{- define "sbrl.settings" -}}
{{- $role := get .root.Values .key -}}
{{- $settings := dict -}}
{{- range $name, $default := .root.Values.defaults -}}
{{- $_ := set $settings $name (ternary (get $role $name) $default (hasKey $role $name)) -}}
{{- end -}}
{{- $_ := set $settings "probes" (merge (deepCopy (default dict $role.probes)) .root.Values.defaults.probes) -}}
{{- toYaml $settings -}}
{{- end -}}

{{- define "sbrl.image" -}}
{{- $image := .root.Values.image -}}
{{- $repository := ternary $image.learnerRepository $image.repository (eq .role "learner") -}}
{{ printf "%s:%s" $repository (default .root.Chart.AppVersion $image.tag) | quote }}
{{- end -}}

{{- define "sbrl.priorityClass" -}}
{{- $created := include "sbrl.clusterName" (dict "root" .root "name" (ternary "actors" "state" (eq .role "actor"))) -}}
{{- default (ternary $created "" .root.Values.priorityClasses.create) .settings.priorityClassName -}}
{{- end -}}

{{- define "sbrl.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "sbrl.podSecurity" -}}
runAsNonRoot: true
{{- with .Values.security.runAsUser }}
runAsUser: {{ int64 . }}
{{- end }}
{{- with .Values.security.runAsGroup }}
runAsGroup: {{ int64 . }}
{{- end }}
{{- with .Values.security.fsGroup }}
fsGroup: {{ int64 . }}
# A shard's volume may hold gigabytes: chown its files once, not at every start.
fsGroupChangePolicy: OnRootMismatch
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{/* The environment that every role shares with the others. */}}
{{- define "sbrl.environment" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: HOME
  value: /tmp
# Roles share a node's cores: waiting threads must not spin (GNU OpenMP's default) while others could work.
- name: OMP_WAIT_POLICY
  value: PASSIVE
- name: SBRL_LOG_FORMAT
  value: {{ .root.Values.logs.format }}
- name: SBRL_TOKEN_FILE
  value: /etc/sbrl/token/token
{{- if .root.Values.tls.secretName }}
- name: SBRL_TLS_CA_FILE
  value: /etc/sbrl/tls/ca.crt
- name: SBRL_TLS_SERVER_NAME
  value: {{ default (include "sbrl.coordinatorHost" .root) .root.Values.tls.serverName | quote }}
{{- if eq .role "coordinator" }}
- name: SBRL_TLS_CERT_FILE
  value: /etc/sbrl/tls/tls.crt
- name: SBRL_TLS_KEY_FILE
  value: /etc/sbrl/tls/tls.key
{{- end }}
{{- end }}
{{- end -}}

{{- define "sbrl.mounts" -}}
- name: config
  mountPath: /etc/sbrl/config
  readOnly: true
- name: token
  mountPath: /etc/sbrl/token
  readOnly: true
{{- if .root.Values.tls.secretName }}
- name: tls
  mountPath: /etc/sbrl/tls
  readOnly: true
{{- end }}
- name: tmp
  mountPath: /tmp
{{- end -}}

{{/* A Secret's files belong to root and fsGroup. The process is neither if the cluster should set the group but does not. */}}
{{- define "sbrl.secretMode" -}}
{{ ternary "0440" "0444" (not (empty .Values.security.fsGroup)) }}
{{- end -}}

{{- define "sbrl.volumes" -}}
- name: config
  configMap:
    name: {{ include "sbrl.fullname" .root }}-run
- name: token
  secret:
    secretName: {{ include "sbrl.tokenSecret" .root }}
    defaultMode: {{ include "sbrl.secretMode" .root }}
    items:
      - key: {{ .root.Values.token.key }}
        path: token
{{- with .root.Values.tls.secretName }}
- name: tls
  secret:
    secretName: {{ . }}
    defaultMode: {{ include "sbrl.secretMode" $.root }}
    items:
      - key: ca.crt
        path: ca.crt
      {{- if eq $.role "coordinator" }}
      - key: tls.crt
        path: tls.crt
      - key: tls.key
        path: tls.key
      {{- end }}
{{- end }}
- name: tmp
  emptyDir:
    sizeLimit: {{ .settings.temporarySpace }}
{{- end -}}

{{/*
nodeSelector, affinity and tolerations of a role. Actors run on the nodes of actors.spot, other roles stay off them. With
"beside" the pod only runs on the node of the pod with that name.
*/}}
{{- define "sbrl.spot" -}}
{{- $where := pick (deepCopy .settings) "nodeSelector" "affinity" "tolerations" -}}
{{- with .root.Values.actors.spot -}}
{{- $key := first (splitList "=" .) -}}
{{- $value := last (splitList "=" .) -}}
{{- if eq $.role "actor" -}}
{{- $_ := set $where "nodeSelector" (merge (dict $key $value) $where.nodeSelector) -}}
{{- $_ := set $where "tolerations" (append $where.tolerations (dict "key" $key "operator" "Equal" "value" $value)) -}}
{{- else -}}
{{- $off := dict "key" $key "operator" "NotIn" "values" (list $value) -}}
{{- $required := dig "nodeAffinity" "requiredDuringSchedulingIgnoredDuringExecution" "nodeSelectorTerms" list $where.affinity -}}
{{- $terms := list -}}
{{- range default (list dict) $required -}}
{{- /* One of the terms has to hold, and all of a term. */ -}}
{{- $terms = append $terms (set . "matchExpressions" (append (default list .matchExpressions) $off)) -}}
{{- end -}}
{{- $node := default dict $where.affinity.nodeAffinity -}}
{{- $_ := set $node "requiredDuringSchedulingIgnoredDuringExecution" (dict "nodeSelectorTerms" $terms) -}}
{{- $_ := set $where.affinity "nodeAffinity" $node -}}
{{- end -}}
{{- end -}}
{{- with .beside -}}
{{- $own := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict "matchLabels" (dict "statefulset.kubernetes.io/pod-name" .)) -}}
{{- $pods := default dict $where.affinity.podAffinity -}}
{{- $key := "requiredDuringSchedulingIgnoredDuringExecution" -}}
{{- $_ := set $pods $key (append (default list (get $pods $key)) $own) -}}
{{- $_ := set $where.affinity "podAffinity" $pods -}}
{{- end -}}
{{- toYaml $where -}}
{{- end -}}

{{/* Where a pod may run: the keys of a pod's spec that come from the role's settings. */}}
{{- define "sbrl.scheduling" -}}
{{- $where := include "sbrl.spot" . | fromYaml }}
{{- range $name := list "nodeSelector" "affinity" "tolerations" }}
{{- with get $where $name }}
{{ $name }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with .settings.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  {{- $own := dict "labelSelector" (dict "matchLabels" (include "sbrl.selectorLabels" (dict "root" $.root "component" $.role) | fromYaml)) }}
  - {{- merge (deepCopy .) $own | toYaml | nindent 4 }}
  {{- end }}
{{- end }}
{{- with include "sbrl.priorityClass" . }}
priorityClassName: {{ . }}
{{- end }}
{{- with .settings.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end -}}

{{/*
The health service answers SERVING for "liveness" as long as the process exists, and for "" once the role does its work. So a
role that waits for others is alive and not ready, and nothing restarts it.
*/}}
{{- define "sbrl.probes" -}}
{{- $probes := .settings.probes -}}
startupProbe:
  grpc:
    port: {{ int .root.Values.ports.health }}
    service: liveness
  periodSeconds: 5
  timeoutSeconds: {{ int $probes.timeoutSeconds }}
  failureThreshold: {{ div (add (int $probes.startupSeconds) 4) 5 }}
livenessProbe:
  grpc:
    port: {{ int .root.Values.ports.health }}
    service: liveness
  periodSeconds: {{ int $probes.periodSeconds }}
  timeoutSeconds: {{ int $probes.timeoutSeconds }}
  failureThreshold: {{ int $probes.failureThreshold }}
readinessProbe:
  grpc:
    port: {{ int .root.Values.ports.health }}
  periodSeconds: {{ int $probes.periodSeconds }}
  timeoutSeconds: {{ int $probes.timeoutSeconds }}
  failureThreshold: {{ int $probes.failureThreshold }}
{{- end -}}

{{/*
A role's pod template. In addition to the keys above it takes
  args         the role's own arguments
  tools        whether to mount the chart's own scripts
  port         the port that it serves others on, by its name in `ports`; "" for none
  env          more environment, before the user's
  persistence  its `persistence`, mounted at /data; none for roles without state
  limits       more of resources.limits: GPUs
  part         the part of a backup that fills its volume (restore.from); "" for roles without state
  serviceAccount  its name, and whether the pod gets its token: (dict "name" "" "token" false)
*/}}
{{- define "sbrl.pod" -}}
{{- $root := .root -}}
{{- $settings := include "sbrl.settings" . | fromYaml -}}
{{- $context := merge (dict "settings" $settings) . -}}
{{- $serviceAccount := default (dict "name" (include "sbrl.fullname" $root) "token" false) .serviceAccount -}}
metadata:
  labels:
    {{- include "sbrl.selectorLabels" (dict "root" $root "component" .role) | nindent 4 }}
    {{- with include "sbrl.queue" $root }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with $settings.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/run: {{ include "sbrl.runChecksum" . }}
    {{- if $root.Values.token.seed }}
    # Another seed gives another token. A role only reads it at its start.
    checksum/token: {{ include "sbrl.token" $root | sha256sum }}
    {{- end }}
    {{- if $root.Values.metrics.annotations }}
    prometheus.io/scrape: "true"
    prometheus.io/port: {{ $root.Values.ports.metrics | quote }}
    prometheus.io/path: /metrics
    {{- end }}
    {{- with $settings.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ $serviceAccount.name }}
  automountServiceAccountToken: {{ $serviceAccount.token }}
  # Otherwise Kubernetes adds a dozen variables for each Service in the namespace.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ int $settings.terminationGracePeriodSeconds }}
  {{- with $root.Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    {{- include "sbrl.podSecurity" $root | nindent 4 }}
  {{- with include "sbrl.scheduling" $context | trim }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with include "sbrl.restore" $context }}
  {{- . | nindent 2 }}
  {{- end }}
  containers:
    - name: {{ .role }}
      image: {{ include "sbrl.image" . }}
      imagePullPolicy: {{ $root.Values.image.pullPolicy }}
      args:
        - {{ .role }}
        - --config=/etc/sbrl/config/run.yaml
        - --name=$(POD_NAME)
        {{- range .args }}
        - {{ . | quote }}
        {{- end }}
      env:
        {{- include "sbrl.environment" . | nindent 8 }}
        {{- with .env }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- with $settings.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        {{- with .port }}
        - name: {{ . }}
          containerPort: {{ int (get $root.Values.ports .) }}
        {{- end }}
        - name: health
          containerPort: {{ int $root.Values.ports.health }}
        - name: metrics
          containerPort: {{ int $root.Values.ports.metrics }}
      {{- include "sbrl.probes" $context | nindent 6 }}
      {{- with $settings.preStopSeconds }}
      lifecycle:
        preStop:
          exec:
            command: [sleep, {{ . | quote }}]
      {{- end }}
      resources:
        {{- $resources := deepCopy $settings.resources }}
        {{- with .limits }}
        {{- $_ := set $resources "limits" (merge (deepCopy .) (default dict $resources.limits)) }}
        {{- end }}
        {{- toYaml $resources | nindent 8 }}
      securityContext:
        {{- include "sbrl.containerSecurity" . | nindent 8 }}
      volumeMounts:
        {{- include "sbrl.mounts" . | nindent 8 }}
        {{- if .persistence }}
        - name: data
          mountPath: /data
        {{- end }}
        {{- if .tools }}
        - name: tools
          mountPath: /etc/sbrl/tools
          readOnly: true
        {{- end }}
        {{- with $settings.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    {{- include "sbrl.volumes" $context | nindent 4 }}
    {{- if .persistence }}
    {{- if eq .persistence.kind "ephemeral" }}
    - name: data
      emptyDir:
        sizeLimit: {{ .persistence.size }}
    {{- end }}
    {{- end }}
    {{- if and .part $root.Values.restore.from }}
    {{- with include "sbrl.backupVolume" (dict "root" $root "readOnly" true) }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- end }}
    {{- if .tools }}
    - name: tools
      configMap:
        name: {{ include "sbrl.fullname" $root }}-tools
    {{- end }}
    {{- with $settings.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* A StatefulSet's volume claims and their retention. Takes (dict "root" $ "component" "replay" "persistence" ...). */}}
{{- define "sbrl.claims" -}}
{{- if eq .persistence.kind "persistent" -}}
persistentVolumeClaimRetentionPolicy:
  whenDeleted: {{ .persistence.whenDeleted }}
  whenScaled: Retain
volumeClaimTemplates:
  - metadata:
      name: data
      labels:
        # Only these labels: a claim template cannot change later.
        {{- include "sbrl.selectorLabels" . | nindent 8 }}
      {{- with .persistence.annotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      {{- include "sbrl.claimSpec" .persistence | nindent 6 }}
{{- end -}}
{{- end -}}

{{/* A volume claim's spec. Takes the role's `persistence`. */}}
{{- define "sbrl.claimSpec" -}}
accessModes: [{{ .accessMode }}]
{{- with .storageClass }}
storageClassName: {{ . | quote }}
{{- end }}
resources:
  requests:
    storage: {{ .size }}
{{- end -}}
