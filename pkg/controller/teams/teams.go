// Package teams acts on ArkTeams: it keeps the agents of their inline roles, the ArkService of their entry, their status and
// the history of their runs, and makes an ArkRun of each accepted trigger.
package teams

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/controller"
	"arkonis.dev/ark/pkg/controller/teamspec"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/work"
)

// Config is what the controller works with. Observe may be left out.
type Config struct {
	Clients *kube.Clients
	Cache   *kube.Cache
	Applier *kube.Applier
	Queue   *queue.Queue
	// Budget reads the daily budget of a team, and when a call of so many tokens is possible.
	Budget  func(ctx context.Context, namespace, team string, tokens int64) (work.BudgetState, error)
	Workers int
	Logger  *slog.Logger
	Observe controller.Observer
}

// Teams is the controller.
type Teams struct {
	*controller.Controller
	cfg Config
	log *slog.Logger

	mu      sync.Mutex
	written map[controller.Key]time.Time // when the status of a team was last written
	looked  map[controller.Key]time.Time // when a team was last looked at
}

// byTeam indexes runs by the team that they are of: namespace/name.
const byTeam = "team"

// New makes the controller. It registers with the cache.
func New(c Config) (*Teams, error) {
	t := &Teams{cfg: c, log: c.Logger.With("controller", "teams"), written: map[controller.Key]time.Time{}, looked: map[controller.Key]time.Time{}}
	t.Controller = controller.New("teams", c.Workers, t.reconcile, c.Logger, c.Observe)
	err := errors.Join(
		c.Cache.Runs.Index(byTeam, func(r *v1alpha1.ArkRun) []string {
			if r.Spec.TeamRef == nil {
				return nil
			}
			return []string{controller.Key{Namespace: r.Namespace, Name: r.Spec.TeamRef.Name}.String()}
		}),
		c.Cache.Teams.OnChange(t.teamChanged), c.Cache.Runs.OnChange(t.runChanged), c.Cache.Agents.OnChange(t.agentChanged),
		c.Cache.Services.OnChange(func(old, now *v1alpha1.ArkService) { t.addTeamOf(either(old, now)) }),
		c.Cache.Registries.OnChange(func(old, now *v1alpha1.ArkRegistry) { t.addWhere(either(old, now).GetNamespace(), refersToRegistry) }),
	)
	if err != nil {
		return nil, fmt.Errorf("teams: %w", err)
	}
	return t, nil
}

func either[T interface {
	comparable
	metav1.Object
}](old, now T) T {
	var none T
	if now == none {
		return old
	}
	return now
}

// teamChanged enqueues a team, and those that refer to it.
func (t *Teams) teamChanged(old, now *v1alpha1.ArkTeam) {
	team := either(old, now)
	if old != nil && now != nil && old.Generation == now.Generation && old.UID == now.UID && old.DeletionTimestamp.IsZero() == now.DeletionTimestamp.IsZero() {
		return // its status is written here
	}
	t.Add(controller.KeyOf(team))
	t.addWhere(team.Namespace, func(other *v1alpha1.ArkTeam) bool {
		for i := range other.Spec.Roles {
			if other.Spec.Roles[i].ArkTeam == team.Name {
				return true
			}
		}
		return false
	})
}

// runChanged enqueues the team of a run that was made, has ended or was removed: at once, and while many do so, once for
// all of the time from one status to the next, as each look goes through all runs of the team.
func (t *Teams) runChanged(old, now *v1alpha1.ArkRun) {
	run := either(old, now)
	if run.Spec.TeamRef == nil || old != nil && now != nil && old.Status.Phase == now.Status.Phase && old.UID == now.UID {
		return
	}
	key := controller.Key{Namespace: run.Namespace, Name: run.Spec.TeamRef.Name}
	t.mu.Lock()
	wait := time.Until(t.looked[key].Add(statusEvery))
	t.mu.Unlock()
	t.AddAfter(key, wait)
}

