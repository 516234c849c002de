{{/* Backups: their destination, and the parts of pods that make and restore them. */}}

{{/* The place of the release's backups, or with a path the backup to restore. Takes (dict "root" $ "path" "rl/sbrl"). */}}
{{- define "sbrl.backupPlace" -}}
{{- $to := .root.Values.backup.to -}}
{{ ternary "/backups" (trimSuffix "/" $to.bucket) (empty $to.bucket) }}/{{ .path }}
{{- end -}}

{{- define "sbrl.backupEnvironment" -}}
{{- $to := .Values.backup.to -}}
- name: HOME
  value: /tmp
{{- if $to.bucket }}
- name: AWS_REGION
  value: {{ $to.region }}
{{- with $to.endpoint }}
- name: AWS_ENDPOINT_URL
  value: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The keys to the bucket. */}}
{{- define "sbrl.backupKeys" -}}
{{- if .Values.backup.to.bucket -}}
envFrom:
  - secretRef:
      name: {{ .Values.backup.to.existingSecret }}
{{- end -}}
{{- end -}}

{{/* Takes (dict "root" $ "readOnly" true). */}}
{{- define "sbrl.backupMount" -}}
{{- if not .root.Values.backup.to.bucket -}}
- name: backups
  mountPath: /backups
  {{- if .readOnly }}
  readOnly: true
  {{- end }}
{{- end -}}
{{- end -}}

{{/* Takes (dict "root" $ "readOnly" true). */}}
{{- define "sbrl.backupVolume" -}}
{{- if not .root.Values.backup.to.bucket -}}
- name: backups
  persistentVolumeClaim:
    claimName: {{ .root.Values.backup.to.claim }}
    {{- if .readOnly }}
    readOnly: true
    {{- end }}
{{- end -}}
{{- end -}}

{{/*
The init container that fills an empty volume from a backup. Empty without a backup, or for a role without a part.
Takes a pod's context, with "part": learner, coordinator or replay-$(SHARD).
*/}}
{{- define "sbrl.restore" -}}
{{- $root := .root -}}
{{- if and .part $root.Values.restore.from -}}
initContainers:
  - name: restore
    image: {{ include "sbrl.image" . }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    args:
      - restore
      - {{ include "sbrl.backupPlace" (dict "root" $root "path" $root.Values.restore.from) | quote }}
      - /data
      - {{ printf "--part=%s" .part | quote }}
      - --shards={{ int $root.Values.run.replay.num_shards }}
      - --if-empty
    {{- with include "sbrl.backupKeys" $root }}
    {{- . | nindent 4 }}
    {{- end }}
    env:
      {{- include "sbrl.backupEnvironment" $root | nindent 6 }}
      {{- with .env }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
      {{- with .settings.extraEnv }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    resources:
      {{- toYaml $root.Values.backup.resources | nindent 6 }}
    securityContext:
      {{- include "sbrl.containerSecurity" . | nindent 6 }}
    volumeMounts:
      - name: data
        mountPath: /data
      - name: tmp
        mountPath: /tmp
      {{- with include "sbrl.backupMount" (dict "root" $root "readOnly" true) }}
      {{- . | nindent 6 }}
      {{- end }}
      {{- with .settings.extraVolumeMounts }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
{{- end -}}
{{- end -}}

{{/* Rules for backups that the schema cannot express. */}}
{{- define "sbrl.backupRules" -}}
{{- $to := .Values.backup.to -}}
{{- if or .Values.backup.enabled .Values.restore.from -}}
{{- if eq (empty $to.claim) (empty $to.bucket) -}}
{{- fail "\n\nbackup.to names neither a claim nor a bucket, or both: set backup.to.claim to a volume claim of the namespace, or backup.to.bucket to s3://BUCKET/PREFIX.\n" -}}
{{- end -}}
{{- if and $to.bucket (not $to.existingSecret) -}}
{{- fail (printf "\n\nbackup.to.bucket is %s, but backup.to.existingSecret is empty: name a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.\n" $to.bucket) -}}
{{- end -}}
{{- end -}}
{{- if .Values.backup.enabled -}}
{{- range $role := list "coordinator" "replay" "learner" -}}
{{- $persistence := (get $.Values $role).persistence -}}
{{- if eq $persistence.kind "ephemeral" -}}
{{- fail (printf "\n\nbackup.enabled is true, but %s.persistence.kind is ephemeral: there is no volume claim to copy, choose persistent.\n" $role) -}}
{{- end -}}
{{- if eq $persistence.accessMode "ReadWriteOncePod" -}}
{{- fail (printf "\n\nbackup.enabled is true, but %s.persistence.accessMode is ReadWriteOncePod: no second pod can copy the volume, choose ReadWriteOnce.\n" $role) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
