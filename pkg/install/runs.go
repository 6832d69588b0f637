package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
)

// whyCancelled is the message of a run that was live when ark went.
const whyCancelled = "ark was uninstalled"

const (
	runsPage = 500 // how many runs are read at once
	patches  = 16  // how many are marked at once
)

func runsResource() schema.GroupVersionResource { return v1alpha1.Resource("arkruns") }

// endRuns has the operator cancel every live run, those that begin meanwhile too, and waits until none is left: while an
// operator works, and for half of the time that there is. What is live after that is for markRuns.
func (c *Cluster) endRuns(ctx context.Context, namespace string) error {
	runs, err := c.runs(ctx)
	if err != nil || len(live(runs)) == 0 {
		return err
	}
	works, err := c.works(ctx, namespace)
	if err != nil || !works {
		return err
	}
	half := ctx
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		half, cancel = context.WithDeadline(ctx, end.Add(-time.Until(end)/2))
		defer cancel()
	}
	err = c.cancelUntilNoneIsLive(half)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return nil
	}
	return err
}

// works says whether there is an operator that could end runs.
func (c *Cluster) works(ctx context.Context, namespace string) (bool, error) {
	pods, err := c.of(core("pods"), namespace).List(ctx, metav1.ListOptions{LabelSelector: podSelector})
	if err != nil {
		return false, fmt.Errorf("look for the operator's pods: %w", err)
	}
	for i := range pods.Items {
		if phase, _, _ := unstructured.NestedString(pods.Items[i].Object, "status", "phase"); phase == "Running" {
			return true, nil
		}
	}
	return false, nil
}

func (c *Cluster) cancelUntilNoneIsLive(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	signal := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	client := c.Client.Resource(runsResource())
	store, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				return client.List(ctx, o)
			},
			WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				return client.Watch(ctx, o)
			},
		},
		ObjectType: &unstructured.Unstructured{},
		Transform: func(o any) (any, error) {
			if u, ok := o.(*unstructured.Unstructured); ok {
				return runOf(u), nil
			}
			return o, nil
		},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc: func(any) { signal() }, UpdateFunc: func(any, any) { signal() }, DeleteFunc: func(any) { signal() },
		},
	})
	watching, stop := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { defer close(done); informer.RunWithContext(watching) }()
	defer func() { stop(); <-done }()
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return ctx.Err()
	}
	asked := map[types.UID]bool{}
	for {
		runs := make([]*v1alpha1.ArkRun, 0, len(store.ListKeys()))
		for _, o := range store.List() {
			if run, ok := o.(*v1alpha1.ArkRun); ok {
				runs = append(runs, run)
			}
		}
		left := live(runs)
		if len(left) == 0 {
			return nil
		}
		if err := c.mark(ctx, due(left, asked)); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// live are those runs that have not ended and are not being deleted.
func live(runs []*v1alpha1.ArkRun) []*v1alpha1.ArkRun {
	var out []*v1alpha1.ArkRun
	for _, run := range runs {
		if !run.Status.Phase.Terminal() && run.DeletionTimestamp == nil {
			out = append(out, run)
		}
	}
	return out
}

// due are those live runs that are to be asked to end now, and notes them in asked. A run below a live one is ended by that
// one: a step whose run ends by itself would fail the run that it is a step of, which is to be cancelled.
func due(live []*v1alpha1.ArkRun, asked map[types.UID]bool) []*v1alpha1.ArkRun {
	alive := map[types.UID]bool{}
	for _, run := range live {
		alive[run.UID] = true
	}
	var out []*v1alpha1.ArkRun
	for _, run := range live {
		if asked[run.UID] || marked(run) || run.Spec.Parent != nil && alive[types.UID(run.Spec.Parent.RunUID)] {
			continue
		}
		asked[run.UID] = true
		out = append(out, run)
	}
	return out
}

func marked(run *v1alpha1.ArkRun) bool { return run.Annotations[v1alpha1.AnnotationCancel] == "true" }

// markRuns has whatever is live without an operator be cancelled by the next one before it costs anything, and returns the
// names of these runs.
func (c *Cluster) markRuns(ctx context.Context) ([]string, error) {
	runs, err := c.runs(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	var unmarked []*v1alpha1.ArkRun
	for _, run := range live(runs) {
		names = append(names, run.Namespace+"/"+run.Name)
		if !marked(run) {
			unmarked = append(unmarked, run)
		}
	}
	return names, c.mark(ctx, unmarked)
}

// mark asks for the end of runs.
func (c *Cluster) mark(ctx context.Context, runs []*v1alpha1.ArkRun) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(patches)
	for _, run := range runs {
		g.Go(func() error {
			patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
				"uid":         run.UID,
				"annotations": map[string]string{v1alpha1.AnnotationCancel: "true", v1alpha1.AnnotationCancelReason: whyCancelled},
			}})
			if err != nil {
				return err
			}
			_, err = c.of(runsResource(), run.Namespace).Patch(ctx, run.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: FieldManager})
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // it is gone, or is another one
				return fmt.Errorf("cancel run %s in %s: %w", run.Name, run.Namespace, err)
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, run := range runs {
		c.say("arkrun."+v1alpha1.GroupVersion().Group+"/"+run.Name+" in "+run.Namespace, "is cancelled")
	}
	return nil
}

// runs are all that there are, none where the kind is not known; what is not needed of them is left out.
func (c *Cluster) runs(ctx context.Context) ([]*v1alpha1.ArkRun, error) {
	var out []*v1alpha1.ArkRun
	options := metav1.ListOptions{Limit: runsPage}
	for {
		page, err := c.Client.Resource(runsResource()).List(ctx, options)
		switch {
		case apierrors.IsNotFound(err):
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("look for live runs: %w", err)
		}
		for i := range page.Items {
			out = append(out, runOf(&page.Items[i]))
		}
		if options.Continue = page.GetContinue(); options.Continue == "" {
			return out, nil
		}
	}
}

// runOf is what an uninstall needs to know of a run.
func runOf(u *unstructured.Unstructured) *v1alpha1.ArkRun {
	run := &v1alpha1.ArkRun{ObjectMeta: metav1.ObjectMeta{
		Name: u.GetName(), Namespace: u.GetNamespace(), UID: u.GetUID(), ResourceVersion: u.GetResourceVersion(),
		DeletionTimestamp: u.GetDeletionTimestamp(), Annotations: u.GetAnnotations(),
	}}
	phase, _, _ := unstructured.NestedString(u.Object, "status", "phase")
	run.Status.Phase = v1alpha1.RunPhase(phase)
	if parent, ok, _ := unstructured.NestedString(u.Object, "spec", "parent", "runUID"); ok {
		run.Spec.Parent = &v1alpha1.ParentTask{RunUID: parent}
	}
	return run
}
