package work

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

const (
	// journalIdle is how long a journal that nobody asks for stays in memory, budgetIdle a budget.
	journalIdle = 10 * time.Minute
	budgetIdle  = 10 * time.Second
	tidyEvery   = 5 * time.Second

	// opTries bounds how often a request is decided again because what it was decided on had changed.
	opTries = 16
)

// errAgain ends an op that has to be decided again, on what the streams say.
var errAgain = errors.New("decide again")

// book is the journals and budgets that are in use, as the stream has them, and the requests that change them. One
// goroutine, run, decides the requests and writes what follows from them; many at once in one batch. What it decides on
// is always in memory: whoever brings a request loads it first.
//
// Changes are applied before they are written. When a batch is not stored, for whatever reason, everything that it
// touched is dropped from memory and loaded again, and its requests are decided again.
type book struct {
	q    *queue.Queue
	now  func() time.Time
	log  *slog.Logger
	wake chan struct{} // there is something to decide
	// loaded is called with every budget that was read, without the lock.
	loaded func(*scope)
	// left is called with every task whose journal was dropped while calls of it were open, and the budgets in which
	// they have reserved.
	left func(queue.Key, []scopeKey)

	flight singleflight.Group

	mu       sync.Mutex
	reading  map[queue.Key]*reading // journals that are on their way into memory
	journals map[queue.Key]*journal
	scopes   map[scopeKey]*scope
	queued   []*op
	waiting  []*op            // reservations that wait for others, by ticket
	blocked  map[scopeKey]int // how many of them wait for a budget
	tickets  uint64
}

func newBook(q *queue.Queue, now func() time.Time, log *slog.Logger) *book {
	return &book{
		q: q, now: now, log: log, wake: make(chan struct{}, 1), loaded: func(*scope) {}, left: func(queue.Key, []scopeKey) {},
		reading: map[queue.Key]*reading{}, journals: map[queue.Key]*journal{}, scopes: map[scopeKey]*scope{}, blocked: map[scopeKey]int{},
	}
}

// reading is what happens to a task while its journal is read, by some at once.
type reading struct {
	count int
	done  bool // the task got its result: who looked for it before found none
	drops int  // how often a journal was dropped that may be newer than what is read
}

// arrival is a journal that is being read.
type arrival struct {
	key   queue.Key
	of    *reading
	drops int // of it, when the reading began
}

// expect is called before a journal is read, and arrived afterwards, when it is in memory.
func (b *book) expect(key queue.Key) arrival {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.reading[key]
	if r == nil {
		r = &reading{}
		b.reading[key] = r
	}
	r.count++
	return arrival{key, r, r.drops}
}

func (b *book) arrived(a arrival) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a.of.count--; a.of.count == 0 {
		delete(b.reading, a.key)
	}
}

// dropJournal forgets a journal. Whoever waits for its calls has to look again. It is called with the lock held.
func (b *book) dropJournal(j *journal) {
	delete(b.journals, j.key)
	j.tell()
	if r := b.reading[j.key]; r != nil {
		r.drops++
	}
}

// op is a request to the book.
type op struct {
	key    queue.Key
	action action
	done   chan error // one answer for each enqueue

	ticket  uint64     // the turn in which it came
	waits   []scopeKey // while it waits
	waited  bool       // it did since it was brought
	missing []scopeKey // budgets that it could not be decided without
	reload  bool       // the journal in memory seems to be old: read it again
	// reloaded says that it was, for this reason.
	reloaded bool
	outcome  error // what is answered when the batch is stored
}

// action decides an op. It is called with the lock held.
type action interface {
	decide(t *turn, o *op) step
}

// step is what became of an op in a turn.
type step int

const (
	stepEnded    step = iota // op.outcome is the answer; if it wrote something, when that is stored
	stepWaits                // op.waits name the budgets that it waits for
	stepUnloaded             // the journal or op.missing have to be loaded
)

