package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arkonis.dev/ark/e2e/cluster/apiserver"
	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/certificate"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/queue/identity"
)

const (
	system    = "ark-system"
	namespace = "bench"
	startTime = time.Minute // within which processes are ready
)

// world is everything that is measured.
type world struct {
	ark, dir string
	api      *apiserver.Server
	clients  *kube.Clients
	operator *process
	http     string // address of the operator's probes
	nats     string // address of the operator's queue port
	models   *modelserver.Server
	gate     *gate
	agents   []*process
}

func newWorld(ctx context.Context, ark string) (w *world, err error) {
	w = &world{gate: newGate()}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if w.ark, err = filepath.Abs(ark); err != nil {
		return w, err
	}
	if w.dir, err = os.MkdirTemp("", "ark-bench-"); err != nil {
		return w, err
	}
	if w.api, err = apiserver.Launch(ctx, os.Stderr); err != nil {
		return w, err
	}
	if w.clients, err = kube.NewClients(w.api.REST()); err != nil {
		return w, err
	}
	for _, args := range [][]string{
		{"apply", "--server-side", "-f", "crds"},
		{"wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"},
		{"create", "namespace", system},
		{"create", "namespace", namespace},
		{"create", "namespace", rawNamespace},
	} {
		if err := w.kubectl(ctx, "", args...); err != nil {
			return w, err
		}
	}
	if w.models, err = modelserver.Start(ctx, modelserver.Config{Answer: w.gate.answer}); err != nil {
		return w, err
	}
	if w.http, err = freeAddress(ctx); err != nil {
		return w, err
	}
	if w.nats, err = freeAddress(ctx); err != nil {
		return w, err
	}
	return w, w.startOperator(ctx)
}

func (w *world) close() error {
	w.gate.open()
	var errs []error
	for _, p := range append(w.agents, w.operator) {
		p.kill()
	}
	if w.models != nil {
		errs = append(errs, w.models.Close())
	}
	if w.api != nil {
		errs = append(errs, w.api.Close())
	}
	return errors.Join(append(errs, os.RemoveAll(w.dir))...)
}

func (w *world) kubectl(ctx context.Context, in string, args ...string) error {
	cmd := exec.CommandContext(ctx, w.api.Kubectl(), append([]string{"--kubeconfig", w.api.Kubeconfig()}, args...)...)
	cmd.Stdin = strings.NewReader(in)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// startOperator starts ark operator and returns when it is ready.
func (w *world) startOperator(ctx context.Context) (err error) {
	cmd := exec.CommandContext(ctx, w.ark, "operator", "--kubeconfig", w.api.Kubeconfig(), "--namespace", system, "--watch-namespaces", namespace,
		"--metrics-listen", w.http, "--log-level", "warn", "--store", filepath.Join(w.dir, "store"), "--nats-listen", w.nats, "--nats-advertise", "tls://"+w.nats)
	if w.operator, err = w.start(cmd, "operator"); err != nil {
		return err
	}
	for began := time.Now(); ; time.Sleep(time.Millisecond) {
		err := w.ready(ctx)
		if err == nil || ctx.Err() != nil || w.operator.ended() || time.Since(began) > startTime {
			return w.operator.failed(err)
		}
	}
}

func (w *world) ready(ctx context.Context) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+w.http+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return errors.New("the operator is not ready: " + resp.Status)
	}
	return nil
}

// start starts a process whose output goes to a file. It ends with this one.
func (w *world) start(cmd *exec.Cmd, name string) (*process, error) {
	said, err := os.Create(filepath.Join(w.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = said.Close() }() // the process has it
	cmd.Stdout, cmd.Stderr = said, said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{cmd: cmd, log: said.Name(), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		_ = cmd.Wait()
	}()
	return p, nil
}

// The team of three steps, each after the one before, by two agents.
const team = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: trio}
spec:
  inputs: [{name: topic, required: true}]
  successfulRunsHistoryLimit: 10000
  roles:
  - {name: a, model: gpt-test, systemPrompt: You are a., limits: {maxConcurrentTasks: 50}}
  - {name: b, model: gpt-test, systemPrompt: You are b., limits: {maxConcurrentTasks: 50}}
  pipeline:
  - {name: one, role: a, inputs: {prompt: "one {{ .input.topic }}."}}
  - {name: two, role: b, dependsOn: [one], inputs: {prompt: "two {{ .steps.one.output }}."}}
  - {name: three, role: a, dependsOn: [two], inputs: {prompt: "three {{ .steps.two.output }}."}}
