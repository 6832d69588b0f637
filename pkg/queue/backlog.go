package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"arkonis.dev/ark/pkg/task"
)

// Backlog is what an agent has to do.
type Backlog struct {
	Waiting int64 // tasks that no process was given
	Held    int64 // tasks that a process was given and has not acknowledged
}

// Backlog returns what an agent has to do. An agent that was never given a task has nothing to do. Tasks that were queued
// while the agent was removed, by a process that had not heard of it, get their consumer.
func (q *Queue) Backlog(ctx context.Context, namespace, agent string) (Backlog, error) {
	ctx, cancel := q.bounded(ctx)
	defer cancel()
	of := q.taskConsumer(namespace, agent, DefaultAckWait)
	c, err := q.js.Consumer(ctx, StreamTasks, of.Durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		_, none := q.tasks.GetMsg(ctx, 1, jetstream.WithGetMsgSubject(of.FilterSubject))
		if errors.Is(none, jetstream.ErrMsgNotFound) {
			return Backlog{}, nil
		}
		c, err = q.js.CreateOrUpdateConsumer(ctx, StreamTasks, of)
	}
	if err != nil {
		return Backlog{}, fmt.Errorf("tasks of agent %s/%s: %w: %w", namespace, agent, ErrUnavailable, err)
	}
	info := c.CachedInfo()
	return Backlog{Waiting: int64(info.NumPending), Held: int64(info.NumAckPending)}, nil
}

// WatchBacklog calls f whenever a task of an agent is queued or a result of one is published, one at a time, until stop.
// It is a hint: f must not block, and a call may be missed.
func (q *Queue) WatchBacklog(f func(namespace, agent string)) (stop func(), err error) {
	heard := func(m *nats.Msg) {
		// The result of a child run is no agent's.
		if namespace, agent, ok := agentOf(m.Subject); ok && agent != "" {
			f(namespace, agent)
		}
	}
	stopTasks, err := q.watch("ark.task.*.*.*", heard)
	if err != nil {
		return nil, err
	}
	stopResults, err := q.watch("ark.result.*.*.*.*", heard)
	if err != nil {
		stopTasks()
		return nil, err
	}
	return func() {
		stopTasks()
		stopResults()
	}, nil
}

// agentOf reads the agent from a subject ark.<kind>.<ns>.<agent>[.<more>].
func agentOf(subject string) (namespace, agent string, ok bool) {
	tokens := strings.SplitN(subject, ".", 5)
	if len(tokens) < 4 {
		return "", "", false
	}
	namespace, err := Untoken(tokens[2])
	if err != nil {
		return "", "", false
	}
	agent, err = Untoken(tokens[3])
	return namespace, agent, err == nil
}

// EachAgent calls f once for every agent that anything is stored of: tasks that are, or were, queued for it, what it
// remembers and whether its answers make sense, and its budget.
func (q *Queue) EachAgent(ctx context.Context, f func(namespace, agent string)) error {
	seen := map[[2]string]bool{}
	note := func(subject string) {
		namespace, agent, ok := agentOf(subject)
		if id := [2]string{namespace, agent}; ok && !seen[id] {
			seen[id] = true
			f(namespace, agent)
		}
	}
	all := q.tasks.ListConsumers(ctx)
	for c := range all.Info() {
		note(c.Config.FilterSubject)
	}
	info, err := q.tasks.Info(ctx, jetstream.WithSubjectFilter("ark.task.>"))
	if err = errors.Join(all.Err(), err); err != nil {
		return fmt.Errorf("agents with tasks: %w: %w", ErrUnavailable, err)
	}
	for subject := range info.State.Subjects {
		note(subject)
	}
	for _, name := range []string{BucketMemory, BucketProbes} {
		if err := q.eachKey(ctx, name, note); err != nil {
			return err
		}
	}
	return q.eachOwner(ctx, ownerAgent, func(namespace, agent string) {
		if id := [2]string{namespace, agent}; !seen[id] {
			seen[id] = true
			f(namespace, agent)
		}
	})
}

