package operator

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/certificate"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/queue/identity"
)

// mounted writes the Secret of an agent's queue where a pod would have it, and again whenever it changes, as a node
// does: a whole file at a time. It returns the environment of such a pod.
func (w *world) mounted(agent string) []string {
	w.t.Helper()
	dir, authorities := w.t.TempDir(), w.t.TempDir()
	secrets := w.clients.Core.CoreV1().Secrets(w.namespace)
	store := func(s *corev1.Secret) {
		for name, data := range s.Data {
			file := filepath.Join(dir, name)
			if name == "authorities.crt" {
				file = filepath.Join(authorities, "ca.crt")
			}
			if old, err := os.ReadFile(file); err == nil && bytes.Equal(old, data) {
				continue
			}
			if os.WriteFile(file+".new", data, 0o600) == nil {
				_ = os.Rename(file+".new", file)
			}
		}
	}
	until(w, secrets, agent+"-queue", "credentials", func(s *corev1.Secret) bool {
		store(s)
		return true
	})
	ctx := w.t.Context()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			events, err := secrets.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + agent + "-queue"})
			if err != nil {
				continue
			}
			for e := range events.ResultChan() {
				if s, ok := e.Object.(*corev1.Secret); ok && e.Type != watch.Deleted {
					store(s)
				}
			}
		}
	}()
	w.t.Cleanup(func() { <-done })
	return []string{"NATS_CREDS=" + filepath.Join(dir, "ark.creds"), "NATS_CA=" + filepath.Join(dir, "ca.crt"), "SSL_CERT_DIR=" + authorities}
}

// storeKeys has the world's operator find keys.
func (w *world) storeKeys(authority *identity.Authority, chain *certificate.Chain) {
	w.t.Helper()
	keys, err := authority.Bytes()
	require.NoError(w.t, err)
	certificates, err := chain.Bytes()
	require.NoError(w.t, err)
	secrets := w.clients.Core.CoreV1().Secrets(w.system)
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: keysSecret, Labels: map[string]string{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy}},
		Data:       map[string][]byte{"authority": keys, "certificates": certificates},
	}
	if _, err = secrets.Get(w.t.Context(), keysSecret, metav1.GetOptions{}); err == nil {
		_, err = secrets.Update(w.t.Context(), secret, metav1.UpdateOptions{})
	} else {
		_, err = secrets.Create(w.t.Context(), secret, metav1.CreateOptions{})
	}
	require.NoError(w.t, err)
}

// agedChain are certificates of the queue's port of which the server's is due to be renewed.
func (w *world) agedChain(due time.Time) *certificate.Chain {
	w.t.Helper()
	hosts, when := []string{"127.0.0.1", "localhost", "::1"}, due.Add(-certificate.ServerLife)
	_, again, err := (*certificate.Chain)(nil).Next("ark queue", hosts, when)
	require.NoError(w.t, err)
	chain, again, err := (*certificate.Chain)(nil).Next("ark queue", hosts, when.Add(due.Sub(again)))
	require.NoError(w.t, err)
	require.WithinDuration(w.t, due, again, time.Minute)
	return chain
}

// shown is the certificate that the queue's port shows who connects.
func (w *world) shown() []byte {
	w.t.Helper()
	var raw []byte
	_, err := nats.Connect("tls://"+w.nats, nats.Timeout(patience), nats.Secure(&tls.Config{
		InsecureSkipVerify: true, //nolint:gosec // it is only looked at
		VerifyConnection: func(s tls.ConnectionState) error {
			raw = s.PeerCertificates[0].Raw
			return nil
		},
	}))
	require.ErrorIs(w.t, err, nats.ErrAuthorization)
	require.NotEmpty(w.t, raw)
	return raw
}

const solo = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: solo}
spec:
  successfulRunsHistoryLimit: 1000
  inputs: [{name: topic, required: true}]
  roles: [{name: a, model: gpt-test, systemPrompt: You answer., limits: {timeoutSeconds: 3600}}]
  pipeline: [{name: only, role: a, inputs: {prompt: "{{ .input.topic }}"}}]
