package identity_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/queue/identity"
	"arkonis.dev/ark/pkg/task"
)

const (
	operations = 10_000
	seed       = 4
	secret     = "SECRET-OF-A-VICTIM"
)

// victims have names that a careless pattern would take for the attacker's, default/writer. All are in its run.
func victims() []identity.Agent {
	return []identity.Agent{
		{Namespace: "default", Name: "writer2", UID: "11"},
		{Namespace: "default", Name: "write", UID: "12"},
		{Namespace: "other", Name: "writer", UID: "13"},
		{Namespace: "default-writer", Name: "writer", UID: "14"},
		{Namespace: "default", Name: "writer.two", UID: "15"},
	}
}

// TestNoWayOutOfAnAccount tries an agent's credentials against everything that is not the agent's. Nothing that belongs to
// others is read or written, and everybody's work goes on.
func TestNoWayOutOfAnAccount(t *testing.T) {
	t.Parallel()
	h := newHostility(t)
	before := h.snapshot()
	h.observe()
	r := rand.New(rand.NewPCG(seed, seed))
	kinds := map[string]int{}
	for n := range operations {
		kinds[h.operation(r, n)]++
		if n%200 == 199 {
			h.settle()
		}
		if n%2500 == 1200 {
			h.work(n)
		}
	}
	h.settle()
	t.Logf("%d operations, %v; the server refused %d", operations, kinds, h.refusals())
	require.Empty(t, h.reads(), "read")
	require.Empty(t, h.writes(), "written to subjects of others")
	h.compare(before, h.snapshot())
	require.Greater(t, h.refusals(), operations/4, "permissions did not stand in the way: the test does not reach them")
	h.work(operations)
	for i, p := range h.victims {
		require.NoError(t, h.held[i].Ack(t.Context()))
		require.Equal(t, h.foreign[2*i+1].ID, p.next().Task.ID)
	}
}

// hostility is a world in which one agent is an attacker.
type hostility struct {
	*world
	attacker *pod       // its honest half
	nc       *nats.Conn // its other half
	victims  []*pod
	held     []*queue.Delivery // what each of them works on: it has no slot for more
	foreign  []*task.Task      // in the queue, waiting or in a victim's hands
	idle     []*task.Task      // of an agent that has never run
	payload  *task.Ref         // of a victim
	own      identity.Agent
	consumer string // the attacker's

	mu      sync.Mutex
	read    []string
	written []string
	refused int
}

func newHostility(t *testing.T) *hostility {
	t.Helper()
	h := &hostility{world: newWorld(t), own: writer}
	ctx := t.Context()
	h.attacker = h.agent(writer)
	h.work(-1)
	js, err := jetstream.New(h.queue.Conn())
	require.NoError(t, err)
	tasks, err := js.Stream(ctx, queue.StreamTasks)
	require.NoError(t, err)
	for c := range tasks.ListConsumers(ctx).Info() {
		h.consumer = c.Name
	}
	h.ackWait, h.slots = time.Hour, 1 // nothing comes a second time for a victim, and nothing before its time
	for _, a := range victims() {
		p := h.agent(a)
		p.do(0)
		h.victims = append(h.victims, p)
		held := h.secretTask(a, 1)
		d := p.next()
		require.Equal(t, held.ID, d.Task.ID)
		h.held = append(h.held, d)
		s, err := p.work.TakeOver(ctx, queue.KeyOf(held), "pod", 0)
		require.NoError(t, err)
		body, err := s.PutPayload(ctx, strings.Repeat(secret, 10_000))
		require.NoError(t, err)
		h.payload = body.Ref
		h.secretTask(a, 2)
	}
	for c := range tasks.ListConsumers(ctx).Info() {
		for _, a := range victims() {
			require.NotEqual(t, strings.ReplaceAll(names(a), ".", "__"), c.Name, "its name protects a consumer, and can be guessed")
		}
	}
	for n := range 5 {
		h.idle = append(h.idle, h.secretTask(identity.Agent{Namespace: "default", Name: "asleep"}, n))
	}
	key := queue.KeyOf(h.foreign[0])
	require.NoError(t, h.queue.Bucket(queue.BucketMemory).Put(ctx, key.Namespace+"."+key.Agent, []byte(secret), 0, 0))
	require.NoError(t, h.victims[0].queue.HintChunk(key, queue.Chunk{Text: secret}))

	to := h.address(writer)
	h.nc, err = nats.Connect(to.URL, nats.UserCredentials(to.Credentials), nats.RootCAs(to.CA), nats.SkipSubjectValidation(),
		nats.MaxReconnects(-1), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.refused++
		}))
	require.NoError(t, err)
	t.Cleanup(h.nc.Close)
	_, err = h.nc.Subscribe("_INBOX.own.*", func(m *nats.Msg) {
		if bytes.Contains(m.Data, []byte(secret)) {
			h.note(&h.read, m)
		}
	})
	require.NoError(t, err)
	return h
}

