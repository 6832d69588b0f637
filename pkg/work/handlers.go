package work

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// takeOverKey names a take-over, however often it is asked for.
type takeOverKey struct {
	caller
	task, id string
}

// takeOverRun is a take-over on its way; several requests may wait for it.
type takeOverRun struct {
	until atomic.Int64 // when the client gives it up, unless it asks again: nanoseconds since 1970
	ended chan struct{}
	reply *takeOverReply // after ended
	err   error
}

// takeOver joins requests for the same take-over: one that is asked for again while it is under way is not worked on
// twice, and is not too late however long it takes.
func (s *Service) takeOver(ctx context.Context, c caller, r takeOverRequest) (*takeOverReply, error) {
	key := takeOverKey{c, r.Task, r.ID}
	s.mu.Lock()
	run, again := s.takeOvers[key]
	if !again {
		run = &takeOverRun{ended: make(chan struct{})}
		s.takeOvers[key] = run
	}
	run.until.Store(time.Now().Add(time.Duration(r.Patience) * time.Millisecond).UnixNano())
	s.mu.Unlock()
	if again {
		select {
		case <-run.ended:
			return run.reply, run.err
		case <-ctx.Done():
			return nil, errStopping
		}
	}
	run.reply, run.err = s.doTakeOver(ctx, c, r, &run.until)
	s.mu.Lock()
	delete(s.takeOvers, key)
	s.mu.Unlock()
	close(run.ended)
	return run.reply, run.err
}

func (s *Service) doTakeOver(ctx context.Context, c caller, r takeOverRequest, until *atomic.Int64) (*takeOverReply, error) {
	if r.ID == "" {
		return nil, refusef("a take-over without an id")
	}
	t, stored, err := s.foundInTurn(ctx, c, r, until)
	if err != nil {
		return nil, err
	}
	key := queue.KeyOf(t)
	a := &takingOver{id: r.ID, pod: r.Pod, process: r.Process, task: t, retries: s.cfg.Retries(c.namespace, c.agent), until: until, quiet: r.quiet()}
	err = s.book.do(ctx, key, a)
	if _, refused := errors.AsType[*task.Error](err); refused && a.record == nil {
		// Nothing was written, so nothing has shown that the journal is as the stream has it.
		if _, err := s.book.journal(ctx, key, true); err != nil {
			return nil, err
		}
		err = s.book.do(ctx, key, a)
	}
	if err != nil {
		if a.record != nil {
			s.unknown(ctx, key, len(a.record.Entries)) // otherwise the holder counts what it finds in its journal
		}
		return nil, err
	}
	p, err := s.replay(ctx, key, a, stored)
	if err != nil {
		return nil, err
	}
	return &takeOverReply{Task: t, TakenAt: a.takenAt, TakeOvers: a.takeOvers, Epoch: a.epoch, page: p}, nil
}

// foundInTurn is found when it is its turn, unless the client has given the take-over up by then.
func (s *Service) foundInTurn(ctx context.Context, c caller, r takeOverRequest, until *atomic.Int64) (*task.Task, []queue.Stored, error) {
	select {
	case s.taking <- struct{}{}:
		defer func() { <-s.taking }()
	case <-ctx.Done():
		return nil, nil, errStopping
	}
	if time.Now().UnixNano() > until.Load() {
		return nil, nil, errLate
	}
	return s.found(ctx, c, r)
}

