package remote

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"arkonis.dev/ark/pkg/apis/data"
	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// Relative is a run of a family: the one that was asked for, or one that carries out a step of another one of it.
type Relative struct {
	Run *v1alpha1.ArkRun
	// Path names the step of the run that was asked for which it is a part of, and those below, as in review/deep; empty
	// for the run itself.
	Path string
}

// Family lists a run and all that are below it, each behind the one above it, in the order in which they were made.
func (c *Cluster) Family(ctx context.Context, run *v1alpha1.ArkRun) ([]Relative, error) {
	at := *c
	at.Namespace = run.Namespace
	below, err := at.Runs(ctx, familyOf(run))
	if err != nil {
		return nil, err
	}
	slices.Reverse(below) // the oldest first
	return family(run, below), nil
}

func familyOf(run *v1alpha1.ArkRun) RunFilter {
	return RunFilter{Selector: v1alpha1.LabelRun + "=" + run.TopRun()}
}

// family puts runs that may be below a run in their places.
func family(run *v1alpha1.ArkRun, below []v1alpha1.ArkRun) []Relative {
	children := map[string][]*v1alpha1.ArkRun{} // by the uid of the run above
	for i := range below {
		if p := below[i].Spec.Parent; p != nil {
			children[p.RunUID] = append(children[p.RunUID], &below[i])
		}
	}
	all := []Relative{{Run: run}}
	for at := 0; at < len(all); at++ {
		above := all[at]
		for _, child := range children[string(above.Run.UID)] {
			name := cmp.Or(child.Spec.Parent.Step, child.Name) + ItemOf(child.Spec.Parent)
			all = append(all, Relative{Run: child, Path: strings.TrimPrefix(above.Path+"/"+name, "/")})
		}
	}
	return all
}

// ItemOf names the item of a step that a run carries out, as in [2]; it is empty for a step without items.
func ItemOf(p *v1alpha1.ParentTask) string {
	if p.Item == nil {
		return ""
	}
	return fmt.Sprintf("[%d]", *p.Item)
}

// Watcher is told what happens in a family. Its functions are called by several goroutines.
type Watcher struct {
	Changed func(run *v1alpha1.ArkRun)
	// Told passes what tasks do, as far as it is known: without the words. Nil asks for nothing of it.
	Told func(run *v1alpha1.ArkRun, e *data.Entry)
}

// FollowFamily passes a run and those below it as they are and whenever one has changed, until the run has ended, and
// returns it then. The error is that of the context when that ends first. What the user may not see of the runs below, or
// of what tasks do, is left out.
func (c *Cluster) FollowFamily(ctx context.Context, run *v1alpha1.ArkRun, w Watcher) (*v1alpha1.ArkRun, error) {
	watching, stop := context.WithCancel(ctx)
	f := &following{c: c, w: w, known: map[string]bool{}, listening: map[string]bool{}}
	defer f.group.Wait()
	defer stop()
	f.known[string(run.UID)] = true
	w.Changed(run)
	f.listen(watching, run)
	at := *c
	at.Namespace = run.Namespace
	f.group.Go(func() {
		_ = at.WatchRuns(watching, familyOf(run), func(now *v1alpha1.ArkRun, gone bool) error {
			f.see(watching, now, gone)
			return nil
		})
	})
	run, err := c.Follow(ctx, run, w.Changed)
	if err == nil {
		all, lost := c.Family(ctx, run) // their watch may be behind
		for i := 1; lost == nil && i < len(all); i++ {
			w.Changed(all[i].Run)
		}
	}
	return run, err
}

// following is one call of FollowFamily.
type following struct {
	c     *Cluster
	w     Watcher
	group sync.WaitGroup

	mu        sync.Mutex
	known     map[string]bool // uids of the family
	strangers []*v1alpha1.ArkRun
	listening map[string]bool
}

// see takes in a run that may be one of the family. One that comes before the run above it waits for that.
func (f *following) see(ctx context.Context, run *v1alpha1.ArkRun, gone bool) {
	if gone || run.Spec.Parent == nil {
		return
	}
	f.mu.Lock()
	f.strangers = append(f.strangers, run)
	var found []*v1alpha1.ArkRun
	for more := true; more; {
		more = false
		f.strangers = slices.DeleteFunc(f.strangers, func(r *v1alpha1.ArkRun) bool {
			if !f.known[r.Spec.Parent.RunUID] {
				return false
			}
			f.known[string(r.UID)], more = true, true
			found = append(found, r)
			return true
		})
	}
	f.mu.Unlock()
	for _, r := range found {
		f.w.Changed(r)
		f.listen(ctx, r)
	}
}

// listen passes on what the tasks of a live run do.
func (f *following) listen(ctx context.Context, run *v1alpha1.ArkRun) {
	f.mu.Lock()
	again := f.listening[string(run.UID)]
	f.listening[string(run.UID)] = true
	f.mu.Unlock()
	if again || f.w.Told == nil || run.Status.Phase.Terminal() {
		return
	}
	f.group.Go(func() {
		_ = f.c.Log(ctx, run, LogOptions{Follow: true, Mute: true}, func(e *data.Entry) error {
			f.w.Told(run, e)
			return nil
		})
	})
}

