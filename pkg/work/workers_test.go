package work_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

// auditor looks at every state of every budget that a service tries to store.
type auditor struct {
	mu        sync.Mutex
	limits    map[string]int64
	revisions int
	wrong     []string
}

// watch begins before anything is stored; it sees the messages of the ledger as they are sent.
func (a *auditor) watch(tb testing.TB, nc *nats.Conn) {
	tb.Helper()
	_, err := nc.Subscribe("ark.ledger.log", func(m *nats.Msg) { a.look(m.Data) })
	require.NoError(tb, err)
	require.NoError(tb, nc.Flush())
}

// look takes a message of the ledger apart: a version, and then parts of a kind, a subject and a body.
func (a *auditor) look(data []byte) {
	a.mu.Lock()
	defer a.mu.Unlock()
	rest := data[1:]
	number := func() uint64 {
		n, size := binary.Uvarint(rest)
		rest = rest[size:]
		return n
	}
	text := func() []byte {
		n := number()
		defer func() { rest = rest[n:] }()
		return rest[:n]
	}
	for n := number(); n > 0; n-- {
		rest = rest[1:]
		subject, body := string(text()), text()
		if len(subject) > len("ark.budget.") && subject[:len("ark.budget.")] == "ark.budget." {
			a.audit(body)
		}
	}
}

func (a *auditor) audit(body []byte) {
	b, err := work.DecodeBudget(body)
	if err != nil {
		a.wrong = append(a.wrong, err.Error())
		return
	}
	a.revisions++
	if sum := b.State.Spent(time.Now()) + b.State.Reserved(); sum > a.limits[b.Scope] {
		a.wrong = append(a.wrong, fmt.Sprintf("%s: %d of %d", b.Scope, sum, a.limits[b.Scope]))
	}
}

// office is workers that are killed, on services that are killed, on one budget.
type office struct {
	w      *world
	nc     *nats.Conn   // of the workers
	done   atomic.Int64 // what the services have done for workers
	slow   atomic.Int64 // how often workers were impatient for nothing
	calls  atomic.Int64 // that were made
	mu     sync.Mutex
	billed map[string]int64 // by call: what the model server says it used
	twice  []string         // calls that were answered, journaled, and made again
}

// bill is the model server: it knows each call once.
func (o *office) bill(name string, used int64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, again := o.billed[name]; again {
		o.twice = append(o.twice, name)
	}
	o.billed[name] = used
	o.calls.Add(1)
}

// work brings a task to its end: so many answers. It is killed now and then, and another process takes over.
func (o *office) work(ctx context.Context, tk *task.Task, answers int, seed uint64) (int64, error) {
	random := rand.New(rand.NewPCG(seed, 1))
	for {
		s, err := o.client().TakeOver(ctx, queue.KeyOf(tk), "pod", 0)
		if err == nil {
			o.done.Add(1)
			err = o.turns(ctx, s, answers, random)
		}
		var refused *work.BudgetError
		switch {
		case err == nil, errors.As(err, &refused):
			return o.charged(ctx, tk)
		case errors.Is(err, work.ErrUnavailable):
			o.slow.Add(1)
		case errors.Is(err, errKilled), errors.Is(err, work.ErrFenced):
		default:
			return 0, err
		}
	}
}

// client asks again soon, so that requests are asked for more than once; on a machine that is too busy for that, later.
func (o *office) client() *work.Client {
	return work.NewImpatientClient(o.nc, min(300*time.Millisecond<<min(o.slow.Load()/64, 10), time.Minute))
}

var errKilled = errors.New("killed")

func (o *office) turns(ctx context.Context, s *work.Session, answers int, random *rand.Rand) error {
	call, done := 0, 0
	for _, e := range s.Journal() {
		if e.Intent != nil {
			call = e.Intent.Call
		}
		if e.Answer != nil {
			done++
		}
	}
	for ; done < answers; done++ {
		call++
		reserve := 1 + random.Int64N(40)
		if err := s.Append(ctx, work.Entry{Note: "turn"}, intent(call, reserve)); err != nil {
			return err
		}
		o.done.Add(1)
		if random.IntN(12) == 0 {
			return errKilled
		}
		used := random.Int64N(reserve + 1)
		o.bill(fmt.Sprintf("%s-%d", s.Task().ID, call), used)
		if random.IntN(12) == 0 {
			return errKilled
		}
		if err := s.Append(ctx, answer(call, used), started(fmt.Sprint(call))); err != nil {
			return err
		}
		o.done.Add(1)
		if random.IntN(12) == 0 {
			return errKilled
		}
	}
	return nil
}

