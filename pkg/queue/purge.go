package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"arkonis.dev/ark/pkg/task"
)

// PurgeRun removes everything that the streams hold of runs that nobody needs any more: results, journals, budgets and
// payloads.
//
// Tasks that are still queued are withdrawn, not deleted: a consumer must not lose messages that it may have given
// out. They get a Cancelled result, and whoever pulls them acknowledges them. Until that has happened their run keeps
// its records, so that no task is worked on again; left lists these runs, and after an error those that may hold something
// as well. Call it again later with them.
func (q *Queue) PurgeRun(ctx context.Context, runUIDs ...string) (left []string, err error) {
	if slices.Contains(runUIDs, "") {
		return runUIDs, errors.New("remove runs: a run has an empty uid")
	}
	queued, err := q.queuedTasks(ctx, runUIDs)
	if err != nil {
		return runUIDs, fmt.Errorf("remove runs: look for queued tasks: %w", err)
	}
	var done, owners []string
	var errs []error
	for _, uid := range runUIDs { // what still costs something comes first
		if keys := queued[uid]; len(keys) > 0 {
			left = append(left, uid)
			errs = append(errs, q.withdraw(ctx, keys))
			continue
		}
		done, owners = append(done, uid), append(owners, Token(uid))
	}
	if _, err := q.log.forget(ctx, owners); err != nil {
		return runUIDs, fmt.Errorf("remove runs: %w", errors.Join(append(errs, err)...))
	}
	for _, uid := range done {
		if err := q.purge(ctx, uid); err != nil {
			left = append(left, uid)
			errs = append(errs, fmt.Errorf("run %s: %w", uid, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return left, fmt.Errorf("remove runs: %w", err)
	}
	return left, nil
}

// queuedTasks finds the tasks of some runs that are not acknowledged, by their run.
func (q *Queue) queuedTasks(ctx context.Context, runUIDs []string) (map[string][]Key, error) {
	wanted := make(map[string]bool, len(runUIDs))
	for _, uid := range runUIDs {
		wanted[uid] = true
	}
	keys, err := q.queuedFor(ctx, "ark.task.>")
	if err != nil {
		return nil, err
	}
	found := map[string][]Key{}
	for _, key := range keys {
		if wanted[key.RunUID] {
			found[key.RunUID] = append(found[key.RunUID], key)
		}
	}
	return found, nil
}

func (q *Queue) withdraw(ctx context.Context, keys []Key) error {
	const reason = "the run was removed"
	var errs []error
	for _, key := range keys {
		_, err := q.PublishResult(ctx, key, &task.Result{
			Version:   task.Version,
			TaskID:    key.TaskID,
			Status:    task.Cancelled,
			Error:     task.Errorf(task.CodeCancelled, reason),
			Completed: time.Now(),
		})
		errs = append(errs, err, q.HintCancel(key, reason))
	}
	return errors.Join(errs...)
}

// purge removes results last: as long as they are there, a task that comes again is known to be done.
func (q *Queue) purge(ctx context.Context, uid string) error {
	for _, p := range []struct {
		stream  jetstream.Stream
		subject string
	}{
		{q.payloads, payloadPrefix(uid) + ">"},
		{q.results, of("begun", uid)},
		{q.results, of("delegated", uid)},
		{q.results, of("result", uid)},
	} {
		if err := p.stream.Purge(ctx, jetstream.WithPurgeSubject(p.subject)); err != nil {
			return fmt.Errorf("remove %s: %w", p.subject, err)
		}
	}
	return nil
}

// ForgetAgent removes what outlives the runs of an agent that is gone for good: its budget, what it remembers, and its
// probes. It says whether there was anything; calls that are settled late may bring the budget back.
func (q *Queue) ForgetAgent(ctx context.Context, namespace, agent string) (found bool, err error) {
	if found, err = q.log.forget(ctx, []string{ownerName(ownerAgent, namespace, agent)}); err != nil {
		return found, fmt.Errorf("forget agent %s/%s: %w", namespace, agent, err)
	}
	key := Token(namespace) + "." + Token(agent)
	for bucket, keys := range map[string]string{BucketMemory: key + ".>", BucketProbes: key} {
		n, err := q.purgeKeys(ctx, bucket, keys)
		if err != nil {
			return found, fmt.Errorf("forget agent %s/%s: %w", namespace, agent, err)
		}
		found = found || n
	}
	return found, nil
}

// ForgetTeam removes the budget of a team that is gone for good. It says whether there was one; calls that are settled late
// may bring it back.
func (q *Queue) ForgetTeam(ctx context.Context, namespace, team string) (found bool, err error) {
	found, err = q.log.forget(ctx, []string{ownerName(ownerTeam, namespace, team)})
	if err != nil {
		return found, fmt.Errorf("forget team %s/%s: %w", namespace, team, err)
	}
	return found, nil
}

// EachTeam calls f once for every team that has used a budget.
func (q *Queue) EachTeam(ctx context.Context, f func(namespace, team string)) error {
	return q.eachOwner(ctx, ownerTeam, f)
}

func (q *Queue) eachOwner(ctx context.Context, kind string, f func(namespace, name string)) error {
	owners, err := q.log.owners(ctx)
	if err != nil {
		return fmt.Errorf("owners of budgets: %w", err)
	}
	for _, owner := range owners {
		if of, namespace, name, ok := parseOwner(owner); ok && of == kind {
			f(namespace, name)
		}
	}
	return nil
}