// found reads what a take-over is decided on, in one round trip: the task as the queue holds it, what this process knows
// of its journal, and whether it has a result. A journal that another service has written to since is found to be old
// when the take-over is written.
func (s *Service) found(ctx context.Context, c caller, r takeOverRequest) (*task.Task, []queue.Stored, error) {
	asked := c.key(holder{Run: r.Run, Task: r.Task})
	arrival := s.book.expect(asked)
	defer func() { s.book.arrived(arrival) }()
	var done bool
	var stored []queue.Stored
	var g errgroup.Group
	if asked.RunUID != "" {
		g.Go(func() (err error) {
			done, err = s.book.hasResult(ctx, asked)
			return err
		})
		g.Go(func() (err error) {
			stored, err = s.q.Known(ctx, queue.CallSubject(asked))
			return err
		})
	}
	t, err := s.q.Task(ctx, c.namespace, c.agent, r.Task)
	unread := g.Wait()
	switch {
	case errors.Is(err, queue.ErrNoTask):
		return nil, nil, ErrGone
	case errors.Is(err, queue.ErrUnavailable):
		return nil, nil, unavailable(err)
	case err != nil:
		return nil, nil, task.Errorf(task.CodeBadTask, "%v", err)
	}
	var j *journal
	if key := queue.KeyOf(t); key != asked {
		s.book.arrived(arrival)
		arrival = s.book.expect(key)
		j, stored, err = s.book.read(ctx, key, t)
	} else if unread != nil {
		err = unavailable(unread)
	} else {
		j, err = newRead(key, stored, t, done)
	}
	if err != nil {
		return nil, nil, err
	}
	s.book.install(j, arrival) // if it is too old for that, it is read again when the take-over is decided
	return t, stored, nil
}

// replay is the first page of the journal that a take-over returns, its own record included. What was read before is
// good when nobody has appended meanwhile.
func (s *Service) replay(ctx context.Context, key queue.Key, a *takingOver, stored []queue.Stored) (page, error) {
	var last uint64
	if len(stored) > 0 {
		last = stored[len(stored)-1].Seq
	}
	if a.again || a.follows != last {
		return s.page(ctx, key, 0)
	}
	p, err := pageOf(stored)
	if err != nil {
		return page{}, unavailable(err)
	}
	if p.Next == 0 {
		p.Entries = append(p.Entries, a.record.entries()...)
	}
	return p, nil
}

// page reads the entries from a sequence on.
func (s *Service) page(ctx context.Context, key queue.Key, from uint64) (page, error) {
	stored, err := s.q.History(ctx, queue.CallSubject(key))
	if err != nil {
		return page{}, unavailable(err)
	}
	i := slices.IndexFunc(stored, func(s queue.Stored) bool { return s.Seq >= from })
	if i < 0 {
		return page{}, nil
	}
	p, err := pageOf(stored[i:])
	if err != nil {
		return page{}, unavailable(err)
	}
	return p, nil
}

func (s *Service) journal(ctx context.Context, c caller, r journalRequest) (*page, error) {
	key := c.key(r.holder)
	if err := s.holds(ctx, key, r.Epoch); err != nil {
		return nil, err
	}
	p, err := s.page(ctx, key, r.From)
	return &p, err
}

// holds says whether a task is held in an epoch.
func (s *Service) holds(ctx context.Context, key queue.Key, epoch int) error {
	_, err := inspect(ctx, s.book, key, epoch, func(*journal) struct{} { return struct{}{} })
	return err
}

// inspect reads something off the journal of a task that the caller holds.
func inspect[T any](ctx context.Context, b *book, key queue.Key, epoch int, f func(*journal) T) (T, error) {
	var none T
	for fresh := false; ; fresh = true {
		j, err := b.journal(ctx, key, fresh)
		if err != nil {
			return none, err
		}
		b.mu.Lock()
		held, v := j.epoch, f(j)
		j.used = time.Now()
		b.mu.Unlock()
		switch {
		case held == epoch && epoch > 0:
			return v, nil
		case held < epoch && !fresh:
			continue // another service took it over
		case held == 0:
			return none, ErrGone
		default:
			return none, ErrFenced
		}
	}
}

// running is an append on its way; several requests may wait for it.
type running struct {
	decided chan struct{}
	err     error // after decided
	action  *appending
}

func (s *Service) append(ctx context.Context, c caller, r appendRequest) (*appendReply, error) {
	return s.appendFor(ctx, nil, c, r)
}