// run has so many workers work, and returns what each of them was charged. However busy the machine is, something is done
// within a minute: when nothing is, whoever still waits will wait for ever.
func (o *office) run(workers, answers int, limit int64) []int64 {
	o.w.tb.Helper()
	ctx, cancel := context.WithCancelCause(o.w.tb.Context())
	defer cancel(nil)
	sums, errs := make([]int64, workers), make([]error, workers)
	var group sync.WaitGroup
	for i := range workers {
		tk := o.w.submit(o.w.task(runBudget(limit)))
		group.Go(func() { sums[i], errs[i] = o.work(ctx, tk, answers, uint64(i)) })
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		group.Wait()
	}()
	ticker := time.NewTicker(time.Minute)
	defer ticker.Stop()
	for before := int64(-1); ; {
		select {
		case <-ended:
			require.NoError(o.w.tb, errors.Join(errs...))
			return sums
		case <-ticker.C:
			now := o.done.Load()
			if now == before {
				cancel(fmt.Errorf("nothing was done for a minute, %d reservations wait", work.Waiting(o.w.service)))
			}
			before = now
		}
	}
}

// charged is what a task's journal says that it has paid.
func (o *office) charged(ctx context.Context, tk *task.Task) (int64, error) {
	s, err := o.client().TakeOver(ctx, queue.KeyOf(tk), "auditor", 0)
	for errors.Is(err, work.ErrUnavailable) || errors.Is(err, work.ErrFenced) {
		o.slow.Add(1)
		s, err = o.client().TakeOver(ctx, queue.KeyOf(tk), "auditor", 0)
	}
	o.done.Add(1)
	if err != nil {
		return 0, err
	}
	var sum int64
	for _, e := range s.Journal() {
		switch {
		case e.Answer != nil:
			sum += e.Answer.Usage.Total()
			o.mu.Lock()
			if billed := o.billed[fmt.Sprintf("%s-%d", tk.ID, e.Answer.Call)]; billed != e.Answer.Usage.Total() {
				o.twice = append(o.twice, "an answer that was not given")
			}
			o.mu.Unlock()
		case e.Failed != nil:
			sum += e.Failed.Charged
		}
	}
	return sum, nil
}

// 64 workers on one budget that runs out, killed at random, on two services of which one is killed all the time.
func TestBudgetUnderKills(t *testing.T) {
	t.Parallel()
	const workers, answers, limit = 64, 12, 9_000
	w := newWorld(t, work.Config{
		Retries: func(string, string) int { return 1 << 30 },
		Daily: func(string, string, string) []task.Budget {
			return []task.Budget{{Scope: "agent.writer", Limit: 1 << 40, Window: 86400}}
		},
	})
	a := &auditor{limits: map[string]int64{"run.run-1": limit, "agent.writer": 1 << 40}}
	a.watch(t, w.connect())
	w.serve()
	stopKilling := w.killServices()
	o := &office{w: w, nc: w.connect(), billed: map[string]int64{}}
	sums := o.run(workers, answers, limit)
	stopKilling()
	var sum int64
	for _, s := range sums {
		sum += s
	}
	w.stands("run.run-1", sum, 0)
	w.stands("agent.writer", sum, 0)
	require.LessOrEqual(t, sum, int64(limit))
	require.Greater(t, sum, int64(limit-40), "it ran out")
	a.mu.Lock()
	defer a.mu.Unlock()
	require.Empty(t, a.wrong)
	require.Empty(t, o.twice)
	require.Greater(t, a.revisions, 200)
	t.Logf("%d calls, %d tokens charged, %d revisions", o.calls.Load(), sum, a.revisions)
}

