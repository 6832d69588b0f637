package cmd

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arkonis.dev/ark/pkg/apis/data"
	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/local/progress"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/remote"
)

// follow shows a run until it has ended: redrawn in place on a terminal, else as one line per transition. The run goes on
// when who looks on goes away.
func follow(ctx context.Context, s *streams, cluster *remote.Cluster, run *v1alpha1.ArkRun) (*v1alpha1.ArkRun, error) {
	var view progress.View = progress.NewLines(s.err)
	if s.errTerminal {
		view = progress.NewScreen(s.err, progress.Terminal{Size: s.size, Color: s.color})
	}
	observer := progress.NewObserver(view, false)
	top := run.UID
	run, err := cluster.FollowFamily(ctx, run, remote.Watcher{
		Changed: func(now *v1alpha1.ArkRun) {
			task := ""
			if p := now.Spec.Parent; p != nil && now.UID != top {
				task = p.TaskID
			}
			observer.Run(string(now.UID), task, now.Status)
		},
		Told: func(of *v1alpha1.ArkRun, e *data.Entry) { tell(observer, of, e) },
	})
	summary := ""
	if err == nil {
		summary = summaryOf(run)
	}
	view.Finish(summary)
	return run, left(ctx, run, err)
}

// tell passes on which tools a task calls.
func tell(o *progress.Observer, run *v1alpha1.ArkRun, e *data.Entry) {
	key := queue.Key{Namespace: run.Namespace, Agent: e.Agent, RunUID: string(run.UID), TaskID: e.Task}
	switch e.Kind {
	case data.EntryTool:
		o.Progress(key, queue.Progress{Event: queue.EventTool, Pod: e.Pod, Tool: e.Tool, At: e.At})
	case data.EntryToolDone:
		o.Progress(key, queue.Progress{Event: queue.EventToolDone, Pod: e.Pod, Tool: e.Tool, At: e.At})
	default:
	}
}

// wait waits for the end of a run without showing anything.
func wait(ctx context.Context, cluster *remote.Cluster, run *v1alpha1.ArkRun) (*v1alpha1.ArkRun, error) {
	run, err := cluster.Follow(ctx, run, func(*v1alpha1.ArkRun) {})
	return run, left(ctx, run, err)
}

// left is the error of who stopped to look on: the run goes on.
func left(ctx context.Context, run *v1alpha1.ArkRun, err error) error {
	goesOn := func(what string) error {
		return fmt.Errorf("%s: the run %s goes on; see it with 'ark get %s -n %s --watch', end it with 'ark cancel %s -n %s'",
			what, run.Name, run.Name, run.Namespace, run.Name, run.Namespace)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return &exitError{code: ExitTimeout, err: goesOn("timed out waiting")}
	case ctx.Err() != nil:
		return &exitError{code: ExitInterrupted, err: goesOn("interrupted")}
	default:
		return err
	}
}

// summaryOf is the line that ends a run.
func summaryOf(run *v1alpha1.ArkRun) string {
	took := time.Duration(0)
	if s := run.Status; s.StartTime != nil && s.CompletionTime != nil {
		took = s.CompletionTime.Sub(s.StartTime.Time)
	}
	tokens := int64(0)
	if u := run.Status.TotalTokenUsage; u != nil {
		tokens = u.TotalTokens
	}
	return fmt.Sprintf("Run %s in %s - %d tokens", run.Status.Phase, progress.Seconds(took), tokens)
}

func conditionComplete(c metav1.Condition) bool { return c.Type == v1alpha1.ConditionComplete }

// ended is the error of a run that did not succeed.
func ended(run *v1alpha1.ArkRun) error {
	if run.Status.Phase == v1alpha1.RunSucceeded {
		return nil
	}
	text := "run " + run.Name + " failed"
	if run.Status.Phase == v1alpha1.RunCancelled {
		text = "run " + run.Name + " was cancelled"
	}
	for _, c := range run.Status.Conditions {
		if conditionComplete(c) && c.Reason != string(run.Status.Phase) {
			text += " (" + c.Reason + ")"
		}
	}
	if run.Status.Message != "" {
		text += ": " + run.Status.Message
	}
	return &exitError{code: ExitRunFailed, err: fmt.Errorf("%s; see 'ark why %s -n %s'", text, run.Name, run.Namespace)}
}
