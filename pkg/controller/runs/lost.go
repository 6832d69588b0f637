package runs

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/controller"
)

// storeLost ends a run whose results were in a store that is gone. What it has done and paid for is not known any more:
// beginning anew would pay for it a second time, which is for people to decide.
func (c *Controller) storeLost(ctx context.Context, run *v1alpha1.ArkRun, now time.Time) error {
	end := metav1.NewMicroTime(now)
	status := *run.Status.DeepCopy()
	if status.StartTime == nil {
		status.StartTime = &end
	}
	message := "the queue's store was lost while the run was live, and with it the results of its steps; nothing was done a second time: "
	if t := run.Spec.TeamRef; t != nil {
		message += fmt.Sprintf("trigger the team %s anew to have it all done again", t.Name)
	} else {
		message += "submit the prompt anew to have it done again"
	}
	for i := range status.Steps {
		s := &status.Steps[i]
		if s.Phase.Terminal() {
			continue
		}
		s.Phase, s.Reason, s.CompletionTime = v1alpha1.StepCancelled, v1alpha1.ReasonStoreLost, &end
		s.Message = "the queue's store was lost before the step was done, or with its result"
	}
	if n := status.StepCounts; n != nil {
		n.Cancelled += n.Pending + n.Running
		n.Pending, n.Running = 0, 0
		status.StepSummary = fmt.Sprintf("%d/%d", n.Total, n.Total)
	}
	status.Phase, status.CompletionTime, status.Message, status.TraceID = v1alpha1.RunFailed, &end, message, traceID(run)
	status.Duration = fmt.Sprintf("%.1fs", max(now.Sub(status.StartTime.Time), 0).Seconds())
	status.ObservedGeneration = run.Generation
	status.Conditions = conditions(run, metav1.ConditionTrue, v1alpha1.ReasonStoreLost, message, now)
	held, err := c.writeStatus(ctx, run, status)
	if err != nil {
		return err
	}
	c.voice.tell(run, &run.Status, &held.Status)
	c.log.WarnContext(ctx, "the queue's store was lost while a run was live", "run", controller.KeyOf(run).String(), "trace_id", status.TraceID)
	return nil
}
