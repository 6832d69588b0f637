package identity_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/queue/identity"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// patience is how long anything may take on a busy machine.
const patience = time.Minute

// ca signs certificates for 127.0.0.1.
type ca struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	n    int64
}

func newCA(t *testing.T) *ca {
	t.Helper()
	c := &ca{t: t}
	var err error
	c.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	c.cert = c.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "test ca"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil, c.key)
	return c
}

func (c *ca) sign(template, parent *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	c.t.Helper()
	c.n++
	template.SerialNumber = big.NewInt(c.n)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, c.key)
	require.NoError(c.t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(c.t, err)
	return cert
}

// pair is a certificate of the server and its key, as PEM.
func (c *ca) pair() (chain, key []byte) {
	c.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(c.t, err)
	cert := c.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "ark"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}, c.cert, k)
	der, err := x509.MarshalPKCS8PrivateKey(k)
	require.NoError(c.t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func (c *ca) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw})
}

// world is a server with a port, the queue and the work service, as the operator has them.
type world struct {
	t           *testing.T
	ca          *ca
	dir         string // of files that are mounted into pods
	authority   *identity.Authority
	certificate *queue.Certificate
	config      queue.ServerConfig
	ackWait     time.Duration // of pods that are started from now on
	slots       int           // of these pods too

	server *queue.Server
	queue  *queue.Queue
	stop   func() // of the work service
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, ca: newCA(t), dir: t.TempDir(), slots: 2}
	var err error
	w.authority, err = identity.NewAuthority(time.Now())
	require.NoError(t, err)
	w.certificate, err = queue.NewCertificate(w.ca.pair())
	require.NoError(t, err)
	w.write("ca.pem", w.ca.pem())
	w.config = queue.ServerConfig{
		StoreDir: t.TempDir(), Logger: quiet(), Authority: w.authority, Listen: "127.0.0.1:0", Certificate: w.certificate,
	}
	w.start()
	t.Cleanup(func() { w.end() })
	return w
}

// start starts the server on the folder that it had before, if any.
func (w *world) start() {
	w.t.Helper()
	var err error
	w.server, err = queue.StartServer(w.t.Context(), w.config)
	require.NoError(w.t, err)
	w.config.Listen = w.server.Address()
	nc, err := w.server.Connect("operator")
	require.NoError(w.t, err)
	agents, err := w.server.Connect("operator, for agents")
	require.NoError(w.t, err)
	w.queue, err = queue.Open(w.t.Context(), nc, queue.Config{
		Storage: jetstream.FileStorage, Logger: quiet(), Limits: queue.LimitsOf(256 << 20), ConsumerKey: w.server.ConsumerKey(), Agents: agents,
	})
	require.NoError(w.t, err)
	service, err := work.NewService(w.queue, agents, work.Config{Logger: quiet()})
	require.NoError(w.t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(w.t.Context()))
	done := make(chan error, 1)
	go func() { done <- service.Run(ctx) }()
	require.NoError(w.t, service.Ready(w.t.Context()))
	w.stop = func() {
		cancel()
		require.NoError(w.t, <-done)
	}
}

