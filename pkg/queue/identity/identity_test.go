package identity_test

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/queue/identity"
	"arkonis.dev/ark/pkg/task"
)

var (
	writer = identity.Agent{Namespace: "default", Name: "writer", UID: "1"}
	editor = identity.Agent{Namespace: "default", Name: "editor", UID: "2"}
)

// Everything that a runtime does with the queue works over what an agent's account imports.
func TestAgentWorksOverItsImports(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.agent(writer)
	for n := range 3 {
		p.do(n)
	}
	ctx := t.Context()
	tk := newTask(writer, 10)
	require.NoError(t, w.queue.Submit(ctx, tk))
	require.NoError(t, p.next().Nak(time.Millisecond))
	d := p.next()
	require.Equal(t, 2, d.Deliveries)

	s, err := p.work.TakeOver(ctx, queue.KeyOf(tk), "pod", 0)
	require.NoError(t, err)
	large := strings.Repeat("large ", 300_000)
	text, err := s.PutPayload(ctx, large)
	require.NoError(t, err)
	require.NotNil(t, text.Ref)
	stored, err := w.queue.Text(ctx, text, 64<<20)
	require.NoError(t, err)
	require.Equal(t, large, stored)

	chunks := make(chan string, 1)
	stop, err := w.queue.WatchChunks("run-1", func(_ queue.Key, c queue.Chunk) { chunks <- c.Text })
	require.NoError(t, err)
	defer stop()
	require.NoError(t, p.queue.HintChunk(d.Key(), queue.Chunk{Text: "a token"}))
	require.Equal(t, "a token", receive(t, chunks))
	canceled := make(chan string, 1)
	stop, err = p.queue.WatchCancel("default", "writer", func(id, _ string) { canceled <- id })
	require.NoError(t, err)
	defer stop()
	require.NoError(t, w.queue.HintCancel(d.Key(), "enough"))
	require.Equal(t, tk.ID, receive(t, canceled))

	won, err := p.queue.PublishResult(ctx, d.Key(), newResult(tk, "first"))
	require.NoError(t, err)
	require.True(t, won)
	won, err = p.queue.PublishResult(ctx, d.Key(), newResult(tk, "second"))
	require.NoError(t, err)
	require.False(t, won, "the first result is the result")
	require.NoError(t, d.Ack(ctx))
	won, err = p.queue.PublishResult(ctx, d.Key(), newResult(tk, "first"))
	require.NoError(t, err)
	require.True(t, won, "whoever heard no answer asks again")

	bad := newTask(writer, 11)
	require.NoError(t, w.queue.Submit(ctx, bad))
	require.NoError(t, p.next().Term(ctx, "it has killed three pods"))
	_, err = w.queue.Task(ctx, "default", "writer", bad.ID)
	require.ErrorIs(t, err, queue.ErrNoTask)
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		require.Fail(t, "nothing came")
		panic("unreachable")
	}
}

// A result is taken for a task that is in the agent's queue, and for no other one: not for one that is still to come, not
// for that of another agent, not under another run.
func TestResultsAreOfTasksInTheQueue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.agent(writer)
	ctx := t.Context()
	future, foreign := newTask(writer, 1), newTask(editor, 1)
	require.NoError(t, w.queue.Submit(ctx, foreign))
	for _, tk := range []*task.Task{future, foreign} {
		key := queue.KeyOf(tk)
		key.Agent = "writer"
		_, err := p.queue.PublishResult(ctx, key, newResult(tk, "forged"))
		require.ErrorIs(t, err, queue.ErrNotYours)
	}
	_, err := p.queue.PublishResult(ctx, queue.KeyOf(foreign), newResult(foreign, "forged"))
	require.ErrorContains(t, err, "the queue is attached for agent default/writer")

	require.NoError(t, w.queue.Submit(ctx, future))
	d := p.next()
	other := d.Key()
	other.RunUID = "run-2"
	_, err = p.queue.PublishResult(ctx, other, newResult(future, "forged"))
	require.ErrorIs(t, err, queue.ErrNotYours)
	won, err := p.queue.PublishResult(ctx, d.Key(), newResult(future, "mine"))
	require.NoError(t, err)
	require.True(t, won)
}

func TestRemovedAgentIsCutOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gone, stays := w.agent(writer), w.agent(editor)
	gone.do(1)
	lost := gone.nc.StatusChanged(nats.RECONNECTING)
	start := time.Now()
	require.NoError(t, w.server.Accounts().Remove(writer))
	receive(t, lost)
	t.Logf("cut off after %s", time.Since(start))
	w.refused(writer)
	require.NoError(t, w.server.Accounts().Remove(writer), "once more is fine")
	stays.do(1)

	again := identity.Agent{Namespace: writer.Namespace, Name: writer.Name, UID: "3"}
	fresh := w.agent(again)
	fresh.do(2)
	w.refused(writer) // the earlier agent of the same name
	require.ElementsMatch(t, []identity.Agent{editor, again}, w.server.Accounts().Agents())

	// Let in again, the same agent comes back by itself.
	require.NoError(t, w.server.Accounts().Remove(again))
	w.refused(again)
	require.NoError(t, w.server.Accounts().Allow(writer))
	w.await(gone.nc, nats.CONNECTED)
	gone.do(3)
}

