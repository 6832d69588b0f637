package runs

import (
	"context"
	"time"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/queue"
)

// started is the news that a pod works on a task.
type started struct {
	task, pod string
	at        time.Time
}

// watchProgress notes which pod works on a task, and what it has trouble with. That is for people: nothing but the status
// depends on it.
func (c *Controller) watchProgress(ctx context.Context) {
	stop, err := c.cfg.Queue.WatchProgress("", func(k queue.Key, p queue.Progress) {
		switch p.Event {
		case queue.EventStarted, queue.EventWait, queue.EventTool:
		default:
			return
		}
		c.mu.Lock()
		key, ok := c.keys[k.RunUID]
		d := c.drives[key]
		c.mu.Unlock()
		if ok && d != nil && d.progressed(k.TaskID, p) {
			c.loop.AddAfter(key, pace(c.Live()))
		}
	})
	if err != nil {
		c.log.WarnContext(ctx, "progress of tasks is not shown", "error", err)
		return
	}
	<-ctx.Done()
	stop()
}

// progressed takes in news of a task, and says whether the status may show it. It may be called at any time by anybody.
func (d *drive) progressed(task string, p queue.Progress) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.troubles[task]
	switch p.Event {
	case queue.EventStarted:
		d.starts = append(d.starts, started{task: task, pod: p.Pod, at: p.At})
	case queue.EventWait:
		if d.troubles == nil {
			d.troubles = map[string]string{}
		}
		d.troubles[task] = clip(p.Why)
	}
	if p.Event != queue.EventWait {
		delete(d.troubles, task) // it goes on
	}
	d.stirred = d.stirred || d.troubles[task] != before
	return d.stirred || len(d.starts) > 0
}

// showTroubles puts into the messages of steps what their tasks have trouble with: a model call that is tried again, a
// budget that is waited for.
func (d *drive) showTroubles(steps []v1alpha1.StepStatus) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range steps {
		s := &steps[i]
		if why := d.troubles[s.TaskID]; why != "" && s.Message == "" && s.Phase == v1alpha1.StepRunning {
			s.Message = why
		}
	}
}