// agentChanged enqueues the teams that an agent belongs to or works for.
func (t *Teams) agentChanged(old, now *v1alpha1.ArkAgent) {
	agent := either(old, now)
	if old != nil && now != nil && old.Generation == now.Generation && old.UID == now.UID &&
		old.Status.ReadyReplicas == now.Status.ReadyReplicas && old.Status.DesiredReplicas == now.Status.DesiredReplicas &&
		meta.IsStatusConditionTrue(old.Status.Conditions, v1alpha1.ConditionBudgetExceeded) == meta.IsStatusConditionTrue(now.Status.Conditions, v1alpha1.ConditionBudgetExceeded) {
		return
	}
	t.addTeamOf(agent)
	t.addWhere(agent.Namespace, func(team *v1alpha1.ArkTeam) bool {
		for i := range team.Spec.Roles {
			if team.Spec.Roles[i].ArkAgent == agent.Name {
				return true
			}
		}
		return refersToRegistry(team)
	})
}

func refersToRegistry(team *v1alpha1.ArkTeam) bool {
	return team.Spec.RegistryRef != nil || team.Spec.Routing != nil
}

// addTeamOf enqueues the team that an object was made for.
func (t *Teams) addTeamOf(o metav1.Object) {
	if name := o.GetLabels()[v1alpha1.LabelTeam]; name != "" {
		t.Add(controller.Key{Namespace: o.GetNamespace(), Name: name})
	}
}

func (t *Teams) addWhere(namespace string, which func(*v1alpha1.ArkTeam) bool) {
	for _, team := range t.cfg.Cache.Teams.In(namespace) {
		if which(team) {
			t.Add(controller.KeyOf(team))
		}
	}
}

// Run acts on teams, and on the triggers that are accepted, until ctx ends.
func (t *Teams) Run(ctx context.Context) {
	var group sync.WaitGroup
	group.Go(func() { t.followTriggers(ctx) })
	group.Go(func() { t.sweep(ctx) })
	t.Controller.Run(ctx)
	group.Wait()
}

// reconcile brings a team to what it shall be.
func (t *Teams) reconcile(ctx context.Context, key controller.Key) (controller.Result, error) {
	t.mu.Lock()
	t.looked[key] = time.Now()
	t.mu.Unlock()
	w, err := t.gather(ctx, key)
	if err != nil {
		return controller.Result{}, err
	}
	d := decide(w, time.Now())
	if w.team != nil {
		d.conflict, err = t.apply(ctx, &d)
	}
	for _, run := range d.remove {
		err = errors.Join(err, t.removeRun(ctx, run))
	}
	if terminating(err) {
		return controller.Result{}, nil // the namespace goes, and all in it
	}
	if err != nil {
		return controller.Result{}, err
	}
	if w.team == nil {
		return t.removed(ctx, key)
	}
	again, err := t.writeStatus(ctx, w.team, d.statusNow())
	return controller.Result{After: soonest(d.again, again)}, err
}

// settledAfter is when the last calls of a removed team are settled: that may bring its budget back.
const settledAfter = 2 * work.DefaultSettleAfter

