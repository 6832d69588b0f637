package runs

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/controller"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/runner"
)

// sweepEvery is the pause between two sweeps. What a sweep finds to do is the consequence of a crash or of a message that
// was lost: nothing waits for it otherwise.
const sweepEvery = 30 * time.Second

// runsPerList is how many runs in the stores make their lists one sweep rarer: a list is read whole, with a line for every
// result.
const runsPerList = 1000

func (c *Controller) sweepRegularly(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for rest := 0; ; rest-- {
		c.sweepLive()
		err := c.sweepHistory(ctx)
		if rest <= 0 {
			held, failed := c.sweepStores(ctx)
			rest = held/runsPerList + 1
			err = errors.Join(err, failed)
		}
		if err != nil && ctx.Err() == nil {
			c.log.WarnContext(ctx, "sweep failed, it is done again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// sweepLive has every live run looked at.
func (c *Controller) sweepLive() {
	for _, run := range c.cfg.Cache.Runs.All() {
		if !run.Status.Phase.Terminal() {
			c.loop.Add(controller.KeyOf(run))
		}
	}
}

// ofRun is the form of the uids that an API server gives. Other uids in the streams belong to what has no ArkRun.
var ofRun = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// sweepStores removes what the stores hold of runs that do not exist. n is of how many runs they hold anything.
func (c *Controller) sweepStores(ctx context.Context) (n int, err error) {
	held, err := c.cfg.Queue.Runs(ctx)
	if err != nil {
		return 0, err
	}
	suspects := map[string]struct{}{}
	for uid, h := range held {
		switch {
		case !ofRun.MatchString(uid), h.Namespace == "" && !h.Removed && len(c.cfg.Watch) > 0, h.Namespace != "" && !c.watches(h.Namespace):
		case len(c.cfg.Cache.Runs.By(byUID, uid)) == 0:
			suspects[uid] = struct{}{}
		}
	}
	if len(suspects) == 0 {
		return len(held), nil
	}
	// The cache may be behind: only what the API server itself does not know is gone.
	if err := c.eachUID(ctx, func(uid string) { delete(suspects, uid) }); err != nil {
		return 0, err
	}
	for uid := range suspects {
		c.post.Close(uid)
		c.purge.add(uid)
	}
	if len(suspects) > 0 {
		c.log.InfoContext(ctx, "records of removed runs are removed", "runs", len(suspects))
	}
	return len(held), nil
}

// eachUID calls f for every run that the API server has.
func (c *Controller) eachUID(ctx context.Context, f func(uid string)) error {
	namespaces := c.cfg.Watch
	if len(namespaces) == 0 {
		namespaces = []string{metav1.NamespaceAll}
	}
	for _, ns := range namespaces {
		runs := c.cfg.Clients.Metadata.Resource(v1alpha1.Resource("arkruns")).Namespace(ns)
		options := metav1.ListOptions{Limit: listPage}
		for {
			page, err := runs.List(ctx, options)
			if apierrors.IsForbidden(err) && ns != metav1.NamespaceAll && c.cfg.Cache.Gone(ctx, ns) {
				break
			}
			if err != nil {
				return fmt.Errorf("list runs: %w", err)
			}
			for i := range page.Items {
				f(string(page.Items[i].UID))
			}
			if options.Continue = page.Continue; options.Continue == "" {
				break
			}
		}
	}
	return nil
}

const listPage = 2000

// check looks whether what a run waits for is there: a task that is queued or worked on, or a child run. A run that waits
// for nothing is made anew from its records, which gives it what it lacks. anew says that it was.
func (c *Controller) check(ctx context.Context, d *drive, now time.Time) (anew bool, err error) {
	if now.Sub(d.checked) < sweepEvery/2 {
		return false, nil
	}
	d.checked = now
	for _, t := range d.live.Open() {
		if !t.Issued || t.Delegated {
			continue
		}
		there, err := c.waitedFor(ctx, t)
		if err != nil {
			return false, err
		}
		if !there {
			c.log.WarnContext(ctx, "a run waited for a task that is not there, it is made anew", "run", d.key.String(), "step", t.Step, "task", t.Key.TaskID)
			return true, nil
		}
	}
	return false, nil
}

// waitedFor says whether a result of a task will come: that of a task without a result that nobody has will not, and that
// of one with a result should be here already.
func (c *Controller) waitedFor(ctx context.Context, t runner.OpenTask) (bool, error) {
	if _, err := c.cfg.Queue.Result(ctx, t.Key); !errors.Is(err, queue.ErrNoResult) {
		return false, err
	}
	if t.Team == "" {
		_, err := c.cfg.Queue.Task(ctx, t.Key.Namespace, t.Key.Agent, t.Key.TaskID)
		if errors.Is(err, queue.ErrNoTask) {
			// It may have been done in between.
			_, err = c.cfg.Queue.Result(ctx, t.Key)
			if errors.Is(err, queue.ErrNoResult) {
				return false, nil
			}
		}
		return err == nil, err
	}
	for _, child := range c.cfg.Cache.Runs.By(byParent, t.Key.RunUID) {
		if child.Spec.Parent.TaskID == t.Key.TaskID {
			if child.Status.Phase.Terminal() {
				c.loop.Add(controller.KeyOf(child)) // it tells its end
			}
			return true, nil
		}
	}
	return false, nil
}
