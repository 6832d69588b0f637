package operator

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arkonis.dev/ark/pkg/certificate"
	"arkonis.dev/ark/pkg/queue/identity"
)

const keysSecret = "ark-queue-keys"

const writer = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: writer}
spec: {model: mock, systemPrompt: You write.}
`

// keys reads the keys of the world's operator, and writes down what its clients trust.
func (w *world) keys() (authority *identity.Authority, ca string) {
	w.t.Helper()
	secret, err := w.clients.Core.CoreV1().Secrets(w.system).Get(w.t.Context(), keysSecret, metav1.GetOptions{})
	require.NoError(w.t, err)
	authority, err = identity.ParseAuthority(secret.Data["authority"])
	require.NoError(w.t, err)
	chain, err := certificate.Parse(secret.Data["certificates"])
	require.NoError(w.t, err)
	ca = filepath.Join(w.t.TempDir(), "ca.crt")
	require.NoError(w.t, os.WriteFile(ca, chain.Bundle(), 0o600))
	return authority, ca
}

// credentials are a file for an agent.
func (w *world) credentials(authority *identity.Authority, a identity.Agent) string {
	w.t.Helper()
	data, err := authority.Credentials(a, time.Now(), time.Hour)
	require.NoError(w.t, err)
	file := filepath.Join(w.t.TempDir(), "nats.creds")
	require.NoError(w.t, os.WriteFile(file, data, 0o600))
	return file
}

// dial connects as whoever the credentials are for. It asks again until it is let in or refused: a server that is busy may
// end a connection for being late.
func (w *world) dial(credentials, ca string, more ...nats.Option) (nc *nats.Conn, err error) {
	w.t.Helper()
	options := append([]nats.Option{nats.UserCredentials(credentials), nats.RootCAs(ca), nats.NoReconnect(), nats.Timeout(patience)}, more...)
	require.Eventually(w.t, func() bool {
		nc, err = nats.Connect("tls://"+w.nats, options...)
		return err == nil || strings.Contains(err.Error(), "Authorization Violation")
	}, patience, 20*time.Millisecond, "%v", err)
	return nc, err
}

// An ArkAgent has an account while it is there; its credentials outlive the operator, and not the agent.
func TestAnAgentIsLetInWhileItExists(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.start()
	authority, ca := w.keys()
	w.apply(writer)
	a := w.agent("writer")
	file := w.credentials(authority, identity.Agent{Namespace: a.Namespace, Name: a.Name, UID: string(a.UID)})
	stranger := w.credentials(authority, identity.Agent{Namespace: a.Namespace, Name: "reader", UID: "1"})
	var nc *nats.Conn
	require.Eventually(t, func() (ok bool) {
		var err error
		nc, err = w.dial(file, ca)
		return err == nil
	}, patience, 20*time.Millisecond)
	_, err := w.dial(stranger, ca)
	require.ErrorContains(t, err, "Authorization Violation", "no such agent")
	nc.Close()

	o.kill()
	w.start()
	again, _ := w.keys()
	require.Equal(t, authority.Made(), again.Made(), "the keys stay")
	closed := make(chan struct{})
	nc, err = w.dial(file, ca, nats.ClosedHandler(func(*nats.Conn) { close(closed) }))
	require.NoError(t, err, "let in before the operator is ready")
	require.NoError(t, w.clients.Agents(w.namespace).Delete(t.Context(), "writer", metav1.DeleteOptions{}))
	select {
	case <-closed:
	case <-time.After(patience):
		t.Fatal("the removed agent is still connected")
	}
	_, err = w.dial(file, ca)
	require.ErrorContains(t, err, "Authorization Violation")
	require.NotNil(t, nc)
}

// SIGTERM ends the operator in good order: exit code 0, and the store can be opened again.
func TestTheOperatorStops(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.Equal(t, 0, w.start().stop().ExitCode())
	require.Equal(t, 0, w.start().stop().ExitCode())
}

// The keys of others are not touched.
func TestASecretThatArkDidNotMake(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	out, err := kubectl(t.Context(), "-n", w.system, "create", "secret", "generic", keysSecret, "--from-literal=mine=1")
	require.NoError(t, err, out)
	cmd := w.command()
	text, err := cmd.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(text), "Secret ark-queue-keys")
	require.Contains(t, string(text), "that ark did not make")
}