func (h *hostility) secretTask(a identity.Agent, n int) *task.Task {
	h.t.Helper()
	tk := newTask(a, n)
	tk.Prompt.Inline = secret
	require.NoError(h.t, h.queue.Submit(h.t.Context(), tk))
	h.foreign = append(h.foreign, tk)
	return tk
}

// work has the attacker do a task of its own, whatever its other half has left behind.
func (h *hostility) work(n int) {
	h.t.Helper()
	p, ctx := h.attacker, h.t.Context()
	tk := newTask(writer, n)
	require.NoError(h.t, h.queue.Submit(ctx, tk))
	for {
		d := p.next()
		won, err := p.queue.PublishResult(ctx, d.Key(), newResult(d.Task, "done"))
		require.NoError(h.t, err)
		require.True(h.t, won || d.Task.ID != tk.ID)
		require.NoError(h.t, d.Ack(ctx))
		if d.Task.ID == tk.ID {
			return
		}
	}
}

// observe listens wherever nothing of the attacker's may arrive: on all of ark's account, and in those of the victims.
func (h *hostility) observe() {
	h.t.Helper()
	nc, err := h.server.Connect("observer")
	require.NoError(h.t, err)
	_, err = nc.Subscribe(">", func(m *nats.Msg) {
		// The server says of each request from another account where it came from.
		crossed := strings.Contains(m.Header.Get("Nats-Request-Info"), `"acc"`)
		if !h.mine(m.Subject) && (crossed || h.ofVictim(m.Subject)) {
			h.note(&h.written, m)
		}
	})
	require.NoError(h.t, err)
	require.NoError(h.t, nc.Flush())
	for _, p := range h.victims {
		for _, subject := range []string{"_INBOX.>", "ark.cancel." + names(p.agent) + ".*"} {
			_, err := h.raw(p.agent).Subscribe(subject, func(m *nats.Msg) { h.note(&h.written, m) })
			require.NoError(h.t, err)
		}
	}
}

// raw is a connection with an agent's credentials and no more.
func (h *hostility) raw(a identity.Agent) *nats.Conn {
	h.t.Helper()
	nc, err := queue.Connect(h.address(a), "observer", quiet())
	require.NoError(h.t, err)
	h.t.Cleanup(nc.Close)
	h.await(nc, nats.CONNECTED)
	return nc
}

func (h *hostility) note(to *[]string, m *nats.Msg) {
	h.mu.Lock()
	defer h.mu.Unlock()
	*to = append(*to, fmt.Sprintf("%s (reply %q, headers %v): %.200q", m.Subject, m.Reply, m.Header, m.Data))
}

func (h *hostility) reads() []string { h.mu.Lock(); defer h.mu.Unlock(); return slices.Clone(h.read) }

func (h *hostility) writes() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.written)
}
func (h *hostility) refusals() int { h.mu.Lock(); defer h.mu.Unlock(); return h.refused }

// names are an agent's two tokens of a subject.
func names(a identity.Agent) string { return queue.Token(a.Namespace) + "." + queue.Token(a.Name) }

