package operator

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/certificate"
	"arkonis.dev/ark/pkg/llm/modelserver"
)

// natsServer is a NATS that is not ark's: a process of its own with accounts, JetStream and TLS. Its administrator has
// given the operator an account, and agents a user in it who may do what they need and no more.
type natsServer struct {
	w                    *world
	config               string
	url                  string
	operator, agents, ca string // files
	cmd                  *exec.Cmd
}

// agentsMay is what the user of agents is given, as the chart's values say it.
func agentsMay() jwt.Permissions {
	return jwt.Permissions{
		Pub: jwt.Permission{Allow: jwt.StringList{
			"$JS.API.CONSUMER.MSG.NEXT.ARK_TASKS.*", "$JS.ACK.ARK_TASKS.>", "ark.desk.>", "ark.work.>", "ark.chunk.>", "ark.progress.>",
		}},
		Sub: jwt.Permission{Allow: jwt.StringList{"_INBOX.>", "ark.cancel.>"}},
	}
}

// externalNATS has the world's operator use a NATS that runs when start is called.
func (w *world) externalNATS() *natsServer {
	w.t.Helper()
	dir := w.t.TempDir()
	write := func(name string, data []byte) string {
		file := filepath.Join(dir, name)
		require.NoError(w.t, os.WriteFile(file, data, 0o600))
		return file
	}
	chain, _, err := (*certificate.Chain)(nil).Next("administrator", []string{"127.0.0.1"}, time.Now())
	require.NoError(w.t, err)
	address := freeAddress(w.t)
	n := &natsServer{w: w, url: "tls://" + address, ca: write("ca.crt", chain.Bundle())}
	operator, account, system := newKey(w.t, nkeys.CreateOperator), newKey(w.t, nkeys.CreateAccount), newKey(w.t, nkeys.CreateAccount)
	encode := func(c jwt.Claims, by nkeys.KeyPair) string {
		token, err := c.Encode(by)
		require.NoError(w.t, err)
		return token
	}
	everything := jwt.NewAccountClaims(public(w.t, account))
	everything.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: jwt.NoLimit, MemoryStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit}
	user := func(name string, may jwt.Permissions) string {
		key := newKey(w.t, nkeys.CreateUser)
		c := jwt.NewUserClaims(public(w.t, key))
		c.Permissions = may
		seed, err := key.Seed()
		require.NoError(w.t, err)
		text, err := jwt.FormatUserConfig(encode(c, account), seed)
		require.NoError(w.t, err)
		return write(name, text)
	}
	n.operator, n.agents = user("operator.creds", jwt.Permissions{}), user("agents.creds", agentsMay())
	n.config = write("nats.conf", fmt.Appendf(nil, `
listen: %q
operator: %s
system_account: %s
resolver: MEMORY
resolver_preload: {
  %s: %s
  %s: %s
}
jetstream: {store_dir: %q, sync_interval: always, max_file_store: %d}
tls: {cert_file: %q, key_file: %q}
`, address, encode(jwt.NewOperatorClaims(public(w.t, operator)), operator), public(w.t, system),
		public(w.t, account), encode(everything, operator), public(w.t, system), encode(jwt.NewAccountClaims(public(w.t, system)), operator),
		filepath.Join(dir, "store"), roomy, write("server.crt", chain.Server.Certificate), write("server.key", chain.Server.Key)))
	w.external = n.url
	w.args = append(w.args, "--nats-creds", n.operator, "--nats-agent-creds", n.agents, "--nats-ca", n.ca, "--store-size", "1Gi")
	return n
}

func newKey(t *testing.T, create func() (nkeys.KeyPair, error)) nkeys.KeyPair {
	t.Helper()
	key, err := create()
	require.NoError(t, err)
	return key
}

func public(t *testing.T, key nkeys.KeyPair) string {
	t.Helper()
	text, err := key.PublicKey()
	require.NoError(t, err)
	return text
}

func (n *natsServer) start() {
	n.w.t.Helper()
	said := &logs{}
	n.cmd = exec.CommandContext(n.w.t.Context(), shared.nats, "-c", n.config)
	n.cmd.Stdout, n.cmd.Stderr = said, said
	n.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(n.w.t, n.cmd.Start())
	cmd := n.cmd
	n.w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if n.w.t.Failed() {
			n.w.t.Logf("NATS:\n%s", said)
		}
	})
}

