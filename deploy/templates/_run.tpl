{{/* The run's config: the `run` part of values.yaml, with the network section that this chart sets. */}}

{{- define "sbrl.run" -}}
{{- $run := deepCopy .Values.run -}}
{{- /* `sbrl config show` prints the section, too, as it is unless somebody fills it in. */ -}}
{{- $open := dict "bind_host" "127.0.0.1" "coordinator_address" "127.0.0.1:0" "replay_addresses" list "health_port" 0 "metrics_port" 0 -}}
{{- range $key, $value := $run.network -}}
{{- if ne (toJson $value) (toJson (get $open $key)) -}}
{{- fail (printf "\n\nrun.network.%s is laid out by the chart: leave run.network out, and see ports, bindHost and clusterDomain.\n" $key) -}}
{{- end -}}
{{- end -}}
{{- $addresses := list -}}
{{- $replayName := printf "%s-replay" (include "sbrl.fullname" .) -}}
{{- range $shard := until (int $run.replay.num_shards) -}}
{{- $host := printf "%s-%d.%s.%s.svc.%s" $replayName $shard $replayName $.Release.Namespace $.Values.clusterDomain -}}
{{- $addresses = append $addresses (printf "%s:%d" $host (int $.Values.ports.replay)) -}}
{{- end -}}
{{- $_ := set $run "network" (dict
  "bind_host" .Values.bindHost
  "coordinator_address" (printf "%s:%d" (include "sbrl.coordinatorHost" .) (int .Values.ports.coordinator))
  "replay_addresses" $addresses
  "health_port" (int .Values.ports.health)
  "metrics_port" (int .Values.ports.metrics)
) -}}
{{- /* As JSON, which is YAML, too: toYaml writes 1000000 as 1e+06, and others' whole numbers would be none. */ -}}
{{- $kwargs := toJson (get $run.env "kwargs" | default dict) -}}
{{- $options := toJson (get $run.agent "options") -}}
{{- $_ := set $run.env "kwargs" "KWARGS" -}}
{{- $_ := set $run.agent "options" "OPTIONS" -}}
{{- toYaml $run | replace "kwargs: KWARGS" (printf "kwargs: %s" $kwargs) | replace "options: OPTIONS" (printf "options: %s" $options) -}}
{{- end -}}

{{/*
The checksum of the part of the config that a role reads. Only a change of this part rolls the role's pods.
The coordinator hands out the whole config.
Takes (dict "root" $ "role" "replay").
*/}}
{{- define "sbrl.runChecksum" -}}
{{- $reads := dict
  "coordinator" (list "run" "env" "agent" "learner" "replay" "actors" "evaluator" "network")
  "replay" (list "run.log_level" "env" "agent.n_max" "agent.n_step" "agent.n_step_initial" "agent.spr_weight" "agent.spr_jumps"
    "replay.num_shards" "replay.capacity" "replay.sampling" "replay.prioritized" "replay.checkpoint_interval_seconds"
    "replay.keep_checkpoints" "network")
  "learner" (list "run" "env" "agent" "learner" "replay" "evaluator" "actors" "network")
  "actor" (list "run" "env" "agent" "replay" "actors" "network")
  "evaluator" (list "run" "env" "agent" "evaluator" "network")
  "controller" (list "run" "env" "agent" "learner" "replay" "actors" "evaluator" "network")
-}}
{{- $run := include "sbrl.run" .root | fromYaml -}}
{{- $read := dict -}}
{{- range index $reads .role -}}
{{- $parts := splitList "." . -}}
{{- $section := get $run (first $parts) -}}
{{- $_ := set $read . (ternary $section (get $section (last $parts)) (eq (len $parts) 1)) -}}
{{- end -}}
{{- $read | toJson | sha256sum -}}
{{- end -}}