func (w *world) end() {
	w.stop()
	w.server.Shutdown()
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

// write replaces a file at once, as a mounted Secret is replaced.
func (w *world) write(name string, data []byte) {
	w.t.Helper()
	require.NoError(w.t, os.WriteFile(w.path(name+".new"), data, 0o600))
	require.NoError(w.t, os.Rename(w.path(name+".new"), w.path(name)))
}

// issue writes credentials for an agent into its file.
func (w *world) issue(agent identity.Agent, lifetime time.Duration) []byte {
	w.t.Helper()
	creds, err := w.authority.Credentials(agent, time.Now(), lifetime)
	require.NoError(w.t, err)
	w.write(credsFile(agent), creds)
	return creds
}

func credsFile(a identity.Agent) string { return a.Namespace + "-" + a.Name + "-" + a.UID + ".creds" }

func (w *world) address(agent identity.Agent) queue.Address {
	return queue.Address{URL: "tls://" + w.server.Address(), Credentials: w.path(credsFile(agent)), CA: w.path("ca.pem")}
}

// agent lets an agent in and connects one of its processes.
func (w *world) agent(a identity.Agent) *pod {
	w.t.Helper()
	require.NoError(w.t, w.server.Accounts().Allow(a))
	w.issue(a, time.Hour)
	return w.pod(a)
}

// pod is a process of an agent.
type pod struct {
	w     *world
	agent identity.Agent
	nc    *nats.Conn
	queue *queue.Queue
	work  *work.Client
	tasks *queue.Tasks
}

func (w *world) pod(a identity.Agent) *pod {
	w.t.Helper()
	p := &pod{w: w, agent: a}
	var err error
	p.nc, err = queue.Connect(w.address(a), a.String(), quiet())
	require.NoError(w.t, err)
	w.t.Cleanup(p.nc.Close)
	w.await(p.nc, nats.CONNECTED)
	p.queue, err = queue.Attach(w.t.Context(), p.nc, a.Namespace, a.Name, queue.Config{Logger: quiet(), Timeout: patience})
	require.NoError(w.t, err)
	p.work = work.NewClient(p.nc)
	p.tasks, err = p.queue.Tasks(w.t.Context(), a.Namespace, a.Name, queue.TasksConfig{Slots: w.slots, AckWait: w.ackWait})
	require.NoError(w.t, err)
	return p
}

// await waits for a state of a connection.
func (w *world) await(nc *nats.Conn, want nats.Status) {
	w.t.Helper()
	changed := nc.StatusChanged(want)
	defer nc.RemoveStatusListener(changed)
	if nc.Status() == want {
		return
	}
	select {
	case <-changed:
	case <-time.After(patience):
		require.Fail(w.t, "connection did not become "+want.String(), "%v", nc.LastError())
	}
}

func (p *pod) next() *queue.Delivery {
	p.w.t.Helper()
	ctx, cancel := context.WithTimeout(p.w.t.Context(), patience)
	defer cancel()
	d, err := p.tasks.Next(ctx)
	require.NoError(p.w.t, err)
	return d
}

// insist repeats what gets no answer, as a pod does, for as long as a few things may take.
func (p *pod) insist(do func(context.Context) error) {
	p.w.t.Helper()
	end := time.Now().Add(3 * patience)
	for {
		ctx, cancel := context.WithTimeout(p.w.t.Context(), patience/4)
		err := do(ctx)
		cancel()
		if !lost(err) || time.Now().After(end) {
			require.NoError(p.w.t, err)
			return
		}
	}
}

// lost says that there was no answer.
func lost(err error) bool {
	return errors.Is(err, work.ErrUnavailable) || errors.Is(err, queue.ErrUnavailable) || errors.Is(err, queue.ErrUnknownOutcome) ||
		errors.Is(err, context.DeadlineExceeded)
}

// do queues a task for the agent and has the pod do it, all the way through.
func (p *pod) do(n int) {
	p.w.t.Helper()
	t, ctx := p.w.t, p.w.t.Context()
	tk := newTask(p.agent, n)
	p.insist(func(ctx context.Context) error { return p.w.queue.Submit(ctx, tk) })
	d := p.next()
	require.Equal(t, tk.ID, d.Task.ID)
	require.NoError(t, d.InProgress())
	var s *work.Session
	tries := 0
	p.insist(func(ctx context.Context) (err error) {
		tries++
		s, err = p.work.TakeOver(ctx, queue.KeyOf(tk), "pod", 0)
		return err
	})
	p.insist(func(ctx context.Context) error {
		won, err := p.queue.PublishResult(ctx, d.Key(), newResult(tk, "done"))
		require.True(t, won || err != nil)
		return err
	})
	p.insist(d.Ack)
	require.LessOrEqual(t, s.TakeOvers(), tries, "nobody else took it")
	r, err := p.w.queue.Result(ctx, queue.KeyOf(tk))
	require.NoError(t, err)
	require.Equal(t, "done", r.Output.Inline)
	_, err = p.w.queue.Task(ctx, tk.Namespace, tk.Agent, tk.ID)
	require.ErrorIs(t, err, queue.ErrNoTask, "it is acknowledged")
}

func newTask(a identity.Agent, n int) *task.Task {
	now := time.Now().UTC()
	step := fmt.Sprintf("%s-%s-%d", a.Namespace, a.Name, n)
	return &task.Task{
		Version: task.Version, ID: task.ID(task.KindStep, "run-1", step, 0, 0, 0), Kind: task.KindStep,
		Namespace: a.Namespace, Agent: a.Name, Run: task.Run{UID: "run-1", Name: "first"},
		Step: step, Prompt: task.Text{Inline: "write"}, Deadline: now.Add(time.Hour), Created: now,
	}
}

func newResult(t *task.Task, output string) *task.Result {
	return &task.Result{Version: task.Version, TaskID: t.ID, Status: task.Succeeded, Output: task.Text{Inline: output}}
}