// removed drops what is kept of a team that does not exist.
func (t *Teams) removed(ctx context.Context, key controller.Key) (controller.Result, error) {
	t.mu.Lock()
	delete(t.written, key)
	delete(t.looked, key)
	t.mu.Unlock()
	// The cache may be behind: what follows cannot be undone.
	_, err := t.cfg.Clients.Teams(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	if !t.cfg.Cache.Missing(ctx, key.Namespace, err) {
		if apierrors.IsForbidden(err) { // a namespace that another operator looks after
			err = nil
		}
		return controller.Result{}, err
	}
	found, err := t.cfg.Queue.ForgetTeam(ctx, key.Namespace, key.Name)
	if err != nil || !found {
		return controller.Result{}, err
	}
	return controller.Result{After: settledAfter}, nil
}

// sweep looks at the teams that were removed while nobody looked.
func (t *Teams) sweep(ctx context.Context) {
	if err := t.cfg.Queue.EachTeam(ctx, func(namespace, team string) {
		t.Add(controller.Key{Namespace: namespace, Name: team})
	}); err != nil && ctx.Err() == nil {
		t.log.WarnContext(ctx, "budgets of removed teams are kept until the next start", "error", err)
	}
}

// terminating says that something could not be made because its namespace is being removed.
func terminating(err error) bool {
	return apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}

// soonest is the shorter of two pauses; 0 is never.
func soonest(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// gather is what the cache and the ledger know of a team.
func (t *Teams) gather(ctx context.Context, key controller.Key) (world, error) {
	w := world{key: key, runs: t.cfg.Cache.Runs.By(byTeam, key.String())}
	team, ok := t.cfg.Cache.Teams.Get(key.Namespace, key.Name)
	if !ok {
		return w, nil
	}
	w.team = team
	w.lookup = teamspec.Lookup(t.cfg.Cache, key.Namespace)
	w.service, _ = t.cfg.Cache.Services.Get(key.Namespace, key.Name)
	return w, t.gatherBudget(ctx, &w)
}

// apply makes what the team needs and removes what it does not need any more. What ark did not make is left alone: that
// is the conflict.
func (t *Teams) apply(ctx context.Context, d *decision) (conflict error, err error) {
	ns := d.team.Namespace
	keep := func(failed error) {
		if errors.Is(failed, kube.ErrConflict) {
			conflict = errors.Join(conflict, failed)
			return
		}
		err = errors.Join(err, failed)
	}
	for _, want := range d.agents {
		_, _, failed := kube.Apply(ctx, t.cfg.Applier, t.cfg.Clients.Agents(ns), d.live[want.Name], want)
		keep(failed)
	}
	for _, agent := range d.surplus {
		keep(kube.Delete(ctx, t.cfg.Applier, t.cfg.Clients.Agents(ns), "ArkAgent", agent))
	}
	if d.service != nil {
		_, _, failed := kube.Apply(ctx, t.cfg.Applier, t.cfg.Clients.Services(ns), d.liveService, d.service)
		keep(failed)
	} else if d.liveService != nil {
		keep(kube.Delete(ctx, t.cfg.Applier, t.cfg.Clients.Services(ns), "ArkService", d.liveService))
	}
	return conflict, err
}

func (t *Teams) removeRun(ctx context.Context, run *v1alpha1.ArkRun) error {
	uid := run.UID
	err := t.cfg.Clients.Runs(run.Namespace).Delete(ctx, run.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("remove run %s: %w", run.Name, err)
	}
	return nil
}

// statusEvery is the least time between two writes of a team's status: its runs may come and go much faster.
const statusEvery = time.Second

// writeStatus writes a status that has changed, or says when it may be written.
func (t *Teams) writeStatus(ctx context.Context, team *v1alpha1.ArkTeam, status v1alpha1.ArkTeamStatus) (again time.Duration, err error) {
	if equality.Semantic.DeepEqual(team.Status, status) {
		return 0, nil
	}
	now, key := time.Now(), controller.KeyOf(team)
	t.mu.Lock()
	wait := t.written[key].Add(statusEvery).Sub(now)
	if wait <= 0 {
		t.written[key] = now
	}
	t.mu.Unlock()
	if wait > 0 && status.ObservedGeneration == team.Status.ObservedGeneration {
		return wait, nil
	}
	changed := team.DeepCopy()
	changed.Status = status
	_, err = kube.UpdateStatus(ctx, t.cfg.Clients.Teams(team.Namespace), "ArkTeam", changed)
	if apierrors.IsNotFound(err) {
		return 0, nil
	}
	if apierrors.IsConflict(err) {
		return statusEvery, nil // the cache is behind what was written last
	}
	return 0, err
}