// killServices starts services and kills them, one after the other, until it has killed many or stop is called.
func (w *world) killServices() (stop func()) {
	const lives = 40
	ctx, cancel := context.WithCancel(w.tb.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range lives {
			life, end := context.WithTimeout(ctx, 60*time.Millisecond)
			nc := w.connect()
			s, err := work.NewService(w.open(), nc, w.config)
			if err != nil {
				end()
				return
			}
			// Its connection dies first: what it has on its way is lost.
			context.AfterFunc(life, nc.Close)
			_ = s.Run(life)
			end()
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// Two services at once, each with its own view of the same journals and budgets.
func TestTwoServices(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{Retries: func(string, string) int { return 1 << 30 }})
	w.serve()
	w.serve()
	a := &auditor{limits: map[string]int64{"run.run-1": 900}}
	a.watch(t, w.connect())
	o := &office{w: w, nc: w.connect(), billed: map[string]int64{}}
	var sum int64
	for _, s := range o.run(8, 6, 900) {
		sum += s
	}
	w.stands("run.run-1", sum, 0)
	require.Empty(t, a.wrong)
	require.Empty(t, o.twice)
}

// twoServices are a world with two services, and which of them is asked.
func twoServices(t *testing.T, config work.Config) (w *world, ask func(second bool)) {
	t.Helper()
	w = newWorld(t, config)
	var services [2]*work.Service
	for i := range services {
		w.serve()
		services[i] = w.service
	}
	var asked atomic.Pointer[work.Service]
	w.client = work.NewSwitchedClient(asked.Load, time.Minute)
	ask = func(second bool) {
		asked.Store(services[0])
		if second {
			asked.Store(services[1])
		}
	}
	ask(false)
	return w, ask
}

// A task that one service knows as held was handed back through another one: nobody has died.
func TestATakeOverKnowsWhatAnotherServiceReleased(t *testing.T) {
	t.Parallel()
	w, ask := twoServices(t, work.Config{Retries: func(string, string) int { return 0 }})
	tk := w.task()
	s := w.take(tk)
	ask(true)
	require.NoError(t, s.Release(t.Context()))
	ask(false)
	again, err := w.takeAgain(tk)
	require.NoError(t, err)
	require.Equal(t, 2, again.TakeOvers())
	_, err = w.takeAgain(tk)
	var failure *task.Error
	require.ErrorAs(t, err, &failure)
	require.Equal(t, task.CodePoison, failure.Code)
}

// A take-over replays what was journaled through another service since.
func TestATakeOverReplaysWhatAnotherServiceWrote(t *testing.T) {
	t.Parallel()
	w, ask := twoServices(t, work.Config{})
	tk := w.task(runBudget(1000))
	s := w.take(tk)
	ask(true)
	appends(t, s, intent(1, 100))
	appends(t, s, answer(1, 40), started("1.0"))
	appends(t, s, intent(2, 100))
	ask(false)
	again, err := w.takeAgain(tk)
	require.NoError(t, err)
	require.Len(t, again.Journal(), 5, "two calls, the start of a tool, and the unknown outcome of the second call")
	w.stands("run.run-1", 140, 0)
	require.ErrorIs(t, s.Append(t.Context(), answer(2, 5)), work.ErrFenced)
}

// The run that a take-over names only saves a round trip: what the queue holds of the task decides.
func TestATakeOverThatNamesAnotherRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	tk := w.submit(w.task())
	for _, run := range []string{"", "run-2"} {
		key := queue.KeyOf(tk)
		key.RunUID = run
		s, err := w.client.TakeOver(t.Context(), key, "pod-0", 0)
		require.NoError(t, err)
		require.Equal(t, tk, s.Task())
		appends(t, s, work.Entry{Note: "of run-1"})
	}
	w.result(tk, task.Succeeded)
	key := queue.KeyOf(tk)
	key.RunUID = "run-2"
	_, err := w.client.TakeOver(t.Context(), key, "pod-0", 0)
	require.ErrorIs(t, err, work.ErrDone)
}
