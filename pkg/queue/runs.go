package queue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Held is what the streams say of a run.
type Held struct {
	Namespace string // "" where nothing says it
	// Removed says that PurgeRun has removed the run, whosever it was: its books are there, but none of the tasks and
	// results that they are of. A call that is settled late brings them back.
	Removed bool
}

// Runs lists the uids of all runs that the streams hold anything of. What somebody stores meanwhile may be missing.
func (q *Queue) Runs(ctx context.Context) (map[string]Held, error) {
	found := map[string]Held{}
	add := func(uid, namespace string) {
		if found[uid].Namespace == "" {
			found[uid] = Held{Namespace: namespace}
		}
	}
	books, err := q.log.runs(ctx) // before the tasks and the results, without which there are none
	if err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	for _, uid := range books {
		found[uid] = Held{Removed: true}
	}
	for seq := uint64(1); ; seq++ {
		m, err := q.tasks.GetMsg(ctx, seq, jetstream.WithGetMsgSubject("ark.task.>"))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("list runs: %w: %w", ErrUnavailable, err)
		}
		seq = m.Sequence
		if key, ok := unreadKey(&nats.Msg{Subject: m.Subject, Header: m.Header}); ok {
			add(key.RunUID, key.Namespace)
		}
	}
	for _, kind := range []string{"result", "delegated", "begun"} {
		err := eachSubject(ctx, q.results, of(kind, ""), func(subject string) {
			if _, key, err := parseKey(subject); err == nil {
				add(key.RunUID, key.Namespace)
			}
		})
		if err != nil {
			return nil, fmt.Errorf("list runs: %w", err)
		}
	}
	err = eachSubject(ctx, q.payloads, "ark.payload.*.m.*", func(subject string) {
		uid, err := Untoken(strings.Split(subject, ".")[2])
		if _, known := found[uid]; err == nil && !known {
			add(uid, "")
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	return found, nil
}

func eachSubject(ctx context.Context, s jetstream.Stream, filter string, f func(subject string)) error {
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(filter))
	if err != nil {
		return fmt.Errorf("%w: subjects %s: %w", ErrUnavailable, filter, err)
	}
	for subject := range info.State.Subjects {
		f(subject)
	}
	return nil
}

// runs lists the uids of the runs that the ledger holds anything of.
func (l *ledger) runs(ctx context.Context) ([]string, error) {
	owners, err := l.owners(ctx)
	if err != nil {
		return nil, err
	}
	var uids []string
	for _, owner := range owners {
		if uid, err := Untoken(owner); err == nil {
			uids = append(uids, uid)
		}
	}
	return uids, nil
}

// owners lists all owners that the ledger holds anything of.
func (l *ledger) owners(ctx context.Context) ([]string, error) {
	unlock, err := l.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := l.resume(ctx); err != nil {
		return nil, err
	}
	if err := l.catchUp(ctx); err != nil {
		return nil, err
	}
	return slices.Collect(maps.Keys(l.index.runs)), nil
}