// RemoveAgent ends all tasks of an agent that is gone for good and takes them out of the queue. Each gets a failed result
// with the cause, unless it has one; n counts them. A task that is queued meanwhile may stay: call it again when one is.
// Nobody may take tasks of the agent any more. Its budget, its memory and its probes are ForgetAgent's.
func (q *Queue) RemoveAgent(ctx context.Context, namespace, agent string, cause *task.Error) (n int, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("remove agent %s/%s from the queue: %w", namespace, agent, err)
		}
	}()
	c := q.taskConsumer(namespace, agent, DefaultAckWait)
	keys, err := q.queuedFor(ctx, c.FilterSubject)
	if err != nil {
		return 0, err
	}
	for _, key := range keys {
		won, err := q.PublishResult(ctx, key, &task.Result{
			Version: task.Version, TaskID: key.TaskID, Status: task.Failed, Error: cause, Completed: time.Now(),
		})
		if err != nil {
			return n, err
		}
		if won {
			n++
		}
	}
	// Whoever submits from now on makes the consumer anew.
	q.mu.Lock()
	delete(q.seen, c.Durable)
	q.mu.Unlock()
	if err := q.tasks.DeleteConsumer(ctx, c.Durable); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return n, fmt.Errorf("%w: consumer %s: %w", ErrUnavailable, c.Durable, err)
	}
	for _, key := range keys {
		if err := q.tasks.Purge(ctx, jetstream.WithPurgeSubject(taskSubject(namespace, agent, key.TaskID))); err != nil {
			return n, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
	return n, nil
}

// refuseBatch is how many tasks RefuseTasks takes at once.
const refuseBatch = 64

// RefuseTasks ends the tasks of an agent that no process holds and takes them out of the queue: each gets a failed result
// with the cause, unless it has one; n counts them. What a process holds stays its own. A task that is queued meanwhile
// may stay: call it again when one is.
func (q *Queue) RefuseTasks(ctx context.Context, namespace, agent string, cause *task.Error) (n int, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("refuse the tasks of agent %s/%s: %w", namespace, agent, err)
		}
	}()
	c, err := q.js.Consumer(ctx, StreamTasks, q.taskConsumer(namespace, agent, DefaultAckWait).Durable)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	for {
		batch, err := c.FetchNoWait(refuseBatch)
		if err != nil {
			return n, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		taken := 0
		var errs []error
		for m := range batch.Messages() { // all of them: what is taken and not answered comes again only after a while
			taken++
			won, err := q.refuse(ctx, m, cause)
			if won {
				n++
			}
			errs = append(errs, err)
		}
		if err := errors.Join(append(errs, batch.Error())...); err != nil || taken == 0 {
			return n, err
		}
	}
}

// refuse ends one task. One of which the message does not say what it is stays for a process of the agent, which puts it away.
func (q *Queue) refuse(ctx context.Context, m jetstream.Msg, cause *task.Error) (won bool, err error) {
	key, ok := unreadKey(&nats.Msg{Subject: m.Subject(), Header: m.Headers()})
	if !ok {
		return false, nil
	}
	won, err = q.PublishResult(ctx, key, &task.Result{
		Version: task.Version, TaskID: key.TaskID, Status: task.Failed, Error: cause, Completed: time.Now(),
	})
	if err != nil {
		return false, errors.Join(err, m.Nak())
	}
	if err := m.DoubleAck(ctx); err != nil { // it comes again, and has its result
		return won, fmt.Errorf("acknowledge %s: %w: %w", key, ErrUnavailable, err)
	}
	return won, nil
}

// queuedFor finds the tasks that a pattern of subjects holds.
func (q *Queue) queuedFor(ctx context.Context, subject string) (keys []Key, err error) {
	for seq := uint64(1); ; seq++ {
		m, err := q.tasks.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return keys, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		seq = m.Sequence
		if key, ok := unreadKey(&nats.Msg{Subject: m.Subject, Header: m.Header}); ok {
			keys = append(keys, key)
		}
	}
}
