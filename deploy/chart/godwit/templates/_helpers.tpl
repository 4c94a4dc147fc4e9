{{- define "godwit.labels" -}}
app.kubernetes.io/part-of: godwit
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "godwit.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- end }}

{{- define "godwit.controllerUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:godwit-controller
{{- end }}

{{- define "godwit.agentUser" -}}
system:serviceaccount:{{ .Release.Namespace }}:godwit-agent
{{- end }}
