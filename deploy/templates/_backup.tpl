{{/* Backups: their destination, and the parts of pods that make and restore them. */}}

{{/* The pod that writes to a part's volume. Takes (dict "root" $ "part" "replay-1"). */}}
{{- define "sbrl.partPod" -}}
{{ include "sbrl.fullname" .root }}-{{ .part }}{{ if not (hasPrefix "replay-" .part) }}-0{{ end }}
{{- end -}}

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
{{- if .root.Values.backup.to.claim -}}
- name: backups
  mountPath: /backups
  {{- if .readOnly }}
  readOnly: true
  {{- end }}
{{- end -}}
{{- end -}}

{{/* Takes (dict "root" $ "readOnly" true). */}}
{{- define "sbrl.backupVolume" -}}
{{- if .root.Values.backup.to.claim -}}
- name: backups
  persistentVolumeClaim:
    claimName: {{ .root.Values.backup.to.claim }}
    {{- if .readOnly }}
    readOnly: true
    {{- end }}
{{- end -}}
{{- end -}}

{{/*
The init container that fills an empty volume from a copy. Empty without one, or for a role without a part.
Takes a pod's context, with "part": learner, coordinator or replay-$(SHARD).
*/}}
{{- define "sbrl.restore" -}}
{{- $root := .root -}}
{{- if and .part $root.Values.restore.from (not $root.Values.backup.to.snapshotClass) -}}
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
{{- $from := .Values.restore.from -}}
{{- if or .Values.backup.enabled $from -}}
{{- if ne (len (compact (list $to.claim $to.bucket $to.snapshotClass))) 1 -}}
{{- fail "\n\nbackup.to names no destination or several: set one of backup.to.claim, a volume claim of the namespace, backup.to.bucket, s3://BUCKET/PREFIX, and backup.to.snapshotClass, a VolumeSnapshotClass of the cluster.\n" -}}
{{- end -}}
{{- if and $to.bucket (not $to.existingSecret) -}}
{{- fail (printf "\n\nbackup.to.bucket is %s, but backup.to.existingSecret is empty: name a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.\n" $to.bucket) -}}
{{- end -}}
{{- if and $from $to.snapshotClass (ne (first (splitList "/" $from)) .Release.Namespace) -}}
{{- fail (printf "\n\nrestore.from is %s, but snapshots can only be restored in their own namespace, and this release is in %s: install it there, or back up to a bucket.\n" $from .Release.Namespace) -}}
{{- end -}}
{{- end -}}
{{- $snapshots := and $to.snapshotClass $from -}}
{{- if or .Values.backup.enabled $snapshots -}}
{{- range $role := list "coordinator" "replay" "learner" -}}
{{- $persistence := (get $.Values $role).persistence -}}
{{- if eq $persistence.kind "ephemeral" -}}
{{- fail (printf "\n\n%s, but %s.persistence.kind is ephemeral: there is no volume claim to %s, choose persistent.\n" (ternary "backup.enabled is true" "restore.from names snapshots" $.Values.backup.enabled) $role (ternary "copy" "restore" $.Values.backup.enabled)) -}}
{{- end -}}
{{- if and (eq $persistence.accessMode "ReadWriteOncePod") (not $to.snapshotClass) -}}
{{- fail (printf "\n\nbackup.enabled is true, but %s.persistence.accessMode is ReadWriteOncePod: no second pod can copy the volume, choose ReadWriteOnce, or backup.to.snapshotClass.\n" $role) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
The snapshot of a part in the backup restore.from (NAMESPACE/RELEASE/NAME), as `sbrl snapshot` names it.
Takes (dict "root" $ "part" "replay-1").
*/}}
{{- define "sbrl.snapshot" -}}
{{- $from := splitList "/" .root.Values.restore.from -}}
{{ index $from 1 }}-{{ .part }}-{{ last $from }}
{{- end -}}

{{/*
Refuses a restore from snapshots that are not there, not ready or of another number of shards: claims made from them would wait
for ever. Does nothing if there is no cluster to ask (helm template). Takes (dict "root" $ "parts" (list "learner" ...)).
*/}}
{{- define "sbrl.guardSnapshots" -}}
{{- $root := .root -}}
{{- /* Every namespace has this ConfigMap. */ -}}
{{- if lookup "v1" "ConfigMap" $root.Release.Namespace "kube-root-ca.crt" -}}
{{- $from := $root.Values.restore.from -}}
{{- range $part := .parts -}}
{{- $name := include "sbrl.snapshot" (dict "root" $root "part" $part) -}}
{{- $live := lookup "snapshot.storage.k8s.io/v1" "VolumeSnapshot" $root.Release.Namespace $name -}}
{{- $shards := dig "metadata" "labels" "sbrl/shards" "" $live -}}
{{- if and $shards (ne $shards (toString (int $root.Values.run.replay.num_shards))) -}}
{{- fail (printf "\n\nrestore.from is %s, of a run with %s shards, and run.replay.num_shards is %d: set it to %s.\n" $from $shards (int $root.Values.run.replay.num_shards) $shards) -}}
{{- end -}}
{{- if not (dig "status" "readyToUse" false $live) -}}
{{- fail (printf "\n\nrestore.from is %s, but VolumeSnapshot %s is %s: choose a whole backup, see `kubectl -n %s get volumesnapshots -L sbrl/backup -l app.kubernetes.io/instance=%s`.\n" $from $name (ternary "not ready" "not there" (not (empty $live))) $root.Release.Namespace (index (splitList "/" $from) 1)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