// mine says whether the attacker may send to a subject.
func (h *hostility) mine(subject string) bool {
	if subject == "$JS.API.CONSUMER.MSG.NEXT.ARK_TASKS."+h.consumer {
		return true
	}
	for _, prefix := range []string{
		"$JS.ACK.ARK_TASKS." + h.consumer + ".", "ark.desk.default.writer.", "ark.work.default.writer.",
		"ark.chunk.default.writer.", "ark.progress.default.writer.",
	} {
		if strings.HasPrefix(subject, prefix) {
			return true
		}
	}
	return false
}

// ofVictim says whether a subject names a victim or a task of one. Victims do nothing while they are attacked.
func (h *hostility) ofVictim(subject string) bool {
	for _, a := range append(victims(), identity.Agent{Namespace: "default", Name: "asleep"}) {
		if strings.Contains(subject, "."+strings.ReplaceAll(names(a), ".", "__")+".") && strings.HasPrefix(subject, "$JS.ACK.") {
			return true
		}
		if strings.Contains(subject+".", "."+names(a)+".") && !strings.HasPrefix(subject, "$JS.API.") {
			return true
		}
	}
	return false
}

// settle waits until the server has worked on everything so far.
func (h *hostility) settle() {
	h.t.Helper()
	require.NoError(h.t, h.nc.FlushTimeout(patience))
	require.NoError(h.t, h.queue.Conn().FlushTimeout(patience))
}

// snapshot is everything that is stored: configurations, every message, and where the victims' consumers are.
func (h *hostility) snapshot() map[string]string {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), patience)
	defer cancel()
	js, err := jetstream.New(h.queue.Conn())
	require.NoError(h.t, err)
	all := map[string]string{}
	streams := js.ListStreams(ctx)
	for info := range streams.Info() {
		name := info.Config.Name
		all["stream "+name] = encode(h.t, info.Config)
		s, err := js.Stream(ctx, name)
		require.NoError(h.t, err)
		for seq := max(info.State.FirstSeq, 1); seq <= info.State.LastSeq; seq++ {
			m, err := s.GetMsg(ctx, seq)
			if err != nil {
				require.ErrorIs(h.t, err, jetstream.ErrMsgNotFound)
				continue
			}
			sum := sha256.Sum256(fmt.Append(nil, m.Header, m.Data))
			all[fmt.Sprintf("message %s %d", name, seq)] = m.Subject + " " + hex.EncodeToString(sum[:8]) + " " + h.about(m)
		}
		consumers := s.ListConsumers(ctx)
		for c := range consumers.Info() {
			if name != queue.StreamTasks || c.Name == h.consumer {
				continue
			}
			all["consumer "+name+" "+c.Name] = encode(h.t, []any{c.Config, c.Delivered, c.AckFloor, c.NumAckPending, c.NumPending, c.NumRedelivered})
		}
		require.NoError(h.t, consumers.Err())
	}
	require.NoError(h.t, streams.Err())
	return all
}

func encode(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return string(b)
}

// about says of a message whether it concerns a victim.
func (h *hostility) about(m *jetstream.RawStreamMsg) string {
	whole := fmt.Append(nil, m.Subject, m.Header, string(m.Data))
	for _, tk := range h.foreign {
		if bytes.Contains(whole, []byte(tk.ID)) {
			return "of a victim"
		}
	}
	if h.ofVictim(m.Subject) || bytes.Contains(whole, []byte(secret)) {
		return "of a victim"
	}
	return "own"
}

// compare finds what was changed, removed or added. The attacker's own tasks come and go.
func (h *hostility) compare(before, after map[string]string) {
	h.t.Helper()
	for _, what := range slices.Sorted(maps.Keys(before)) {
		if strings.HasSuffix(before[what], " own") {
			continue
		}
		require.Equal(h.t, before[what], after[what], what)
		delete(after, what)
	}
	for what, is := range after {
		require.Truef(h.t, strings.HasSuffix(is, " own"), "%s was added: %s", what, is)
	}
}
