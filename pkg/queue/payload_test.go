package queue_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

const chunk = 128 << 10

func randomBody(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

// stored counts the messages of a stream.
func stored(t *testing.T, q *queue.Queue, stream string) uint64 {
	t.Helper()
	js, err := jetstream.New(q.Conn())
	require.NoError(t, err)
	s, err := js.Stream(t.Context(), stream)
	require.NoError(t, err)
	return s.CachedInfo().State.Msgs
}

func TestPayloadOfAnySizeComesBack(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	for _, n := range []int{0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk, 5*chunk + 17, 40 * chunk} {
		body := randomBody(n)
		ref, err := q.PutPayload(t.Context(), "run1/x", bytes.NewReader(body))
		require.NoError(t, err)
		require.Equal(t, int64(n), ref.Size)
		require.Equal(t, "run1/x/"+ref.SHA256, ref.Key)

		r, err := q.GetPayload(t.Context(), ref)
		require.NoError(t, err)
		got, err := io.ReadAll(r)
		require.NoError(t, err)
		require.True(t, bytes.Equal(body, got), "%d bytes", n)

		for _, at := range []int{0, 1, n / 2, chunk - 1, chunk, n - 1, n, n + 5} {
			for _, length := range []int{0, 1, 100, chunk + 3, n + 10} {
				if at < 0 {
					continue
				}
				part, err := q.ReadPayload(t.Context(), ref, int64(at), length)
				require.NoError(t, err)
				want := body[min(at, n):min(at+length, n)]
				require.True(t, bytes.Equal(want, part), "%d bytes from %d of %d: got %d", length, at, n, len(part))
			}
		}
	}
}

func TestPayloadIsStoredOnce(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	small, large := bytes.Repeat([]byte("ä"), 30_000), randomBody(3*chunk)
	var refs []task.Ref
	for range 2 {
		for _, body := range [][]byte{small, large} {
			ref, err := q.PutPayload(t.Context(), "run-1", bytes.NewReader(body))
			require.NoError(t, err)
			refs = append(refs, ref)
		}
	}
	require.Equal(t, refs[:2], refs[2:])
	require.Equal(t, strings.Repeat("ä", 512), refs[0].Preview)
	require.Empty(t, refs[1].Preview, "it is no text")
	require.Equal(t, uint64(1+1+3), stored(t, q, queue.StreamPayloads))
}

func TestTextTravelsInlineUpToTheLimit(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	inline := strings.Repeat("a", task.InlineLimit)
	short, err := q.PutText(t.Context(), "run-1", inline)
	require.NoError(t, err)
	require.Equal(t, task.Text{Inline: inline}, short)
	long, err := q.PutText(t.Context(), "run-1", inline+"b")
	require.NoError(t, err)
	require.Empty(t, long.Inline)
	require.Len(t, long.Ref.Preview, task.PreviewLimit)
	for want, text := range map[string]task.Text{inline: short, inline + "b": long} {
		got, err := q.Text(t.Context(), text, 1<<20)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err = q.Text(t.Context(), long, task.InlineLimit)
	require.ErrorIs(t, err, queue.ErrTooLarge)
}

func TestUploadThatBreaksLeavesNothing(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	broken := errors.New("broken")
	body := io.MultiReader(bytes.NewReader(randomBody(4*chunk)), failing{broken})
	_, err := q.PutPayload(t.Context(), "run-1", body)
	require.ErrorIs(t, err, broken)
	require.Zero(t, stored(t, q, queue.StreamPayloads))
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestPayloadThatIsNotWhatItsReferenceSays(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	ref, err := q.PutPayload(t.Context(), "run-1", bytes.NewReader(randomBody(2*chunk)))
	require.NoError(t, err)
	js, err := jetstream.New(q.Conn())
	require.NoError(t, err)
	s, err := js.Stream(t.Context(), queue.StreamPayloads)
	require.NoError(t, err)
	first, err := s.GetMsg(t.Context(), 1)
	require.NoError(t, err)

	wrong := ref
	wrong.Size++
	_, err = q.GetPayload(t.Context(), wrong)
	require.ErrorIs(t, err, queue.ErrCorrupt)
	for _, key := range []string{"", "x", "run-1/", "other/" + ref.SHA256, "run-1/*", "run-1/>"} {
		wrong = ref
		wrong.Key, wrong.SHA256 = key, key[strings.LastIndexByte(key, '/')+1:]
		_, err = q.GetPayload(t.Context(), wrong)
		require.ErrorIs(t, err, queue.ErrNoPayload, key)
	}

	require.NoError(t, s.DeleteMsg(t.Context(), 1))
	_, err = q.ReadPayload(t.Context(), ref, 0, 1)
	require.ErrorIs(t, err, queue.ErrNoPayload)
	first.Data[7] ^= 1
	_, err = js.Publish(t.Context(), first.Subject, first.Data)
	require.NoError(t, err)
	r, err := q.GetPayload(t.Context(), ref)
	require.NoError(t, err)
	_, err = io.ReadAll(r)
	require.ErrorIs(t, err, queue.ErrCorrupt)
}

func TestPurgeRemovesOneRunEverywhere(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	fill := func(run string) {
		x := newTask(1)
		x.Run.UID, x.ID = run, "task of "+run
		_, err := q.PublishResult(t.Context(), queue.KeyOf(x), newResult(x, ""))
		require.NoError(t, err)
		require.NoError(t, q.PublishDelegated(t.Context(), x, &task.Delegated{Version: 1}))
		_, err = q.Batch(t.Context(),
			queue.Write{Subject: queue.CallSubject(queue.KeyOf(x)), Body: []byte("entry")},
			queue.Write{Subject: queue.BudgetSubject("default", "run."+run), Body: []byte("state")},
			queue.Write{Subject: queue.BudgetSubject("default", "step."+run+".a.b"), Body: []byte("state")},
			queue.Write{Subject: queue.BudgetSubject("default", "agent."+run), Body: []byte("stays"), Rollup: true})
		require.NoError(t, err)
		_, err = q.PutPayload(t.Context(), run, bytes.NewReader(randomBody(2*chunk)))
		require.NoError(t, err)
	}
	holds := func() string {
		return fmt.Sprint(stored(t, q, queue.StreamResults), stored(t, q, queue.StreamPayloads), left(t, q))
	}
	fill("run1")
	require.Equal(t, "2 3 [run1/agent run1/call run1/run run1/step]", holds())
	fill("run")
	waiting, err := q.PurgeRun(t.Context(), "run", "unknown")
	require.NoError(t, err)
	require.Empty(t, waiting)
	const want = "2 3 [run/agent run1/agent run1/call run1/run run1/step]"
	require.Equal(t, want, holds())
	_, err = q.PurgeRun(t.Context(), "")
	require.ErrorContains(t, err, "empty uid")
	require.Equal(t, want, holds())
}

// left names what the ledger of TestPurgeRemovesOneRunEverywhere holds.
func left(t *testing.T, q *queue.Queue) []string {
	t.Helper()
	var names []string
	for _, run := range []string{"run1", "run"} {
		x := newTask(1)
		x.Run.UID, x.ID = run, "task of "+run
		for name, subject := range map[string]string{
			"call":  queue.CallSubject(queue.KeyOf(x)),
			"run":   queue.BudgetSubject("default", "run."+run),
			"step":  queue.BudgetSubject("default", "step."+run+".a.b"),
			"agent": queue.BudgetSubject("default", "agent."+run),
		} {
			if _, ok, err := q.Last(t.Context(), subject); ok {
				require.NoError(t, err)
				names = append(names, run+"/"+name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// What outlives runs goes with its agent and its team, and with no other of a similar name.
func TestAgentsAndTeamsAreForgotten(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	ctx := t.Context()
	names := []string{"a", "a.b", "ab"}
	for _, name := range names {
		probe := queue.Key{Namespace: "default", Agent: name, RunUID: queue.ProbeRun, TaskID: "probe"}
		for range 3 {
			_, err := q.Batch(ctx,
				queue.Write{Subject: queue.CallSubject(probe), Body: []byte("x"), Rollup: true},
				queue.Write{Subject: queue.BudgetSubject("default", "agent."+name), Body: []byte("x"), Rollup: true},
				queue.Write{Subject: queue.BudgetSubject("default", "team."+name), Body: []byte("x"), Rollup: true},
			)
			require.NoError(t, err)
		}
		token := queue.Token("default") + "." + queue.Token(name)
		require.NoError(t, q.Bucket(queue.BucketMemory).Put(ctx, token+".session", []byte("x"), 0, 0))
		require.NoError(t, q.Bucket(queue.BucketProbes).Put(ctx, token, []byte("x"), 0, 0))
	}
	holds := func() (agents, teams []string) {
		require.NoError(t, q.EachAgent(ctx, func(_, agent string) { agents = append(agents, agent) }))
		require.NoError(t, q.EachTeam(ctx, func(_, team string) { teams = append(teams, team) }))
		return agents, teams
	}
	for i, name := range names {
		agents, teams := holds()
		require.ElementsMatch(t, names[i:], agents)
		require.ElementsMatch(t, names[i:], teams)
		for _, again := range []bool{true, false} {
			found, err := q.ForgetAgent(ctx, "default", name)
			require.NoError(t, err)
			require.Equal(t, again, found)
			found, err = q.ForgetTeam(ctx, "default", name)
			require.NoError(t, err)
			require.Equal(t, again, found)
		}
	}
	agents, teams := holds()
	require.Empty(t, agents)
	require.Empty(t, teams)
	require.Zero(t, stored(t, q, queue.StreamLedger))
}

func TestPurgeWithdrawsWhatIsStillQueued(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	waitingTask, doneTask := newTask(1), newTask(2)
	require.NoError(t, q.Submit(t.Context(), waitingTask))
	_, err := q.PublishResult(t.Context(), queue.KeyOf(doneTask), newResult(doneTask, ""))
	require.NoError(t, err)

	waiting, err := q.PurgeRun(t.Context(), "run-1")
	require.NoError(t, err)
	require.Equal(t, []string{"run-1"}, waiting)
	d := next(t, takeTasks(t, q, queue.TasksConfig{}))
	r, err := q.Result(t.Context(), d.Key())
	require.NoError(t, err)
	require.Equal(t, task.Cancelled, r.Status, "whoever pulls it sees that it is not to be done")
	require.NoError(t, d.Ack(t.Context()))

	waiting, err = q.PurgeRun(t.Context(), "run-1")
	require.NoError(t, err)
	require.Empty(t, waiting)
	require.Zero(t, stored(t, q, queue.StreamResults))
}

// Whoever settles a call late brings the books of a removed run back. They are known for what they are.
func TestBooksThatCameBackAreThoseOfARemovedRun(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	settle := func() {
		_, err := q.Batch(t.Context(), queue.Write{Subject: state, Body: []byte("x"), Rollup: true})
		require.NoError(t, err)
	}
	holds := func(want map[string]queue.Held) {
		t.Helper()
		held, err := q.Runs(t.Context())
		require.NoError(t, err)
		require.Equal(t, want, held)
	}
	done := newTask(1)
	_, err := q.PublishResult(t.Context(), queue.KeyOf(done), newResult(done, ""))
	require.NoError(t, err)
	settle()
	holds(map[string]queue.Held{"run-1": {Namespace: "default"}})
	_, err = q.PurgeRun(t.Context(), "run-1")
	require.NoError(t, err)
	holds(map[string]queue.Held{})
	settle()
	holds(map[string]queue.Held{"run-1": {Removed: true}})
}
