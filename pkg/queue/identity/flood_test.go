package identity_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/queue/identity"
	"arkonis.dev/ark/pkg/work"
)

// TestFloodOfOneAgent has an agent send as fast as it can, to everything that it may send to and without waiting for answers:
// more than the process may have in memory. Meanwhile another one's tasks are done, the process stays small, and the
// operator's own connection lives.
func TestFloodOfOneAgent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.ackWait = time.Hour // nothing comes a second time, however slow the machine is
	victim, flooder := w.agent(writer), w.agent(identity.Agent{Namespace: "default", Name: "flooder", UID: "66"})
	held := newTask(flooder.agent, 0)
	require.NoError(t, w.queue.Submit(t.Context(), held))
	require.Equal(t, held.ID, flooder.next().Task.ID)
	s, err := flooder.work.TakeOver(t.Context(), queue.KeyOf(held), "pod", 0)
	require.NoError(t, err)
	body, err := s.PutPayload(t.Context(), strings.Repeat("x", 500<<10))
	require.NoError(t, err)

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	f := &flood{w: w, agent: flooder.agent, task: encode(t, map[string]any{
		"run": "run-1", "task": held.ID, "epoch": 1, "n": 1, "id": "x", "wait": 3000, "ref": body.Ref, "length": 500 << 10, "setup": "s", "pod": "p",
		"entries": []any{map[string]any{"note": strings.Repeat("n", 200<<10)}}, "child": "none",
	})}
	quiet := time.Now()
	victim.do(-1)
	alone := time.Since(quiet)
	f.start(ctx)
	largest := f.watchHeap(ctx)
	var slowest time.Duration
	for n := 0; n < 5 || f.senders.Load() > 0; n++ {
		began := time.Now()
		victim.do(n)
		slowest = max(slowest, time.Since(began))
	}
	stop()
	f.group.Wait()
	t.Logf("%d messages of the flood, %d MiB; a task took %s alone and up to %s, the heap had up to %d MiB",
		f.sent.Load(), f.bytes.Load()>>20, alone, slowest, largest.Load()>>20)
	require.Greater(t, f.bytes.Load(), int64(1<<30), "it was no flood")
	require.Less(t, largest.Load(), uint64(1<<30))
	require.Zero(t, w.queue.Conn().Stats().Reconnects, "the operator's own connection was cut off")
}

type flood struct {
	w     *world
	agent identity.Agent
	task  string // a request about a task that the agent holds
	group sync.WaitGroup

	senders, sent, bytes atomic.Int64
}

// floodMessages are sent of each kind.
const floodMessages = 400

// start floods over a connection for each kind of message, which ends before with the context. Half of them read nothing of
// what is answered.
func (f *flood) start(ctx context.Context) {
	f.w.t.Helper()
	own := names(f.agent)
	requests := [][2]string{
		{"ark.work." + own + ".append", f.task},
		{"ark.work." + own + ".payload-get", f.task},
		{"ark.work." + own + ".memory-get", f.task},
		{"ark.work." + own + ".takeover", f.task},
		{"ark.work." + own + ".await", strings.Repeat("[", 900<<10)},
		{"ark.work." + own + ".report", f.task},
		{"ark.desk." + own + ".consumer", `{"ackWait":1000000000}`},
		{"ark.desk." + own + ".result.run-1.none", strings.Repeat("{", 900<<10)},
		{"ark.desk." + own + ".waiting", ""},
		{"ark.chunk." + own + ".run-1.x", strings.Repeat("c", 500<<10)},
	}
	for i, request := range requests {
		nc, err := queue.Connect(f.w.address(f.agent), fmt.Sprint("flood-", i), quiet())
		require.NoError(f.w.t, err)
		f.w.t.Cleanup(nc.Close)
		f.w.await(nc, nats.CONNECTED)
		inbox := nc.NewInbox()
		hung := make(chan struct{})
		_, err = nc.Subscribe(inbox, func(*nats.Msg) {
			if i%2 == 0 {
				<-hung
			}
		})
		require.NoError(f.w.t, err)
		context.AfterFunc(ctx, func() { close(hung) })
		f.senders.Add(1)
		f.group.Go(func() {
			defer f.senders.Add(-1)
			for n := 0; n < floodMessages && ctx.Err() == nil; {
				if nc.PublishRequest(request[0], inbox, []byte(request[1])) == nil {
					n++
					f.sent.Add(1)
					f.bytes.Add(int64(len(request[1])))
				}
				if nc.Flush() != nil && ctx.Err() == nil {
					f.w.await(nc, nats.CONNECTED)
				}
			}
		})
	}
}

// watchHeap notes how large the heap becomes.
func (f *flood) watchHeap(ctx context.Context) *atomic.Uint64 {
	var largest atomic.Uint64
	f.group.Go(func() {
		ticker := time.NewTicker(50 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				largest.Store(max(largest.Load(), m.HeapAlloc))
			}
		}
	})
	return &largest
}

// A task's journal and payloads are bounded: they share a stream with those of all others.
func TestWhatATaskStoresIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.agent(writer)
	tk := newTask(writer, 0)
	require.NoError(t, w.queue.Submit(t.Context(), tk))
	s, err := p.work.TakeOver(t.Context(), queue.KeyOf(tk), "pod", 0)
	require.NoError(t, err)
	notes := make([]work.Entry, 8)
	for i := range notes {
		notes[i].Note = strings.Repeat(string(rune('a'+i)), 30<<10)
	}
	var refused *work.RefusedError
	stored := 0
	for stored < 1000 && err == nil {
		if err = s.Append(t.Context(), notes...); err == nil {
			stored++
		}
	}
	require.ErrorAs(t, err, &refused)
	require.InDelta(t, 16<<20, stored*240<<10, 1<<20)
	p.insist(func(ctx context.Context) error {
		again, err := p.work.TakeOver(ctx, queue.KeyOf(tk), "pod", 0)
		if lost(err) {
			return err
		}
		require.Nil(t, again)
		require.ErrorContains(t, err, "the journal of the task has 16 MiB")
		return nil
	})

	other := newTask(writer, 1)
	require.NoError(t, w.queue.Submit(t.Context(), other))
	_, err = p.work.TakeOver(t.Context(), queue.KeyOf(other), "pod", 0)
	require.NoError(t, err)
	chunk := nats.NewMsg(queue.WorkSubject(writer.Namespace, writer.Name, "payload-put"))
	chunk.Data = make([]byte, 512<<10)
	chunk.Header.Set("Ark-Work", encode(t, map[string]any{"run": "run-1", "task": other.ID, "epoch": 1, "upload": "u", "offset": 64 << 20}))
	answer, err := p.nc.RequestMsg(chunk, patience)
	require.NoError(t, err)
	require.Contains(t, answer.Header.Get("Ark-Work-Failure"), "a payload may have 64 MiB")
}
