package remote

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// pageSize is how many objects a list asks for at once.
const pageSize = 500

// lister is what all typed clients have.
type lister[L runtime.Object] interface {
	List(ctx context.Context, o metav1.ListOptions) (L, error)
}

// each passes all objects of a list, page by page.
func each[T any, L runtime.Object](ctx context.Context, c lister[L], o metav1.ListOptions, f func(*T)) error {
	o.Limit = pageSize
	for {
		page, err := c.List(ctx, o)
		if err != nil {
			return err
		}
		err = meta.EachListItem(page, func(item runtime.Object) error {
			if object, ok := any(item).(*T); ok {
				f(object)
			}
			return nil
		})
		if err != nil {
			return err
		}
		list, err := meta.ListAccessor(page)
		if err != nil {
			return err
		}
		if o.Continue = list.GetContinue(); o.Continue == "" {
			return nil
		}
	}
}

// RunFilter chooses runs. Empty fields choose all.
type RunFilter struct {
	Team     string
	Selector string // of labels, as kubectl takes it
}

func (f RunFilter) options() metav1.ListOptions {
	o := metav1.ListOptions{LabelSelector: f.Selector}
	if f.Team != "" {
		if o.LabelSelector != "" {
			o.LabelSelector += ","
		}
		o.LabelSelector += v1alpha1.LabelTeam + "=" + f.Team
	}
	return o
}

// Runs lists runs, the newest first.
func (c *Cluster) Runs(ctx context.Context, f RunFilter) ([]v1alpha1.ArkRun, error) {
	runs, _, err := c.listRuns(ctx, f)
	return runs, err
}

func (c *Cluster) listRuns(ctx context.Context, f RunFilter) (runs []v1alpha1.ArkRun, version string, err error) {
	o := f.options()
	o.Limit = pageSize
	for {
		page, err := c.Clients.Runs(c.Namespace).List(ctx, o)
		if err != nil {
			return nil, "", c.explain(err, "list", kindRun+"s "+c.In())
		}
		runs = append(runs, page.Items...)
		version = page.ResourceVersion
		if o.Continue = page.Continue; o.Continue == "" {
			break
		}
	}
	slices.SortStableFunc(runs, newestFirst)
	return runs, version, nil
}

// newestFirst orders runs: creation times have whole seconds, triggers have more.
func newestFirst(a, b v1alpha1.ArkRun) int {
	if d := b.CreationTimestamp.Compare(a.CreationTimestamp.Time); d != 0 {
		return d
	}
	fired := func(r *v1alpha1.ArkRun) *metav1.MicroTime {
		if r.Spec.Trigger != nil && r.Spec.Trigger.FiredAt != nil {
			return r.Spec.Trigger.FiredAt
		}
		return &metav1.MicroTime{Time: r.CreationTimestamp.Time}
	}
	return fired(&b).Compare(fired(&a).Time)
}

// WatchRuns passes every run that a filter chooses, and passes it again whenever it changes, until the context ends or
// f fails. A run that was removed is passed a last time with gone.
func (c *Cluster) WatchRuns(ctx context.Context, f RunFilter, each func(run *v1alpha1.ArkRun, gone bool) error) error {
	for {
		runs, version, err := c.listRuns(ctx, f)
		if err != nil {
			return err
		}
		for i := range slices.Backward(runs) {
			if err := each(&runs[i], false); err != nil {
				return err
			}
		}
		o := f.options()
		o.ResourceVersion = version
		if err := c.watchRuns(ctx, o, each); err != nil {
			return err
		}
	}
}

// watchRuns watches until the API server ends the watch, which it does from time to time.
func (c *Cluster) watchRuns(ctx context.Context, o metav1.ListOptions, each func(run *v1alpha1.ArkRun, gone bool) error) error {
	w, err := c.Clients.Runs(c.Namespace).Watch(ctx, o)
	if err != nil {
		return c.explain(err, "watch", kindRun+"s "+c.In())
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case event, ok := <-w.ResultChan():
			if !ok || event.Type == watch.Error {
				return nil
			}
			if run, is := event.Object.(*v1alpha1.ArkRun); is {
				if err := each(run, event.Type == watch.Deleted); err != nil {
					return err
				}
			}
		}
	}
}

// Run finds a run by its name, or the newest one for @latest.
func (c *Cluster) Run(ctx context.Context, name string) (*v1alpha1.ArkRun, error) {
	if name == Latest {
		return c.LatestRun(ctx, "")
	}
	run, err := c.Clients.Runs(c.Namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && !notServed(err) {
		return nil, c.noSuch(ctx, kindRun, name)
	}
	if err != nil {
		return nil, c.explain(err, "get", kindRun+" "+name+" "+c.In())
	}
	return run, nil
}

// LatestRun is the newest run of a team, or of all when it has no name.
func (c *Cluster) LatestRun(ctx context.Context, team string) (*v1alpha1.ArkRun, error) {
	runs, err := c.Runs(ctx, RunFilter{Team: team})
	if err != nil {
		return nil, err
	}
	if len(runs) == 0 && team != "" {
		return nil, fmt.Errorf("there is no run of team %s %s: start one with 'ark trigger %s'", team, c.In(), team)
	}
	if len(runs) == 0 {
		return nil, fmt.Errorf("there is no run %s: start one with 'ark trigger TEAM', or name another namespace with -n", c.In())
	}
	return &runs[0], nil
}

// RunOrTeam finds a run by its name, or the newest failed one of a team.
func (c *Cluster) RunOrTeam(ctx context.Context, name string) (*v1alpha1.ArkRun, error) {
	_, err := c.Clients.Runs(c.Namespace).Get(ctx, name, metav1.GetOptions{})
	if name == Latest || err == nil || !apierrors.IsNotFound(err) || notServed(err) {
		return c.Run(ctx, name)
	}
	if _, err := c.Clients.Teams(c.Namespace).Get(ctx, name, metav1.GetOptions{}); err == nil {
		return c.FailedRun(ctx, name)
	}
	runs, _ := c.names(ctx, kindRun)
	teams, _ := c.names(ctx, kindTeam)
	return nil, missing("run or team", "namespace "+c.Namespace, name, append(runs, teams...))
}

// Cancel asks for the end of a run. It is no error to ask again.
func (c *Cluster) Cancel(ctx context.Context, run *v1alpha1.ArkRun) error {
	patch := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:"true"},"uid":%q}}`, v1alpha1.AnnotationCancel, run.UID)
	_, err := c.Clients.Runs(run.Namespace).Patch(ctx, run.Name, mergePatch, patch, metav1.PatchOptions{FieldManager: fieldManager})
	return c.explain(err, "cancel", kindRun+" "+run.Name+" "+c.In())
}