`

// The key that signs credentials and the certificate of the queue's port are renewed while a pod works. It keeps its
// task, and goes on with what was put into its files: when the old key is not good for anything any more, it is let in.
func TestCredentialsAreRotatedUnderARunningPod(t *testing.T) {
	t.Parallel()
	const signingLife = 90 * 24 * time.Hour
	w := newWorld(t)
	due := time.Now().Add(10 * time.Second) // what is due is renewed a minute after the start at the earliest
	old, err := identity.NewAuthority(due.Add(-signingLife))
	require.NoError(t, err)
	w.storeKeys(old, w.agedChain(due))
	o := w.start()
	before := w.shown()
	w.apply(solo)
	until(w, w.clients.Teams(w.namespace), "solo", "a status", func(t *v1alpha1.ArkTeam) bool { return t.Status.ObservedGeneration > 0 })
	release := make(chan struct{})
	models, err := modelserver.Start(t.Context(), modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		if c.Request.Prompt() == "held" {
			<-release
		}
		return &modelserver.Reply{Text: "done: " + c.Request.Prompt()}
	}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = models.Close() })
	w.pod("solo-a", "solo-a-0", append(w.mounted("solo-a"), "OPENAI_BASE_URL="+models.URL(), "OPENAI_API_KEY=k")...)
	w.runOf("held", "solo", map[string]any{"topic": "held"})

	a := w.agent("solo-a")
	who := identity.Agent{Namespace: a.Namespace, Name: a.Name, UID: string(a.UID)}
	now := old
	for n := 0; !now.Made().After(old.Made()); n++ { // runs go on all the while
		w.answers(fmt.Sprintf("run-%d", n))
		now, _ = w.keys()
	}
	require.Equal(t, 2, now.Keys(), "the old key is still good")
	until(w, w.clients.Core.CoreV1().Secrets(w.namespace), "solo-a-queue", "new credentials", func(s *corev1.Secret) bool {
		return now.Signed(s.Data["ark.creds"], who)
	})
	require.NotEqual(t, before, w.shown(), "the certificate")
	w.answers("rotated")

	o.kill()
	chain, err := certificate.Parse(w.secret(w.system, keysSecret)["certificates"])
	require.NoError(t, err)
	w.storeKeys(now.Retire(time.Now()), chain)
	w.start()
	w.answers("let-in")
	close(release)
	held := w.ended("held")
	require.Equal(t, v1alpha1.RunSucceeded, held.Status.Phase, held.Status.Message)
	require.Equal(t, int32(1), held.Status.Steps[0].Attempts)
	calls := 0
	for _, c := range models.Calls() {
		if c.Request.Prompt() == "held" {
			calls++
		}
	}
	require.Equal(t, 1, calls, "the task that was held was not begun again")
}

// answers has a run of the team solo succeed.
func (w *world) answers(run string) {
	w.t.Helper()
	w.runOf(run, "solo", map[string]any{"topic": run})
	r := w.ended(run)
	require.Equal(w.t, v1alpha1.RunSucceeded, r.Status.Phase, "%s: %s", run, r.Status.Message)
	require.Equal(w.t, "done: "+run, r.Status.Output)
}

func (w *world) secret(namespace, name string) map[string][]byte {
	w.t.Helper()
	s, err := w.clients.Core.CoreV1().Secrets(namespace).Get(w.t.Context(), name, metav1.GetOptions{})
	require.NoError(w.t, err)
	return s.Data
}

// What the operator is told to trust, its agents trust: a model server whose certificate an authority of the company has
// signed. When that changes, the pods are replaced, as a process reads it once.
func TestAgentsTrustFurtherAuthorities(t *testing.T) {
	t.Parallel()
	models := httptest.NewTLSServer(modelserver.New(modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		return &modelserver.Reply{Text: "done: " + c.Request.Prompt()}
	}}))
	t.Cleanup(models.Close)
	own := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: models.Certificate().Raw})
	file := filepath.Join(t.TempDir(), "ca.crt")
	require.NoError(t, os.WriteFile(file, own, 0o600))
	w := newWorld(t, "--agent-ca", file)
	o := w.start()
	w.apply(solo)
	until(w, w.clients.Teams(w.namespace), "solo", "a status", func(t *v1alpha1.ArkTeam) bool { return t.Status.ObservedGeneration > 0 })
	d := w.deployment("solo-a-agent", "the Deployment", exists)
	require.Contains(t, d.Spec.Template.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "ca", MountPath: "/etc/ark/ca", ReadOnly: true})
	require.Contains(t, d.Spec.Template.Spec.Containers[0].Env, corev1.EnvVar{Name: "SSL_CERT_DIR", Value: "/etc/ark/ca"})
	w.pod("solo-a", "solo-a-0", append(w.mounted("solo-a"), "OPENAI_BASE_URL="+models.URL+"/v1", "OPENAI_API_KEY=k")...)
	w.answers("trusted")

	o.stop()
	chain, _, err := (*certificate.Chain)(nil).Next("another", []string{"localhost"}, time.Now())
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, append(own, chain.Bundle()...), 0o600))
	w.start()
	w.deployment("solo-a-agent", "pods that trust more", func(n *appsv1.Deployment) bool { return n.Generation > d.Generation })

	require.NoError(t, os.WriteFile(file, []byte("none"), 0o600))
	text, err := w.command().CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(text), "--agent-ca: "+file+" holds no certificate")
}