func (n *natsServer) kill() {
	_ = n.cmd.Process.Kill()
	_ = n.cmd.Wait()
}

// soloTeam applies the team solo and starts its agent's pod, whose model answers "held" when it is released.
func (w *world) soloTeam() (models *modelserver.Server, release func()) {
	w.t.Helper()
	w.apply(solo)
	until(w, w.clients.Teams(w.namespace), "solo", "a status", func(t *v1alpha1.ArkTeam) bool { return t.Status.ObservedGeneration > 0 })
	ctx, release := context.WithCancel(w.t.Context())
	w.t.Cleanup(release)
	models, err := modelserver.Start(w.t.Context(), modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		if c.Request.Prompt() == "held" {
			<-ctx.Done()
		}
		return &modelserver.Reply{Text: "done: " + c.Request.Prompt()}
	}})
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = models.Close() })
	w.pod("solo-a", "solo-a-0", append(w.mounted("solo-a"), "OPENAI_BASE_URL="+models.URL(), "OPENAI_API_KEY=k")...)
	return models, release
}

// times is how often a prompt came to the model.
func times(models *modelserver.Server, prompt string) (n int) {
	for _, c := range models.Calls() {
		if c.Request.Prompt() == prompt {
			n++
		}
	}
	return n
}

// With an external NATS ark works as with its own: the operator waits for it, and neither a restart of NATS nor one of
// the operator loses a task. Agents have the administrator's credentials for agents, with which they can touch no stream.
func TestAnExternalNATS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	n := w.externalNATS()
	o := w.launch()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		require.ErrorContains(c, o.ready(t.Context()), "there is no connection to the external NATS "+n.url)
	}, patience, 50*time.Millisecond)
	n.start()
	o.becomesReady()
	models, release := w.soloTeam()
	w.answers("first")

	w.runOf("held", "solo", map[string]any{"topic": "held"})
	_, err := models.WaitIn(t.Context(), 2)
	require.NoError(t, err)
	n.kill()
	n.start()
	w.answers("with-a-new-nats")
	o.kill()
	w.start()
	w.answers("with-a-new-operator")
	release()
	held := w.ended("held")
	require.Equal(t, v1alpha1.RunSucceeded, held.Status.Phase, held.Status.Message)
	require.Equal(t, 1, times(models, "held"))

	refused := make(chan error, 8)
	nc, err := nats.Connect(n.url, nats.Timeout(patience), nats.UserCredentials(n.agents), nats.RootCAs(n.ca), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { refused <- err }))
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() { _, _ = js.Stream(ctx, "ARK_RESULTS") }()
	select {
	case err := <-refused:
		require.ErrorIs(t, err, nats.ErrPermissionViolation)
	case <-ctx.Done():
		t.Fatal("the agents' credentials reach a stream")
	}
}

// What ark cannot work with is refused at the start, with what to do.
func TestAnExternalNATSThatDoesNotSuit(t *testing.T) {
	t.Parallel()
	run := func(o *server.Options) string {
		o.Host, o.Port, o.NoLog, o.NoSigs, o.StoreDir = "127.0.0.1", -1, true, true, t.TempDir()
		ns, err := server.NewServer(o)
		require.NoError(t, err)
		ns.Start()
		t.Cleanup(func() {
			ns.Shutdown()
			ns.WaitForShutdown()
		})
		require.True(t, ns.ReadyForConnections(patience))
		return ns.ClientURL()
	}
	w := newWorld(t)
	for _, c := range []struct{ url, want string }{
		{run(&server.Options{}), "jetstream not enabled"},
		{run(&server.Options{JetStream: true, MaxPayload: 64 << 10}), "its max_payload is 65536 bytes: ark needs 1048576 at least"},
		{"nats://ark:secret@nats.example:4222", "give nats://nats.example:4222 and a file of credentials"},
		{"nats.example", "give addresses such as nats://nats.example:4222"},
	} {
		w.external = c.url
		out, err := w.command().CombinedOutput()
		require.Error(t, err, c.url)
		require.Contains(t, string(out), c.want)
		require.NotContains(t, string(out), "secret")
	}
}
