package agents

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/kube"
)

// Annotations of pods: what changes with them is read at a pod's start, so that the pods are replaced.
const (
	annotationPrompt   = "arkonis.dev/prompt-hash"
	annotationContents = "arkonis.dev/contents-hash"
	annotationCA       = "arkonis.dev/authorities-hash"
)

const (
	agentUser  int64 = 65532
	agentPort  int32 = 8080
	portName         = "http"
	keepOld    int32 = 3
	secretMode int32 = 0o440

	containerName = "agent"
	initName      = "ark"
)

// Folders in a pod.
const (
	dirTmp     = "/tmp"
	dirPrompt  = "/etc/ark/prompt"
	dirQueue   = "/etc/ark/queue"
	dirSecrets = "/etc/ark/secrets"
	dirCA      = "/etc/ark/ca"
	dirProgram = "/opt/ark"

	keyPrompt = "prompt"
)

// selector chooses an agent's pods.
func selector(agent string) map[string]string {
	return map[string]string{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy, v1alpha1.LabelAgent: agent}
}

// labels are those of everything that an agent owns.
func labels(a *v1alpha1.ArkAgent) map[string]string {
	out := selector(a.Name)
	out[v1alpha1.LabelName], out[v1alpha1.LabelInstance] = v1alpha1.NameAgent, a.Name
	for _, l := range []string{v1alpha1.LabelTeam, v1alpha1.LabelRole} {
		if v := a.Labels[l]; v != "" {
			out[l] = v
		}
	}
	return out
}

func objectMeta(a *v1alpha1.ArkAgent, name string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: a.Namespace, Name: name, Labels: labels(a), OwnerReferences: kube.Controlled("ArkAgent", a)}
}

// promptSecret holds the composed prompt, which may have come from a Secret.
func promptSecret(a *v1alpha1.ArkAgent, prompt string) *corev1.Secret {
	return &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: kindSecret},
		ObjectMeta: objectMeta(a, promptSecretName(a.Name)),
		Type:       corev1.SecretTypeOpaque, Data: map[string][]byte{keyPrompt: []byte(prompt)},
	}
}

// queueSecret lets the pods into the queue. Pods read that anew when they reconnect: a change does not replace them. What
// they trust besides is in it too. It is nil where nothing is needed.
func queueSecret(in *input) *corev1.Secret {
	data := map[string][]byte{}
	if len(in.access.Credentials) > 0 {
		data[keyCredentials] = in.access.Credentials
	}
	if len(in.access.CA) > 0 {
		data[keyQueueAuthority] = in.access.CA
	}
	if len(in.pods.CA) > 0 {
		data[keyAuthorities] = in.pods.CA
	}
	if len(data) == 0 {
		return nil
	}
	return &corev1.Secret{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: kindSecret},
		ObjectMeta: objectMeta(in.agent, queueSecretName(in.agent.Name)),
		Type:       corev1.SecretTypeOpaque, Data: data,
	}
}

// deployment keeps the pods. New ones are there before old ones go, and old ones finish what they work on.
func deployment(in *input, p *plan) *appsv1.Deployment {
	a := in.agent
	surge, unavailable, old := intstr.FromString("25%"), intstr.FromInt32(0), keepOld
	return &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: objectMeta(a, deploymentName(a.Name)),
		Spec: appsv1.DeploymentSpec{
			Replicas:             &p.replicas,
			RevisionHistoryLimit: &old,
			Selector:             &metav1.LabelSelector{MatchLabels: selector(a.Name)},
			Strategy: appsv1.DeploymentStrategy{
				Type:          appsv1.RollingUpdateDeploymentStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &surge, MaxUnavailable: &unavailable},
			},
			Template: podTemplate(in, p),
		},
	}
}

func podTemplate(in *input, p *plan) corev1.PodTemplateSpec {
	a, pod := in.agent, &in.agent.Spec.AgentPod
	podLabels, annotations := maps.Clone(pod.PodLabels), maps.Clone(pod.PodAnnotations)
	if podLabels == nil {
		podLabels = map[string]string{}
	}
	if annotations == nil {
		annotations = map[string]string{}
	}
	maps.Copy(podLabels, labels(a))
	annotations[annotationPrompt] = p.resolved.PromptHash
	annotations[annotationContents] = contentHash(in.refs, in.found)
	if len(in.pods.CA) > 0 {
		sum := sha256.Sum256(in.pods.CA)
		annotations[annotationCA] = hex.EncodeToString(sum[:])
	}
	no, grace := false, a.Spec.TerminationGracePeriodSeconds
	t := tools(in)
	spec := corev1.PodSpec{
		AutomountServiceAccountToken:  &no,
		EnableServiceLinks:            &no,
		ServiceAccountName:            pod.ServiceAccountName,
		SecurityContext:               podSecurity(pod.PodSecurityContext),
		TerminationGracePeriodSeconds: &grace,
		ImagePullSecrets:              pod.ImagePullSecrets,
		NodeSelector:                  pod.NodeSelector,
		Tolerations:                   pod.Tolerations,
		Affinity:                      pod.Affinity,
		PriorityClassName:             pod.PriorityClassName,
		Volumes:                       volumes(in, &t),
		Containers:                    []corev1.Container{agentContainer(in, p, &t)},
	}
	if a.Spec.Image != "" {
		spec.InitContainers = []corev1.Container{copyContainer(in)}
	}
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: podLabels, Annotations: annotations}, Spec: spec}
}