// FamilyLog passes what happened in a run and in those below it, in the order of time. With Follow what happens comes as it
// happens, behind what had happened before. Entries of runs below name their run, and begin their step with its place.
func (c *Cluster) FamilyLog(ctx context.Context, run *v1alpha1.ArkRun, o LogOptions, f func(e *data.Entry) error) error {
	all, err := c.Family(ctx, run)
	if err != nil {
		all = []Relative{{Run: run}} // a log needs no right to list runs
	}
	if wrong := unknownPath(all, o.Step); wrong != nil {
		return wrong
	}
	if err != nil || len(all) == 1 && !o.Follow {
		return c.Log(ctx, run, o, f)
	}
	if o.Follow && !run.Status.Phase.Terminal() {
		return c.followLogs(ctx, run, o, f)
	}
	o.Follow = false
	var entries []data.Entry
	for _, r := range all {
		wanted, inside := r.inside(o)
		if !inside {
			continue
		}
		err := c.Log(ctx, r.Run, wanted, func(e *data.Entry) error {
			if r.place(e) {
				entries = append(entries, *e)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	slices.SortStableFunc(entries, func(a, b data.Entry) int {
		if last := cmp.Compare(ends(&a), ends(&b)); last != 0 {
			return last
		}
		return a.At.Compare(b.At)
	})
	for i := range entries {
		if err := f(&entries[i]); err != nil {
			return err
		}
	}
	return nil
}

// unknownPath is the error for a step that no run of a family has; nil when one has it, or may still get it.
func unknownPath(all []Relative, step string) error {
	var first error
	for i := range all {
		wanted, inside := all[i].inside(LogOptions{Step: step})
		if !inside {
			continue
		}
		wrong := unknownStep(all[i].Run, wanted.Step)
		if wrong == nil || !all[i].Run.Status.Phase.Terminal() {
			return nil
		}
		first = cmp.Or(first, wrong)
	}
	return first
}

// ends is 1 for the last entry of a log.
func ends(e *data.Entry) int {
	if e.Kind == data.EntryRunEnded {
		return 1
	}
	return 0
}

// inside says whether a run has entries of the steps that are wanted, and which of its own those are.
func (r *Relative) inside(o LogOptions) (LogOptions, bool) {
	if r.Path == "" || o.Step == "" {
		return o, true
	}
	rest, below := strings.CutPrefix(o.Step, r.Path+"/")
	switch {
	case below:
		o.Step = rest
	case o.Step == r.Path, strings.HasPrefix(r.Path, o.Step+"/"), strings.HasPrefix(r.Path, o.Step+"["):
		o.Step = ""
	default:
		return o, false
	}
	return o, true
}

// place puts an entry into the log of the whole family; it is false for one that has no place there.
func (r *Relative) place(e *data.Entry) bool {
	if r.Path == "" {
		return true
	}
	if e.Kind == data.EntryRunEnded { // what the step above says
		return false
	}
	e.Run, e.Step = r.Run.Name, r.Path+"/"+e.Step
	return true
}

// followLogs follows the logs of a family, of which more may come. The end of the run is the last entry.
func (c *Cluster) followLogs(ctx context.Context, run *v1alpha1.ArkRun, o LogOptions, f func(e *data.Entry) error) error {
	reading, stop := context.WithCancel(ctx)
	l := &logs{c: c, o: o, f: f, open: map[string]bool{}}
	defer l.group.Wait()
	defer stop()
	watching, enough := context.WithCancel(reading)
	defer enough()
	watched := make(chan struct{})
	at := *c
	at.Namespace = run.Namespace
	go func() {
		defer close(watched)
		_ = at.WatchRuns(watching, familyOf(run), func(now *v1alpha1.ArkRun, gone bool) error {
			if !gone {
				l.add(reading, run, now)
			}
			return nil
		})
	}()
	var end *data.Entry
	top := l.pass(&Relative{Run: run})
	err := c.Log(ctx, run, o, func(e *data.Entry) error {
		if e.Kind == data.EntryRunEnded {
			end = e
			return nil
		}
		return top(e)
	})
	enough()
	<-watched
	if err != nil || end == nil {
		return err
	}
	if all, err := c.Family(ctx, run); err == nil { // the watch may be behind
		for i := range all[1:] {
			l.add(reading, run, all[i+1].Run)
		}
	}
	l.group.Wait() // the runs below ended before
	return top(end)
}

// logs is one call of followLogs.
type logs struct {
	c     *Cluster
	o     LogOptions
	group sync.WaitGroup

	mu     sync.Mutex
	f      func(e *data.Entry) error
	failed error
	all    []v1alpha1.ArkRun
	open   map[string]bool // by uid
}

// pass hands entries of a run on, one at a time.
func (l *logs) pass(r *Relative) func(*data.Entry) error {
	return func(e *data.Entry) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.failed == nil && r.place(e) {
			l.failed = l.f(e)
		}
		return l.failed
	}
}

// add follows the log of a run that is new in the family, and of those that have waited for it.
func (l *logs) add(ctx context.Context, top, run *v1alpha1.ArkRun) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.ContainsFunc(l.all, func(r v1alpha1.ArkRun) bool { return r.UID == run.UID }) {
		l.all = append(l.all, *run)
	}
	for _, r := range family(top, l.all)[1:] {
		wanted, inside := r.inside(l.o)
		if l.open[string(r.Run.UID)] || !inside {
			continue
		}
		l.open[string(r.Run.UID)] = true
		one := r
		l.group.Go(func() {
			err := l.c.Log(ctx, one.Run, wanted, l.pass(&one))
			if err != nil && ctx.Err() == nil {
				l.note(&one, err)
			}
		})
	}
}

// note says in the log itself that a part of it is missing.
func (l *logs) note(r *Relative, err error) {
	_ = l.pass(r)(&data.Entry{Kind: data.EntryNote, Error: true, Text: err.Error()})
}
