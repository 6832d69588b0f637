package remote

import (
	"context"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

const (
	mergePatch = types.MergePatchType
	// fieldManager owns what the command line writes.
	fieldManager = "ark-cli"
)

// ErrGone means that a run was removed while it was followed.
var ErrGone = errors.New("it was removed meanwhile")

// Follow passes a run as it is and whenever it has changed, until it has ended, and returns it then. It watches: it asks
// for nothing again and again. The error is that of the context when that ends first.
func (c *Cluster) Follow(ctx context.Context, run *v1alpha1.ArkRun, changed func(*v1alpha1.ArkRun)) (*v1alpha1.ArkRun, error) {
	for changed(run); !run.Status.Phase.Terminal(); {
		var err error
		if run, err = c.followWatch(ctx, run, changed); err != nil {
			return run, err
		}
		if run.Status.Phase.Terminal() {
			return run, nil
		}
		// The API server ended the watch, which it does from time to time: go on from what is there now.
		now, err := c.Run(ctx, run.Name)
		if err != nil {
			return run, err
		}
		if now.UID != run.UID {
			return run, fmt.Errorf("run %s: %w", run.Name, ErrGone)
		}
		if now.ResourceVersion != run.ResourceVersion {
			changed(now)
		}
		run = now
	}
	return run, nil
}

// followWatch follows a run until it has ended, or the watch does.
func (c *Cluster) followWatch(ctx context.Context, run *v1alpha1.ArkRun, changed func(*v1alpha1.ArkRun)) (*v1alpha1.ArkRun, error) {
	w, err := c.Clients.Runs(run.Namespace).Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", run.Name).String(), ResourceVersion: run.ResourceVersion,
	})
	if err != nil {
		return run, c.explain(err, "watch", kindRun+" "+run.Name+" in namespace "+run.Namespace)
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return run, context.Cause(ctx)
		case event, ok := <-w.ResultChan():
			next, is := event.Object.(*v1alpha1.ArkRun)
			switch {
			case !ok || !is:
				return run, nil
			case event.Type == watch.Deleted:
				return run, fmt.Errorf("run %s: %w", run.Name, ErrGone)
			}
			run = next
			changed(run)
			if run.Status.Phase.Terminal() {
				return run, nil
			}
		}
	}
}
