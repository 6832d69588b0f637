// Package runner drives one run: it joins the pure engine (pkg/pipeline) with the queue and a store of ArkRuns. The
// ArkRun controller and `ark run` both drive their runs through it and differ only in their Store.
//
// A Live is one run while it goes on. Its caller feeds it every record of the run from the results stream, in order
// (Fold), and lets it act whenever something was folded, a wake-up time has come or something outside changed
// (Advance). Nothing is polled: between two calls a Live does nothing.
//
// A Live holds nothing that cannot be rebuilt: a new process makes a new one from the ArkRun, folds the stream from
// its beginning and goes on. Whatever the first process did already is done again without harm: tasks, results, child
// runs and the end all have names that are derived from the run.
package runner

import (
	"context"
	"errors"
	"time"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/telemetry"
)

// maxParallel bounds how many actions of one run are carried out at once.
const maxParallel = 16

// Store keeps ArkRuns.
type Store interface {
	// Commit writes the status of a run, on the condition that its record has no end yet, and returns the status that
	// the record then holds: another one's, if that ended the run first. It is called with the end of a run, and with
	// a choice among agents before the task that follows from it is queued.
	Commit(ctx context.Context, run *v1alpha1.ArkRun, status v1alpha1.ArkRunStatus) (v1alpha1.ArkRunStatus, error)
	// StartChild makes the run of a team that plays a role of the run. It is fine if it is there already. When the
	// child has ended, its end must be published as the result of Child.Key, with the usage of the whole run. A child
	// that cannot run, because the team or an input is missing, ends at once with that.
	StartChild(ctx context.Context, child Child) error
	// CancelChild asks for the end of a child run, which is published like any end. A child that was never made gets
	// a Cancelled result at once.
	CancelChild(ctx context.Context, name string, key queue.Key, reason string) error
}

// Child is a run to be made for a step whose role is a team.
type Child struct {
	Parent         *v1alpha1.ArkRun
	Key            queue.Key      // of the step's task, which the child run carries out; its agent is empty
	Name           string         // of the ArkRun, the same whenever it is derived
	Team           string         //
	Input          map[string]any // not yet resolved against the inputs that the team declares
	Hops           int32
	TimeoutSeconds int64 // of the step; 0 leaves it to the team
	Created        time.Time

	// Step, Item and Iteration say which child run it is; Each says that the step has items. Anew says that it has nothing to do with the one that carried
	// them out in the run that the parent retries.
	Step            string
	Item, Iteration int
	Each, Anew      bool

	// Budgets and Deadline of the runs above hold for the child too.
	Budgets  []task.Budget
	Deadline time.Time
}

// Config is what a run is driven with.
type Config struct {
	// Run with its snapshot, name, namespace and uid; it is not changed. Choices among agents that stand in its status
	// are kept.
	Run      *v1alpha1.ArkRun
	Started  time.Time
	Reused   []pipeline.StepResult // what the run has taken over from the one that it retries: ReadReused
	Pipeline pipeline.Options
	Queue    *queue.Queue
	Store    Store
	// Account closes the books of a task that has a result and returns what it has cost: work.Service.Account. Without it
	// what results say is believed.
	Account func(ctx context.Context, key queue.Key) (task.Usage, error)
	// Budgets and Deadline come from the run above a child run.
	Budgets   []task.Budget
	Deadline  time.Time
	Telemetry *telemetry.Telemetry // nil: off
}

func (c *Config) validate() error {
	switch {
	case c.Run == nil || c.Run.UID == "" || c.Run.Name == "" || c.Run.Namespace == "":
		return errors.New("runner: Run needs a name, a namespace and a uid")
	case c.Started.IsZero():
		return errors.New("runner: Started is missing")
	case c.Queue == nil || c.Store == nil:
		return errors.New("runner: Queue and Store are needed")
	}
	return nil
}