// appendFor answers when the append is decided, it is time to ask again, or whoever asks has gone.
func (s *Service) appendFor(ctx context.Context, gone <-chan struct{}, c caller, r appendRequest) (*appendReply, error) {
	for i, e := range r.Entries {
		if err := e.check(); err != nil {
			return nil, refusef("entry %d: %v", i, err)
		}
	}
	if r.N < 1 || r.ID == "" || len(r.Entries) == 0 {
		return nil, refusef("an append needs a number, an id and entries")
	}
	run := s.join(ctx, appendKey{c.key(r.holder), r.Epoch, r.N, r.ID}, r)
	timer := time.NewTimer(min(time.Duration(r.Wait)*time.Millisecond, pollLimit))
	defer timer.Stop()
	select {
	case <-run.decided:
		if run.err != nil && run.action.have > 0 {
			return nil, &partError{run.err}
		}
		return &appendReply{}, run.err
	case <-timer.C:
		return &appendReply{Waiting: true, Blocked: s.book.blocks(run.action)}, nil
	case <-gone:
		return nil, errStopping
	case <-ctx.Done():
		return nil, errStopping
	}
}

// join starts an append, or finds it when it was asked for before.
func (s *Service) join(ctx context.Context, id appendKey, r appendRequest) *running {
	s.mu.Lock()
	run, again := s.appends[id]
	if !again {
		run = &running{decided: make(chan struct{}), action: &appending{req: r, patience: newPatience(r, time.Now())}}
		s.appends[id] = run
	}
	s.mu.Unlock()
	if again {
		s.book.renew(run.action, r)
		return run
	}
	s.group.Go(func() {
		run.err = s.decideAppend(ctx, id.key, run.action)
		s.mu.Lock()
		delete(s.appends, id)
		s.mu.Unlock()
		close(run.decided)
	})
	return run
}

func (s *Service) decideAppend(ctx context.Context, key queue.Key, a *appending) error {
	if slices.ContainsFunc(a.req.Entries, func(e Entry) bool { return e.Intent != nil }) {
		budgets, err := s.budgets(ctx, key)
		if err != nil {
			return err
		}
		a.budgets = budgets
	}
	err := s.book.do(ctx, key, a)
	for errors.Is(err, errCheck) {
		if err := s.book.refreshScopes(ctx, a.waitsFor); err != nil {
			return err
		}
		a.checked = true
		err = s.book.do(ctx, key, a)
	}
	return err
}

// budgets are those that a call of a task is reserved in: the task's own and the rolling ones of its agent and team. Of
// two limits on one scope the lower one counts.
func (s *Service) budgets(ctx context.Context, key queue.Key) ([]task.Budget, error) {
	j, err := s.book.journal(ctx, key, false)
	if err != nil {
		return nil, err
	}
	s.book.mu.Lock()
	t := j.task
	s.book.mu.Unlock()
	if t == nil {
		return nil, nil // refused when it is decided
	}
	var budgets []task.Budget
	for _, b := range slices.Concat(t.Budgets, s.cfg.Daily(t.Namespace, t.Agent, t.Run.Team)) {
		i := slices.IndexFunc(budgets, func(other task.Budget) bool { return other.Scope == b.Scope })
		switch {
		case i < 0:
			budgets = append(budgets, b)
		case b.Limit < budgets[i].Limit:
			budgets[i] = b
		}
	}
	return budgets, nil
}

func (s *Service) withdraw(ctx context.Context, c caller, r withdrawRequest) (*withdrawReply, error) {
	w := &withdrawing{req: r}
	if err := s.book.do(ctx, c.key(r.holder), w); err != nil {
		return nil, err
	}
	return &withdrawReply{Have: w.have}, nil
}

func (s *Service) release(ctx context.Context, c caller, r releaseRequest) (*struct{}, error) {
	return &struct{}{}, s.book.do(ctx, c.key(r.holder), releasing{epoch: r.Epoch})
}

func (s *Service) delegate(ctx context.Context, c caller, r delegateRequest) (*delegateReply, error) {
	if r.Call == "" {
		return nil, refusef("delegated work needs the id of the call that it is for")
	}
	prompt, err := s.prompt(ctx, r)
	if err != nil {
		return nil, err
	}
	a := &delegating{epoch: r.Epoch, wanted: delegation{Call: r.Call, Role: r.Role, Prompt: prompt}}
	if err := s.book.do(ctx, c.key(r.holder), a); err != nil {
		return nil, err
	}
	child := a.made.task(a.parent)
	if err := s.hand(ctx, a, child); err != nil {
		return nil, err
	}
	return &delegateReply{Child: child}, nil
}

