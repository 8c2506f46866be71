{{- define "florence2-sam2.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough for "-headless" and "-model-store" behind it. */}}
{{- define "florence2-sam2.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "florence2-sam2.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "florence2-sam2.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "florence2-sam2.selectorLabels" -}}
app.kubernetes.io/name: {{ include "florence2-sam2.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "florence2-sam2.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "florence2-sam2.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "florence2-sam2.image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag -}}
{{- if .Values.image.digest -}}
{{- printf "%s:%s@%s" .Values.image.repository $tag .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository $tag -}}
{{- end -}}
{{- end -}}

{{- define "florence2-sam2.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "florence2-sam2.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "florence2-sam2.adminSecret" -}}
{{- default (printf "%s-admin" (include "florence2-sam2.fullname" .)) .Values.adminKey.existingSecret -}}
{{- end -}}

{{- define "florence2-sam2.claim" -}}
{{- default (printf "%s-models" (include "florence2-sam2.fullname" .)) .Values.models.pvc.existingClaim -}}
{{- end -}}

{{- define "florence2-sam2.modelConfig" -}}
{{- default (ternary "onnxruntime" "embedded" .Values.gpu.enabled) .Values.modelConfig -}}
{{- end -}}

{{/* Where the container finds the repository. The init container makes a folder beside its draft. */}}
{{- define "florence2-sam2.repository" -}}
{{- if eq .Values.models.from "demo" -}}demo
{{- else if eq .Values.models.from "image" -}}{{ .Values.models.image.path }}
{{- else if eq .Values.models.from "store" -}}/models/repository
{{- else -}}/models
{{- end -}}
{{- end -}}

{{/* A setting as server/settings.py reads it from the environment: lists are joined by commas. */}}
{{- define "florence2-sam2.setting" -}}
{{- if kindIs "slice" . -}}{{ join "," . }}
{{- else if kindIs "float64" . -}}
{{- if eq . (floor .) -}}{{ printf "%.0f" . }}{{- else -}}{{ toString . }}{{- end -}}
{{- else -}}{{ toString . }}
{{- end -}}
{{- end -}}

{{- define "florence2-sam2.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What the schema cannot say. */}}
{{- define "florence2-sam2.check" -}}
{{- if and (eq .Values.models.from "store") (not .Values.models.store.url) -}}
{{- fail "models.store.url: is to be the URL of the model repository's folder, s3://bucket/models for instance (models.from is store)" -}}
{{- end -}}
{{- if and (hasSuffix "tensorrt" .Values.modelConfig) (not .Values.gpu.enabled) -}}
{{- fail (printf "modelConfig: %s needs gpu.enabled" .Values.modelConfig) -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.host) -}}
{{- fail "ingress.host: is to be the name that callers use (ingress.enabled is true)" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas)) -}}
{{- fail "autoscaling.maxReplicas: is to be at least autoscaling.minReplicas" -}}
{{- end -}}
{{- if and (eq (toString .Values.updateStrategy.maxSurge) "0") (eq (toString .Values.updateStrategy.maxUnavailable) "0") -}}
{{- fail "updateStrategy.maxUnavailable: is to be at least 1 where maxSurge is 0, or no pod can be replaced" -}}
{{- end -}}
{{- end -}}