// do brings an op to its answer.
func (b *book) do(ctx context.Context, key queue.Key, a action) error {
	o := &op{key: key, action: a, done: make(chan error, 1)}
	for tries := 0; tries < opTries; tries++ {
		if err := b.load(ctx, o); err != nil {
			return err
		}
		b.enqueue(o)
		if err := b.answer(ctx, o); !errors.Is(err, errAgain) {
			return err
		}
		if o.waited {
			o.waited, tries = false, 0 // that went well, and may happen any number of times
		}
	}
	return fmt.Errorf("%w: other services write to the same journals all the time", ErrUnavailable)
}

// answer returns what became of an op that was enqueued. Afterwards the book has it no more.
func (b *book) answer(ctx context.Context, o *op) error {
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
	}
	if b.drop(o) {
		return errStopping
	}
	return <-o.done // it is being written
}

// drop takes an op back that is not decided yet.
func (b *book) drop(o *op) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if slices.Contains(b.waiting, o) {
		b.unwait(o)
		return true
	}
	n := len(b.queued)
	b.queued = slices.DeleteFunc(b.queued, func(other *op) bool { return other == o })
	return len(b.queued) < n
}

func (b *book) enqueue(o *op) {
	b.mu.Lock()
	if o.ticket == 0 {
		b.tickets++
		o.ticket = b.tickets
	}
	b.queued = append(b.queued, o)
	b.mu.Unlock()
	b.stir()
}

func (b *book) stir() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// run decides and writes until the context ends. What is being written then is still brought to its end.
func (b *book) run(ctx context.Context) {
	ticker := time.NewTicker(tidyEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			b.tidy(time.Now())
		case <-b.wake:
			for ctx.Err() == nil && b.turn(context.WithoutCancel(ctx)) {
			}
		}
	}
}

