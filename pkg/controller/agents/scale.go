package agents

import (
	"time"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/queue"
)

// scaling is what an autoscaled agent's number of pods depends on beside its queue: since when fewer pods would have been
// enough, and how many of them at least.
type scaling struct {
	since time.Time // zero: the pods that there are are needed
	most  int32     // the greatest number that was needed since then
}

// autoscale is how many pods an agent shall have that has current ones, with so much to do. More come at once; fewer when
// fewer have been enough for the whole of scaleDownAfterSeconds. None at all is right only when nothing is to be done.
// after says when to ask again although nothing has changed; 0 is never.
func autoscale(s v1alpha1.Autoscaling, current int32, todo queue.Backlog, before scaling, now time.Time) (pods int32, next scaling, after time.Duration) {
	least := min(*s.MinReplicas, s.MaxReplicas)
	tasks := max(todo.Waiting, 0) + max(todo.Held, 0)
	target := int64(s.TargetPendingTasks)
	wanted := int32(min((tasks+target-1)/target, int64(s.MaxReplicas)))
	wanted = max(wanted, least)
	current = min(current, s.MaxReplicas) // a limit that was lowered holds at once
	if wanted >= current {
		return wanted, scaling{}, 0
	}
	if before.since.IsZero() {
		before.since = now
	}
	next = scaling{since: before.since, most: max(before.most, wanted)}
	if wait := time.Duration(*s.ScaleDownAfterSeconds)*time.Second - now.Sub(next.since); wait > 0 {
		return current, next, wait
	}
	pods = min(next.most, current)
	if pods == wanted {
		return pods, scaling{}, 0
	}
	next = scaling{since: now, most: wanted}
	return pods, next, time.Duration(*s.ScaleDownAfterSeconds) * time.Second
}