`

// startTeam makes the team, and starts a process for each of its agents as their pods would be: with the environment of the
// Deployment and the agent's own credentials.
func (w *world) startTeam(ctx context.Context) (applied, triggered *subject, err error) {
	if err := w.kubectl(ctx, team, "-n", namespace, "apply", "-f", "-"); err != nil {
		return nil, nil, err
	}
	for _, name := range []string{"trio-a", "trio-b"} {
		if err := w.kubectl(ctx, "", "-n", namespace, "wait", "--for=create", "deployment/"+name+"-agent", "--timeout=60s"); err != nil {
			return nil, nil, err
		}
		if err := w.startAgent(ctx, name); err != nil {
			return nil, nil, err
		}
	}
	applied, triggered = w.subject("applied", namespace), w.subject("triggered", namespace)
	triggered.trigger = true
	return applied, triggered, w.follow(ctx, namespace, applied, triggered)
}

func (w *world) startAgent(ctx context.Context, name string) error {
	agent, err := w.clients.Agents(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	d, err := w.clients.Core.AppsV1().Deployments(namespace).Get(ctx, name+"-agent", metav1.GetOptions{})
	if err != nil {
		return err
	}
	env, err := w.environment(ctx, d.Spec.Template.Spec.Containers[0].Env)
	if err != nil {
		return err
	}
	credentials, ca, err := w.credentials(ctx, agent)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, w.ark, "runtime", "--listen", "", "--log-level", "warn")
	cmd.Env = append(env, "POD_NAME="+name+"-0", "NATS_URL=tls://"+w.nats, "NATS_CREDS="+credentials, "NATS_CA="+ca, "SYSTEM_PROMPT_PATH=",
		"OPENAI_BASE_URL="+w.models.URL(), "OPENAI_API_KEY=k")
	p, err := w.start(cmd, name)
	if err != nil {
		return err
	}
	w.agents = append(w.agents, p)
	return nil
}

func (w *world) environment(ctx context.Context, vars []corev1.EnvVar) ([]string, error) {
	var out []string
	for _, v := range vars {
		value := strings.ReplaceAll(v.Value, "$$", "$")
		if from := v.ValueFrom; from != nil && from.SecretKeyRef != nil {
			secret, err := w.clients.Core.CoreV1().Secrets(namespace).Get(ctx, from.SecretKeyRef.Name, metav1.GetOptions{})
			if err != nil {
				return nil, err
			}
			value = string(secret.Data[from.SecretKeyRef.Key])
		}
		out = append(out, v.Name+"="+value)
	}
	return out, nil
}

// credentials writes those of an agent, and what it trusts, to files.
func (w *world) credentials(ctx context.Context, a *v1alpha1.ArkAgent) (file, ca string, err error) {
	secret, err := w.clients.Core.CoreV1().Secrets(system).Get(ctx, "ark-queue-keys", metav1.GetOptions{})
	if err != nil {
		return "", "", err
	}
	authority, err := identity.ParseAuthority(secret.Data["authority"])
	if err != nil {
		return "", "", err
	}
	chain, err := certificate.Parse(secret.Data["certificates"])
	if err != nil {
		return "", "", err
	}
	creds, err := authority.Credentials(identity.Agent{Namespace: a.Namespace, Name: a.Name, UID: string(a.UID)}, time.Now(), time.Hour)
	if err != nil {
		return "", "", err
	}
	file, ca = filepath.Join(w.dir, a.Name+".creds"), filepath.Join(w.dir, "ca.crt")
	return file, ca, errors.Join(os.WriteFile(file, creds, 0o600), os.WriteFile(ca, chain.Bundle(), 0o600))
}

// freeAddress is a loopback address that nobody listens on.
func freeAddress(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}