// turn decides what has come and writes it in one batch. It says whether there is more.
func (b *book) turn(ctx context.Context) (more bool) {
	b.mu.Lock()
	t := b.decide()
	b.mu.Unlock()
	var seqs []uint64
	err := t.err
	if err == nil && len(t.writes) > 0 {
		seqs, err = b.q.Batch(ctx, t.writes...)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == nil {
		t.stored(seqs)
	} else {
		t.failed(err)
	}
	return len(b.queued) > 0
}

// tidy drops what was not used for a while.
func (b *book) tidy(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, j := range b.journals {
		if now.Sub(j.used) <= journalIdle {
			continue
		}
		b.dropJournal(j)
		if budgets := j.reservedIn(); len(budgets) > 0 {
			b.left(key, budgets)
		}
	}
	for key, s := range b.scopes {
		if now.Sub(s.used) > budgetIdle && b.blocked[key] == 0 {
			delete(b.scopes, key)
		}
	}
}

// load reads what an op cannot be decided without.
func (b *book) load(ctx context.Context, o *op) error {
	if _, err := b.journal(ctx, o.key, o.reload); err != nil {
		return err
	}
	o.reload = false
	missing := o.missing
	o.missing = nil
	return b.loadScopes(ctx, missing)
}

// journal returns the journal of a task, read from the stream when it is not in memory or fresh is asked for. The
// journal is for the lock only.
func (b *book) journal(ctx context.Context, key queue.Key, fresh bool) (*journal, error) {
	if !fresh {
		b.mu.Lock()
		j := b.journals[key]
		b.mu.Unlock()
		if j != nil {
			return j, nil
		}
	}
	subject := queue.CallSubject(key)
	if fresh {
		b.flight.Forget(subject) // who began to read before may see what was there before
	}
	v, err, _ := b.flight.Do(subject, func() (any, error) { return b.fetch(ctx, key) })
	if err != nil {
		return nil, err
	}
	return v.(*journal), nil //nolint:forcetypeassert // made above
}

// fetch reads a journal into memory.
func (b *book) fetch(ctx context.Context, key queue.Key) (*journal, error) {
	for range opTries {
		a := b.expect(key)
		j, _, err := b.read(ctx, key, nil)
		if err == nil {
			j = b.install(j, a)
		}
		b.arrived(a)
		if err != nil || j != nil {
			return j, err
		}
	}
	return nil, fmt.Errorf("%w: the journal of %s changes all the time", ErrUnavailable, key)
}

// read reads a journal and what else is known of its task; the task itself may be known.
func (b *book) read(ctx context.Context, key queue.Key, known *task.Task) (*journal, []queue.Stored, error) {
	var stored []queue.Stored
	var done bool
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		stored, err = b.q.History(ctx, queue.CallSubject(key))
		return err
	})
	g.Go(func() (err error) {
		done, err = b.hasResult(ctx, key)
		return err
	})
	g.Go(func() (err error) {
		if known != nil {
			return nil
		}
		known, err = b.q.Task(ctx, key.Namespace, key.Agent, key.TaskID)
		if errors.Is(err, queue.ErrNoTask) {
			return nil
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return nil, nil, unavailable(err)
	}
	if key.RunUID == ProbeRun {
		known = probeTask(key)
	}
	j, err := newRead(key, stored, known, done)
	return j, stored, err
}

func newRead(key queue.Key, stored []queue.Stored, known *task.Task, done bool) (*journal, error) {
	j, err := fold(key, stored)
	if err != nil {
		return nil, task.Errorf(task.CodeInternal, "the task's journal cannot be read: %v", err)
	}
	j.done = done
	if known != nil && known.Run.UID == key.RunUID {
		j.task = lean(known)
	}
	return j, nil
}

// lean is a task without what only its holder needs.
func lean(t *task.Task) *task.Task {
	l := *t
	l.Prompt, l.OutputSchema, l.Capabilities = task.Text{}, nil, nil
	return &l
}

func (b *book) hasResult(ctx context.Context, key queue.Key) (bool, error) {
	_, err := b.q.Result(ctx, key)
	if errors.Is(err, queue.ErrNoResult) {
		return false, nil
	}
	return err == nil, err
}

// install puts a journal that was read into memory, unless what is there is as new or newer: one that is just being
// written is, whatever was read beside that. It returns the one that is in memory; nil when there is nothing to compare
// with, because one was dropped meanwhile: what was read may be older than that. Ops of the task that wait are decided
// again when there is news for them.
func (b *book) install(j *journal, a arrival) *journal {
	b.mu.Lock()
	defer b.mu.Unlock()
	j.done = j.done || a.of.done
	old := b.journals[j.key]
	if old == nil && a.drops != a.of.drops {
		return nil
	}
	if old != nil && (old.writing || old.seq >= j.seq && (j.seq > 0 || old.seq == 0 && old.epoch == 0)) {
		if j.done && !old.done {
			old.done = true
			b.requeueWaiting(j.key)
		}
		if old.task == nil {
			old.task = j.task
		}
		old.used = time.Now()
		return old
	}
	if old != nil {
		old.tell()
	}
	j.used = time.Now()
	b.journals[j.key] = j
	b.requeueWaiting(j.key)
	return j
}

// loadScopes reads budgets that are not in memory.
func (b *book) loadScopes(ctx context.Context, keys []scopeKey) error {
	if len(keys) == 0 {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, key := range keys {
		g.Go(func() error {
			_, err, _ := b.flight.Do(queue.BudgetSubject(key.namespace, key.scope), func() (any, error) {
				return nil, b.loadScope(ctx, key)
			})
			return err
		})
	}
	return g.Wait()
}

func (b *book) loadScope(ctx context.Context, key scopeKey) error {
	s, err := b.readScope(ctx, key)
	if err != nil {
		return err
	}
	b.mu.Lock()
	_, there := b.scopes[key]
	if !there {
		b.scopes[key] = s
		b.passWaiting(key)
	}
	b.mu.Unlock()
	if !there {
		b.loaded(s)
	}
	return nil
}

func (b *book) readScope(ctx context.Context, key scopeKey) (*scope, error) {
	last, ok, err := b.q.Last(ctx, queue.BudgetSubject(key.namespace, key.scope))
	if err != nil {
		return nil, unavailable(err)
	}
	s := newScope(key)
	if !ok {
		return s, nil
	}
	stored, err := DecodeBudget(last.Body)
	if err != nil {
		b.log.Error("budget cannot be read, no call is made on it", "namespace", key.namespace, "scope", key.scope, "error", err)
		return nil, fmt.Errorf("%w: budget %s of namespace %s: %w", ErrUnavailable, key.scope, key.namespace, err)
	}
	s.state, s.seq = stored.State, last.Seq
	return s, nil
}