// prompt is the prompt of delegated work as its task carries it.
func (s *Service) prompt(ctx context.Context, r delegateRequest) (task.Text, error) {
	if r.Prompt.Ref != nil {
		return r.Prompt, ownPayload(r.holder, *r.Prompt.Ref)
	}
	text, err := s.q.PutText(ctx, r.Run, r.Prompt.Inline)
	if err != nil {
		return task.Text{}, unavailable(err)
	}
	return text, nil
}

// hand records delegated work for the run and queues it. Repeated it does no harm; work that is done is not queued
// again. When the parent has ended meanwhile, its run may have ended too, so that nobody else would withdraw the work.
func (s *Service) hand(ctx context.Context, a *delegating, child *task.Task) error {
	err := s.q.PublishDelegated(ctx, child, &task.Delegated{
		Version: task.Version, Parent: a.parent.ID, Child: child.ID, Role: child.Role, Agent: child.Agent, At: a.made.At,
	})
	if err != nil {
		return unavailable(err)
	}
	done, err := s.book.hasResult(ctx, queue.KeyOf(child))
	if err == nil && !done {
		err = s.q.Submit(ctx, child)
	}
	if err == nil {
		done, err = s.book.hasResult(ctx, queue.KeyOf(a.parent))
	}
	if err == nil && done {
		_, err = s.q.PublishResult(ctx, queue.KeyOf(child), &task.Result{
			Version: task.Version, TaskID: child.ID, Status: task.Cancelled, Completed: s.cfg.Now().UTC(),
			Error: task.Errorf(task.CodeCancelled, "the task that delegated this one has ended"),
		})
	}
	switch {
	case err != nil:
		return unavailable(err)
	case done:
		return ErrDone
	default:
		return nil
	}
}

// ownPayload refuses payloads of other runs.
func ownPayload(h holder, ref task.Ref) error {
	if h.Run == "" || !strings.HasPrefix(ref.Key, h.Run+"/") {
		return refusef("%q is not a payload of this run", ref.Key)
	}
	return nil
}

func (s *Service) await(ctx context.Context, c caller, r awaitRequest) (*awaitReply, error) {
	child, err := inspect(ctx, s.book, c.key(r.holder), r.Epoch, func(j *journal) *queue.Key {
		made := j.byID[r.Child]
		if made == nil || j.task == nil {
			return nil
		}
		key := made.key(j.task)
		return &key
	})
	if err != nil {
		return nil, err
	}
	if child == nil {
		return nil, refusef("%q is not a task that this task has handed over", r.Child)
	}
	result, err := s.results.wait(ctx, s.q, *child, min(time.Duration(r.Wait)*time.Millisecond, pollLimit))
	if err != nil {
		return nil, unavailable(err)
	}
	return &awaitReply{Result: result}, nil
}

func (s *Service) put(ctx context.Context, c caller, r putRequest, body []byte) (*putReply, error) {
	if err := s.holds(ctx, c.key(r.holder), r.Epoch); err != nil {
		return nil, err
	}
	if len(body) > chunkLimit {
		return nil, refusef("a chunk of %d bytes, at most %d are taken", len(body), chunkLimit)
	}
	ref, err := s.uploads.take(ctx, c, r, body)
	if err != nil {
		return nil, err
	}
	return &putReply{Instance: s.instance, Ref: ref}, nil
}

func (s *Service) get(ctx context.Context, c caller, r getRequest) (chunk, error) {
	if err := s.holds(ctx, c.key(r.holder), r.Epoch); err != nil {
		return nil, err
	}
	if err := ownPayload(r.holder, r.Ref); err != nil {
		return nil, err
	}
	body, err := s.q.ReadPayload(ctx, r.Ref, r.Offset, min(r.Length, chunkLimit))
	switch {
	case errors.Is(err, queue.ErrUnavailable):
		return nil, unavailable(err)
	case err != nil:
		return nil, refusef("%v", err)
	default:
		return body, nil
	}
}