{{/* Steps of reward in each stored transition, derived as in the config. Takes the run. */}}
{{- define "sbrl.storedSteps" -}}
{{- $agent := .agent -}}
{{- $jumps := ternary (int $agent.spr_jumps) 0 (gt (float64 $agent.spr_weight) 0.0) -}}
{{- int (default (max (int $agent.n_step) (int $agent.n_step_initial) $jumps) $agent.n_max) -}}
{{- end -}}

{{/* Rules over two values, which the schema cannot express. */}}
{{- define "sbrl.rules" -}}
{{- if gt (int .Values.actors.minReplicas) (int .Values.actors.maxReplicas) -}}
{{- fail (printf "\n\nactors.minReplicas is %d, above actors.maxReplicas %d: no number of actors would do.\n" (int .Values.actors.minReplicas) (int .Values.actors.maxReplicas)) -}}
{{- end -}}
{{- include "sbrl.kedaRules" . -}}
{{- include "sbrl.placeRules" . -}}
{{- include "sbrl.backupRules" . -}}
{{- $fullname := include "sbrl.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $fullname) -}}
{{- fail (printf "\n\n%s cannot be part of a Service's name, which begins with a letter and has letters, digits and hyphens: set fullnameOverride, or choose another release name.\n" $fullname) -}}
{{- end -}}
{{- if and .Values.token.existingSecret .Values.token.seed -}}
{{- fail "\n\ntoken.existingSecret and token.seed are both set: a token that is yours needs no seed, leave one of the two out.\n" -}}
{{- end -}}
{{- $seen := dict -}}
{{- range $name, $port := .Values.ports -}}
{{- if hasKey $seen (toString $port) -}}
{{- fail (printf "\n\nports.%s and ports.%s are both %d: a pod cannot listen twice on one.\n" (get $seen (toString $port)) $name (int $port)) -}}
{{- end -}}
{{- $_ := set $seen (toString $port) $name -}}
{{- end -}}
{{- end -}}

{{/* KEDA needs a Prometheus that it can reach, and a window with a few samples. */}}
{{- define "sbrl.kedaRules" -}}
{{- if eq .Values.actors.scaledBy "keda" -}}
{{- $keda := .Values.actors.keda -}}
{{- if not (or $keda.serverAddress .Values.prometheus.enabled) -}}
{{- fail "\n\nactors.scaledBy is keda, but there is no Prometheus for it to ask: set actors.keda.serverAddress to the URL of one, or prometheus.enabled=true.\n" -}}
{{- end -}}
{{- if and (not $keda.serverAddress) .Values.networkPolicy.enabled (not .Values.prometheus.from) -}}
{{- fail "\n\nactors.scaledBy is keda, but networkPolicy.enabled keeps KEDA out of the release's Prometheus: let its namespace in, as prometheus.from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: keda}}}].\n" -}}
{{- end -}}
{{- if gt (int $keda.fallbackReplicas) (int .Values.actors.maxReplicas) -}}
{{- fail (printf "\n\nactors.keda.fallbackReplicas is %d, above actors.maxReplicas %d: choose no more than that.\n" (int $keda.fallbackReplicas) (int .Values.actors.maxReplicas)) -}}
{{- end -}}
{{- range $key := list "serverAddress" "threshold" "query" "ignoreNullValues" -}}
{{- if hasKey $keda.triggerMetadata $key -}}
{{- fail (printf "\n\nactors.keda.triggerMetadata.%s is the chart's own: take it out%s.\n" $key (ternary ", and set actors.keda.serverAddress" "" (eq $key "serverAddress"))) -}}
{{- end -}}
{{- end -}}
{{- $least := mul 4 (int .Values.metrics.intervalSeconds) -}}
{{- if lt (int64 $keda.windowSeconds) $least -}}
{{- fail (printf "\n\nactors.keda.windowSeconds is %d, too short for what is read every %d s: choose %d or more.\n" (int $keda.windowSeconds) (int .Values.metrics.intervalSeconds) $least) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Rules over two values that both set where a pod runs, or in which queue it waits. */}}
{{- define "sbrl.placeRules" -}}
{{- with .Values.actors.spot -}}
{{- $key := first (splitList "=" .) -}}
{{- $value := last (splitList "=" .) -}}
{{- range $role := list "coordinator" "replay" "learner" "actors" "evaluator" "controller" "prometheus" "check" -}}
{{- $selector := (include "sbrl.settings" (dict "root" $ "key" $role) | fromYaml).nodeSelector -}}
{{- if hasKey (default dict $selector) $key -}}
{{- $own := get $selector $key -}}
{{- if ne (eq $own $value) (eq $role "actors") -}}
{{- fail (printf "\n\nactors.spot is %s, and the nodeSelector of %s asks for %s=%s: actors run on those nodes and all others stay off them, so take the key out of that nodeSelector.\n" $.Values.actors.spot $role $key $own) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if .Values.kueue.localQueue -}}
{{- range $role := list "defaults" "coordinator" "replay" "learner" "actors" "evaluator" "controller" "prometheus" "check" -}}
{{- if hasKey (default dict (get $.Values $role).podLabels) "kueue.x-k8s.io/queue-name" -}}
{{- fail (printf "\n\nkueue.localQueue is %s, and %s.podLabels has kueue.x-k8s.io/queue-name: leave one of the two out.\n" $.Values.kueue.localQueue $role) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/*
Refuses an upgrade that a running run could not survive, like `sbrl train --resume`: the run's network, its stored transitions
or its shards were made with the old value. Does nothing if there is no cluster to ask (helm template).
*/}}
{{- define "sbrl.guard" -}}
{{- /* Keys that a run keeps, with the defaults that hold for a run.yaml without them; written by scripts/chart_values.py. */ -}}
{{- $fixed := .Files.Get "files/fixed_keys.yaml" | fromYaml -}}
{{- $fullname := include "sbrl.fullname" . -}}
{{- $new := include "sbrl.run" . | fromYaml -}}
{{- $live := lookup "v1" "ConfigMap" .Release.Namespace (printf "%s-run" $fullname) -}}
{{- if $live -}}
{{- $old := index $live.data "run.yaml" | fromYaml -}}
{{- if ne (int $old.schema_version) (int $new.schema_version) -}}
{{- fail (printf "\n\nThe run in this release was begun by an earlier version of SBRL (config schema %d, now %d), whose checkpoints cannot be gone on with: let it end with that version, or start another run: `helm install` under another name, or `helm uninstall %s` and `kubectl delete pvc -l app.kubernetes.io/instance=%s` first.\n" (int $old.schema_version) (int $new.schema_version) .Release.Name .Release.Name) -}}
{{- end -}}
{{- $changed := list -}}
{{- range $section, $defaults := $fixed -}}
{{- $before := default dict (get $old $section) -}}
{{- $after := get $new $section -}}
{{- range $key, $default := $defaults -}}
{{- $was := hasKey $before $key | ternary (index $before $key) $default | toJson -}}
{{- $now := index $after $key | toJson -}}
{{- if ne $was $now -}}
{{- $changed = append $changed (printf "run.%s.%s from %s to %s" $section $key $was $now) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- $was := include "sbrl.storedSteps" $old -}}
{{- $now := include "sbrl.storedSteps" $new -}}
{{- if ne $was $now -}}
{{- $changed = append $changed (printf "the steps stored with each transition (run.agent.n_max) from %s to %s" $was $now) -}}
{{- end -}}
{{- if ne (gt (float64 $old.agent.spr_weight) 0.0) (gt (float64 $new.agent.spr_weight) 0.0) -}}
{{- $changed = append $changed "whether there is self-prediction (run.agent.spr_weight)" -}}
{{- end -}}
{{- if $changed -}}
{{- fail (printf "\n\nThe run in this release cannot change %s: its network, its stored transitions or its shards were made with it. Set the old value again, or start another run: `helm install` under another name, or `helm uninstall %s` and `kubectl delete pvc -l app.kubernetes.io/instance=%s` first.\n" (join ", " $changed) .Release.Name .Release.Name) -}}
{{- end -}}
{{- else if and .Release.IsInstall (eq .Values.replay.persistence.kind "persistent") -}}
{{- /* Claims that an uninstalled release has left: they hold a run with its own number of shards. */ -}}
{{- $shards := int $new.replay.num_shards -}}
{{- $claim := printf "data-%s-replay" $fullname -}}
{{- $first := lookup "v1" "PersistentVolumeClaim" .Release.Namespace (printf "%s-0" $claim) -}}
{{- $last := lookup "v1" "PersistentVolumeClaim" .Release.Namespace (printf "%s-%d" $claim (sub $shards 1)) -}}
{{- $beyond := lookup "v1" "PersistentVolumeClaim" .Release.Namespace (printf "%s-%d" $claim $shards) -}}
{{- if or $beyond (and $first (not $last)) -}}
{{- fail (printf "\n\nThe volume claims %s-* of an earlier run are not those of run.replay.num_shards=%d shards: set the number that it had to go on with it, or start again after `kubectl delete pvc -l app.kubernetes.io/instance=%s`.\n" $claim $shards .Release.Name) -}}
{{- end -}}
{{- end -}}
{{- include "sbrl.guardClaims" . -}}
{{- include "sbrl.guardNames" . -}}
{{- end -}}

{{/* An older chart cut long names without a hash and used every release's plain name. Refuses to abandon such a run. */}}
{{- define "sbrl.guardNames" -}}
{{- $fullname := include "sbrl.fullname" . -}}
{{- $older := include "sbrl.plainName" . | trunc 40 | trimSuffix "-" -}}
{{- if and (not .Values.fullnameOverride) (ne $older $fullname) -}}
{{- range list (list "ConfigMap" "%s-run") (list "PersistentVolumeClaim" "data-%s-coordinator-0") -}}
{{- $live := lookup "v1" (first .) $.Release.Namespace (printf (last .) $older) -}}
{{- if eq $.Release.Name (dig "metadata" "labels" "app.kubernetes.io/instance" "" $live) -}}
{{- fail (printf "\n\nThe objects of release %s are called %s-*, as an older chart named them, and would now be %s-*: add `--set fullnameOverride=%s` to go on with them and their volumes.\n" $.Release.Name $older $fullname $older) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A short description of a role's storage. Takes the role's `persistence`. */}}
{{- define "sbrl.storage" -}}
{{- if eq .kind "persistent" -}}
{{ .size }} {{ .accessMode }}{{ with .storageClass }} of class {{ . }}{{ end }}
{{- else -}}
ephemeral
{{- end -}}
{{- end -}}

{{/* Kubernetes refuses a changed volume claim template of a StatefulSet with a message that names no remedy. */}}
{{- define "sbrl.guardClaims" -}}
{{- range $key := list "coordinator" "replay" "learner" "prometheus" -}}
{{- $name := printf "%s-%s" (include "sbrl.fullname" $) $key -}}
{{- $live := lookup "apps/v1" "StatefulSet" $.Release.Namespace $name -}}
{{- $now := include "sbrl.storage" (get (get $.Values $key) "persistence") -}}
{{- if $live -}}
{{- /* As the chart wrote it, for Kubernetes says 1Gi where 1024Mi was written. */ -}}
{{- $was := get (default dict $live.metadata.annotations) "sbrl/storage" -}}
{{- if ne $was $now -}}
{{- fail (printf "\n\n%s.persistence cannot change in place (from %s to %s): first `kubectl delete statefulset %s --cascade=orphan` (its pods go on), then upgrade again; to grow volumes that exist, also `kubectl patch pvc` each claim of it.\n" $key $was $now $name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
