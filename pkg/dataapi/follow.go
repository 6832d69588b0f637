package dataapi

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"arkonis.dev/ark/pkg/apis/data"
	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/runner"
)

// maxUnread bounds what is held for a client that reads slowly. Beyond it pieces of answers are left out: the whole
// answers follow from the journals.
const maxUnread = 1024

// tick wakes an idle follower, so that a client that has gone without a word is noticed.
const tick = 15 * time.Second

// feed is what happens in a run, as it happens.
type feed struct {
	wake   chan struct{}
	cancel context.CancelFunc
	group  sync.WaitGroup
	stop   []func()

	mu     sync.Mutex
	news   []news
	missed bool
	failed error
	ended  *v1alpha1.ArkRun
}

// news is one thing that happened: exactly one field is set.
type news struct {
	record *queue.Record
	task   string     // something was written to the journal of this task
	chunk  *chunkNews // a piece of an answer
}

type chunkNews struct {
	key queue.Key
	queue.Chunk
	at time.Time
}

// openFeed returns when nothing that happens from now on is missed. Whoever opens a feed closes it.
func (s *Server) openFeed(ctx context.Context, run *v1alpha1.ArkRun) (*feed, error) {
	ctx, cancel := context.WithCancel(ctx)
	f := &feed{wake: make(chan struct{}, 1), cancel: cancel}
	uid := string(run.UID)
	chunks, err := s.cfg.Queue.WatchChunks(uid, func(k queue.Key, c queue.Chunk) {
		f.put(news{chunk: &chunkNews{k, c, time.Now()}})
	})
	if err != nil {
		f.close()
		return nil, err
	}
	f.stop = append(f.stop, chunks)
	progress, err := s.cfg.Queue.WatchProgress(uid, func(k queue.Key, _ queue.Progress) { f.put(news{task: k.TaskID}) })
	if err != nil {
		f.close()
		return nil, err
	}
	f.stop = append(f.stop, progress)
	f.group.Go(func() {
		err := s.cfg.Queue.Results(ctx, uid, func(r queue.Record) error {
			f.put(news{record: &r})
			return nil
		}, nil)
		f.fail(ctx, err)
	})
	f.group.Go(func() {
		end, err := s.cfg.Runs.Ended(ctx, run)
		if err != nil {
			f.fail(ctx, err)
			return
		}
		f.mu.Lock()
		f.ended = end
		f.mu.Unlock()
		f.signal()
	})
	return f, nil
}

func (f *feed) put(n news) {
	f.mu.Lock()
	if n.chunk != nil && len(f.news) >= maxUnread {
		f.missed = true
	} else {
		f.news = append(f.news, n)
	}
	f.mu.Unlock()
	f.signal()
}

func (f *feed) fail(ctx context.Context, err error) {
	if err == nil || ctx.Err() != nil {
		return
	}
	f.mu.Lock()
	f.failed = errors.Join(f.failed, err)
	f.mu.Unlock()
	f.signal()
}

func (f *feed) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *feed) take() (all []news, missed bool, ended *v1alpha1.ArkRun, failed error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	all, missed = f.news, f.missed
	f.news, f.missed = nil, false
	return all, missed, f.ended, f.failed
}

func (f *feed) close() {
	f.cancel()
	for _, stop := range f.stop {
		stop()
	}
	f.group.Wait()
}

// follow writes what happens until the run has ended.
func (l *logger) follow(ctx context.Context, f *feed) error {
	timer := time.NewTicker(tick)
	defer timer.Stop()
	for {
		all, missed, ended, failed := f.take()
		if failed != nil {
			return failed
		}
		if err := l.news(ctx, all, missed); err != nil {
			return err
		}
		if ended != nil {
			l.run = ended
			l.past.End(&ended.Status)
			return l.stored(ctx) // whatever is not written yet, then the end
		}
		if err := l.out.flush(); err != nil {
			return err
		}
		select {
		case <-f.wake:
		case <-timer.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// news writes what some news say. Journals are read once for all news of a task.
func (l *logger) news(ctx context.Context, all []news, missed bool) error {
	changed := map[string]bool{}
	for _, n := range all {
		switch {
		case n.record != nil:
			if err := l.past.Fold(ctx, *n.record); err != nil {
				return err
			}
			changed[n.record.Key.TaskID] = true
			if d := n.record.Delegated; d != nil {
				changed[d.Parent] = true
			}
		case n.task != "":
			changed[n.task] = true
		}
	}
	steps := map[string]runner.PastTask{}
	for _, t := range l.past.Tasks() {
		steps[t.Key.TaskID] = t
	}
	for _, n := range all {
		t, known := runner.PastTask{}, false
		if n.chunk != nil {
			t, known = steps[n.chunk.key.TaskID]
		}
		if !known || l.mute || l.step != "" && t.Step != l.step {
			continue
		}
		e := entryOf(t, data.EntryChunk, n.chunk.at)
		e.Call, e.Text = n.chunk.Call, n.chunk.Text
		if err := l.write(e); err != nil {
			return err
		}
	}
	if missed {
		if err := l.write(data.Entry{Kind: data.EntryMissed, At: time.Now()}); err != nil {
			return err
		}
	}
	tasks := slices.DeleteFunc(l.past.Tasks(), func(t runner.PastTask) bool { return !changed[t.Key.TaskID] })
	return l.inOrder(ctx, tasks)
}