// refused checks that the credentials in an agent's file are.
func (w *world) refused(a identity.Agent) {
	w.t.Helper()
	nc, err := nats.Connect("tls://"+w.server.Address(), nats.UserCredentials(w.path(credsFile(a))), nats.RootCAs(w.path("ca.pem")),
		nats.Timeout(patience))
	if err == nil {
		nc.Close()
	}
	require.ErrorIs(w.t, err, nats.ErrAuthorization)
}

func TestCredentialsAreReplacedBeforeTheyExpire(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	require.NoError(t, w.server.Accounts().Allow(writer))
	old := w.issue(writer, 3*time.Second)
	ends, err := identity.Expiry(old)
	require.NoError(t, err)
	require.WithinDuration(t, time.Now().Add(3*time.Second), ends, 10*time.Second)
	p := w.pod(writer)
	p.do(1)
	w.issue(writer, time.Hour)
	lost, back := p.nc.StatusChanged(nats.RECONNECTING), p.nc.StatusChanged(nats.CONNECTED)
	receive(t, lost)
	receive(t, back)
	p.do(2)
	<-time.After(time.Until(ends.Add(time.Second))) // what is to expire is a time
	w.write(credsFile(writer), old)
	w.refused(writer)
}

// A signing key is replaced while agents work: old and new credentials are good side by side, until the old key goes.
func TestSigningKeysOverlap(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p, late := w.agent(writer), w.agent(editor)
	first := w.authority
	old := w.issue(writer, time.Hour)
	require.True(t, first.Signed(old, writer))
	require.False(t, first.Signed(old, editor))

	rotated := time.Now()
	second, err := first.Rotate(rotated)
	require.NoError(t, err)
	require.Equal(t, 2, second.Keys())
	require.Equal(t, 2, second.Retire(rotated.Add(-time.Second)).Keys(), "the first key signed until then")
	require.NoError(t, w.server.Accounts().Use(second))
	require.False(t, second.Signed(old, writer), "to be replaced")
	w.authority = second
	p.do(1)
	late.do(1)

	fresh := w.issue(writer, time.Hour)
	require.True(t, second.Signed(fresh, writer))
	lost, back, lateLost := p.nc.StatusChanged(nats.RECONNECTING), p.nc.StatusChanged(nats.CONNECTED), late.nc.StatusChanged(nats.RECONNECTING)
	third := second.Retire(rotated.Add(time.Second))
	require.Equal(t, 1, third.Keys())
	require.NoError(t, w.server.Accounts().Use(third))
	receive(t, lost)
	receive(t, back)
	receive(t, lateLost)
	w.refused(editor) // whose file was not replaced
	w.issue(editor, time.Hour)
	w.await(late.nc, nats.CONNECTED)
	p.do(2)
	late.do(2)
}

func TestCredentialsOutliveTheServer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.agent(writer)
	p.do(1)
	kept := newTask(writer, 2)
	require.NoError(t, w.queue.Submit(t.Context(), kept))
	bytes, err := w.authority.Bytes()
	require.NoError(t, err)
	w.end()

	w.authority, err = identity.ParseAuthority(bytes)
	require.NoError(t, err)
	w.config.Authority = w.authority
	w.start()
	w.refused(writer) // until it is let in
	require.NoError(t, w.server.Accounts().Allow(writer))
	w.await(p.nc, nats.CONNECTED)
	d := p.next()
	require.Equal(t, kept.ID, d.Task.ID)
	require.NoError(t, d.Ack(t.Context()))
	p.do(3)

	// A lost authority costs the credentials, and nothing that is stored.
	require.NoError(t, w.queue.Submit(t.Context(), newTask(writer, 4)))
	w.end()
	w.authority, err = identity.NewAuthority(time.Now())
	require.NoError(t, err)
	w.config.Authority = w.authority
	w.start()
	require.NoError(t, w.server.Accounts().Allow(writer))
	w.refused(writer)
	w.issue(writer, time.Hour)
	w.await(p.nc, nats.CONNECTED)
	require.Equal(t, newTask(writer, 4).ID, p.next().Task.ID)
}

func TestCertificateIsReplacedWhileTheServerRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.agent(writer)
	w.ca = newCA(t)
	require.Error(t, w.certificate.Replace([]byte("nonsense"), nil), "the old one stays")
	require.NoError(t, w.certificate.Replace(w.ca.pair()))
	p.do(1)
	_, err := nats.Connect("tls://"+w.server.Address(), nats.UserCredentials(w.path(credsFile(writer))), nats.RootCAs(w.path("ca.pem")))
	require.ErrorContains(t, err, "certificate signed by unknown authority")
	w.write("ca.pem", w.ca.pem())
	back := p.nc.StatusChanged(nats.CONNECTED)
	require.NoError(t, p.nc.ForceReconnect())
	receive(t, back)
	p.do(2)
}

// Nobody gets in without credentials that the authority has signed for an agent that is let in.
func TestStrangersAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	creds := w.agent(writer).w.issue(writer, time.Hour)
	mine, err := jwt.ParseDecoratedJWT(creds)
	require.NoError(t, err)
	claims, err := jwt.DecodeUserClaims(mine)
	require.NoError(t, err)
	own, err := nkeys.CreateAccount()
	require.NoError(t, err)
	user, err := nkeys.CreateUser()
	require.NoError(t, err)
	public, err := user.PublicKey()
	require.NoError(t, err)
	forge := func(change func(*jwt.UserClaims)) nats.Option {
		c := jwt.NewUserClaims(public)
		change(c)
		token, err := c.Encode(own)
		require.NoError(t, err)
		return nats.UserJWT(func() (string, error) { return token, nil }, user.Sign)
	}
	strangers := map[string][]nats.Option{
		"nobody":              nil,
		"a password":          {nats.UserInfo("ark", "ark")},
		"a token":             {nats.Token("ark")},
		"an account of mine":  {forge(func(*jwt.UserClaims) {})},
		"the agent's account": {forge(func(c *jwt.UserClaims) { c.IssuerAccount = claims.IssuerAccount })},
		"no key to the token": {nats.UserJWT(func() (string, error) { return mine, nil }, user.Sign)},
		"a bare key":          {nats.Nkey(public, user.Sign)},
	}
	for name, options := range strangers {
		options = append(options, nats.RootCAs(w.path("ca.pem")), nats.Timeout(patience))
		nc, err := nats.Connect("tls://"+w.server.Address(), options...)
		if err == nil {
			nc.Close()
		}
		require.ErrorIs(t, err, nats.ErrAuthorization, name)
	}

	// In the clear the server says that it wants TLS, and nothing else.
	raw, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", w.server.Address())
	require.NoError(t, err)
	defer func() { _ = raw.Close() }()
	require.NoError(t, raw.SetDeadline(time.Now().Add(patience)))
	_, err = raw.Write([]byte("CONNECT {\"verbose\":true}\r\nSUB > 1\r\nPING\r\n"))
	require.NoError(t, err)
	r := bufio.NewReader(raw)
	info, err := r.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, info, `"tls_required":true`)
	rest, _ := r.ReadString('\n')
	require.NotContains(t, rest, "PONG")
	require.NotContains(t, rest, "+OK")
}

func TestAuthorityIsReadWithCare(t *testing.T) {
	t.Parallel()
	a, err := identity.NewAuthority(time.Now())
	require.NoError(t, err)
	good, err := a.Bytes()
	require.NoError(t, err)
	seed := good[bytes.Index(good, []byte("SA")):][:58]
	for data, want := range map[string]string{
		"":              "not JSON",
		`{"version":2}`: "version 2",
		`{"version":1}`: "no key",
		strings.Replace(string(good), "SA", "SU", 1): "key 1 is not the seed of an account key",
	} {
		_, err := identity.ParseAuthority([]byte(data))
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), string(seed))
	}
	for _, agent := range []identity.Agent{{}, {Namespace: "a", Name: "b"}, {Name: "b", UID: "c"}, {Namespace: "a", UID: "c"}} {
		_, err := a.Credentials(agent, time.Now(), time.Hour)
		require.ErrorContains(t, err, "must not be empty")
	}
	_, err = a.Credentials(writer, time.Now(), time.Millisecond)
	require.ErrorContains(t, err, "too short")
}

// Two hundred agents come and go at once, and one that stays works on.
func TestAgentsComeAndGo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.agent(writer)
	done := make(chan error, 8)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for part := range cap(done) {
		go func() {
			for n := range 25 {
				a := identity.Agent{Namespace: "many", Name: strings.Repeat("a", part+1), UID: strings.Repeat("u", n+1)}
				if err := w.server.Accounts().Allow(a); err != nil || ctx.Err() != nil {
					done <- err
					return
				}
				if err := w.server.Accounts().Remove(a); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for n := range 10 {
		p.do(n)
	}
	for range cap(done) {
		require.NoError(t, receive(t, done))
	}
	require.Equal(t, []identity.Agent{writer}, w.server.Accounts().Agents())
}