func volumes(in *input, t *toolFiles) []corev1.Volume {
	mode := secretMode
	from := func(name, secret string) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: secret, DefaultMode: &mode}}}
	}
	empty := func(name string) corev1.Volume {
		return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}
	}
	all := []corev1.Volume{empty("tmp"), from("prompt", promptSecretName(in.agent.Name))}
	if queueSecret(in) != nil {
		all = append(all, from("queue", queueSecretName(in.agent.Name)))
	}
	if len(in.pods.CA) > 0 {
		v := from("ca", queueSecretName(in.agent.Name))
		v.Secret.Items = []corev1.KeyToPath{{Key: keyAuthorities, Path: "ca.crt"}}
		all = append(all, v)
	}
	if sources := t.sources(); len(sources) > 0 {
		all = append(all, corev1.Volume{Name: "secrets", VolumeSource: corev1.VolumeSource{
			Projected: &corev1.ProjectedVolumeSource{Sources: sources, DefaultMode: &mode},
		}})
	}
	if in.agent.Spec.Image != "" {
		all = append(all, empty("program"))
	}
	return all
}

func agentContainer(in *input, p *plan, t *toolFiles) corev1.Container {
	a := in.agent
	c := corev1.Container{
		Name: containerName, Image: in.pods.Image,
		Args:      []string{"runtime", "--grace-period=" + seconds(a.Spec.TerminationGracePeriodSeconds) + "s"},
		Env:       environment(in, p, t),
		EnvFrom:   environmentFrom(in),
		Resources: *a.Spec.Resources,
		Ports:     []corev1.ContainerPort{{Name: portName, ContainerPort: agentPort, Protocol: corev1.ProtocolTCP}},
		VolumeMounts: []corev1.VolumeMount{
			{Name: "tmp", MountPath: dirTmp}, {Name: "prompt", MountPath: dirPrompt, ReadOnly: true},
		},
		SecurityContext: containerSecurity(),
		// A pod that cannot start says why in its status.
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
		LivenessProbe:            httpProbe("/healthz", 10, 6),
		ReadinessProbe:           httpProbe("/readyz", 5, 1),
	}
	if queueSecret(in) != nil {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "queue", MountPath: dirQueue, ReadOnly: true})
	}
	if len(in.pods.CA) > 0 {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "ca", MountPath: dirCA, ReadOnly: true})
	}
	if len(t.files) > 0 {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "secrets", MountPath: dirSecrets, ReadOnly: true})
	}
	if a.Spec.Image != "" {
		c.Image, c.Command = a.Spec.Image, []string{dirProgram + "/ark"}
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{Name: "program", MountPath: dirProgram, ReadOnly: true})
	}
	return c
}

// copyContainer puts ark's program beside those of another image.
func copyContainer(in *input) corev1.Container {
	return corev1.Container{
		Name: initName, Image: in.pods.Image, Args: []string{"copy-to", dirProgram},
		Resources:                *in.agent.Spec.Resources,
		VolumeMounts:             []corev1.VolumeMount{{Name: "program", MountPath: dirProgram}},
		SecurityContext:          containerSecurity(),
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}
}

func httpProbe(path string, period, failures int32) *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromString(portName)}},
		PeriodSeconds: period, TimeoutSeconds: 5, FailureThreshold: failures,
	}
}

func containerSecurity() *corev1.SecurityContext {
	yes, no := true, false
	return &corev1.SecurityContext{
		AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes, RunAsNonRoot: &yes,
		Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
	}
}

// podSecurity is what the restricted Pod Security Standard demands, with the agent's own wishes laid over it.
func podSecurity(over *corev1.PodSecurityContext) *corev1.PodSecurityContext {
	out := over.DeepCopy()
	if out == nil {
		out = &corev1.PodSecurityContext{}
	}
	yes, id := true, agentUser
	if out.RunAsNonRoot == nil {
		out.RunAsNonRoot = &yes
	}
	if out.RunAsUser == nil {
		out.RunAsUser = &id
	}
	if out.RunAsGroup == nil {
		out.RunAsGroup = &id
	}
	if out.FSGroup == nil {
		out.FSGroup = &id
	}
	if out.SeccompProfile == nil {
		out.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}
	}
	return out
}
