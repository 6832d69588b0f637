package main

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/cache"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/trigger"
)

// subject is a way in which runs are made, in a namespace where somebody brings them to their end. A watch tells of it.
type subject struct {
	w               *world
	name, namespace string
	trigger         bool // by an ArkEvent, not by hand
	made            int

	// By what was created: the run, or the event that it comes from.
	mu       sync.Mutex
	created  map[string]time.Time
	runs     map[string]string        // their names
	finished map[string]time.Duration // since they were created
	started  int
	failure  error
	wake     chan struct{} // closed and replaced when something changes
}

func (w *world) subject(name, namespace string) *subject {
	return &subject{
		w: w, name: name, namespace: namespace, created: map[string]time.Time{}, runs: map[string]string{},
		finished: map[string]time.Duration{}, wake: make(chan struct{}),
	}
}

// follow watches the runs of a namespace, which are of one of some subjects, until ctx ends.
func (w *world) follow(ctx context.Context, namespace string, subjects ...*subject) error {
	running := map[string]bool{}
	return w.watch(ctx, namespace, func(r *v1alpha1.ArkRun) {
		for _, s := range subjects {
			s.see(r, running)
		}
	})
}

// watch calls f, one call after the other, for every run of a namespace as it is and whenever it has changed, until ctx ends.
func (w *world) watch(ctx context.Context, namespace string, f func(*v1alpha1.ArkRun)) error {
	runs := w.clients.Runs(namespace)
	see := func(o any) {
		if r, ok := o.(*v1alpha1.ArkRun); ok {
			f(r)
		}
	}
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: &cache.ListWatch{
			ListWithContextFunc:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return runs.List(ctx, o) },
			WatchFuncWithContext: runs.Watch,
		},
		ObjectType: &v1alpha1.ArkRun{},
		Handler:    cache.ResourceEventHandlerFuncs{AddFunc: see, UpdateFunc: func(_, now any) { see(now) }},
	})
	go informer.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return context.Cause(ctx)
	}
	return nil
}

func (s *subject) see(r *v1alpha1.ArkRun, running map[string]bool) {
	now, made := time.Now(), cmp.Or(r.Labels[v1alpha1.LabelEvent], r.Name)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.created[made].IsZero() {
		return // it is another subject's
	}
	s.runs[made] = r.Name
	if r.Status.Phase == v1alpha1.RunRunning && !running[r.Name] {
		running[r.Name] = true
		s.started++
		s.changed()
	}
	if _, before := s.finished[made]; before || !r.Status.Phase.Terminal() {
		return
	}
	delete(running, r.Name)
	s.finished[made] = now.Sub(s.created[made])
	if r.Status.Phase != v1alpha1.RunSucceeded {
		s.failure = fmt.Errorf("run %s: %s: %s", r.Name, r.Status.Phase, r.Status.Message)
	}
	s.changed()
}

func (s *subject) changed() {
	close(s.wake)
	s.wake = make(chan struct{})
}

func (s *subject) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failure == nil {
		s.failure = err
	}
	s.changed()
}

// until waits for something that the watch tells.
func (s *subject) until(ctx context.Context, what string, ok func() bool) error {
	for {
		s.mu.Lock()
		done, failure, wake := ok(), s.failure, s.wake
		s.mu.Unlock()
		if failure != nil {
			return fmt.Errorf("%s: %w", s.name, failure)
		}
		if done {
			return nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return fmt.Errorf("%s: waiting for %s: %w", s.name, what, context.Cause(ctx))
		}
	}
}

// create has n runs made, some at once, and returns the names of what it created.
func (s *subject) create(ctx context.Context, n int) ([]string, error) {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%s-%06d", s.name, s.made)
		s.made++
	}
	const writers = 16
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(min(writers, n))
	for _, name := range names {
		g.Go(func() error {
			s.mu.Lock()
			s.created[name] = time.Now()
			s.mu.Unlock()
			if s.trigger {
				return s.fire(ctx, name)
			}
			return s.apply(ctx, name)
		})
	}
	return names, g.Wait()
}

// apply makes a run as a person may, with the team and the input alone.
func (s *subject) apply(ctx context.Context, name string) error {
	input, err := v1alpha1.NewValues(map[string]any{"topic": name})
	if err != nil {
		return err
	}
	_, err = s.w.clients.Runs(s.namespace).Create(ctx, &v1alpha1.ArkRun{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.ArkRunSpec{TeamRef: &v1alpha1.Reference{Name: "trio"}, Input: input},
	}, metav1.CreateOptions{})
	return err
}

// fire has a run made as ark trigger does.
func (s *subject) fire(ctx context.Context, name string) error {
	event, err := trigger.Manual(trigger.Request{Namespace: s.namespace, Team: "trio", ID: name, Input: map[string]any{"topic": name}})
	if err != nil {
		return err
	}
	event.Name = name
	_, err = s.w.clients.Events(s.namespace).Create(ctx, event, metav1.CreateOptions{})
	return err
}

// ends waits for the end of all runs that were made.
func (s *subject) ends(ctx context.Context) error {
	return s.until(ctx, "the end of runs", func() bool { return len(s.finished) == s.made })
}

// gate holds back the answers of the model server while it is closed.
type gate struct {
	mu   sync.Mutex
	pass chan struct{} // closed: calls pass
}

func newGate() *gate {
	g := &gate{pass: make(chan struct{})}
	close(g.pass)
	return g
}

func (g *gate) shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.pass = make(chan struct{})
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	select {
	case <-g.pass:
	default:
		close(g.pass)
	}
}

func (g *gate) answer(modelserver.Call) *modelserver.Reply {
	g.mu.Lock()
	pass := g.pass
	g.mu.Unlock()
	<-pass
	return &modelserver.Reply{Text: "done"}
}
