// Package agents is the controller of ArkAgents: a Deployment for each, with its prompt, its credentials and its tools'
// secrets as files, as many pods as it shall have, and a status that says how it is.
//
// A reconcile gathers what is (gather.go), decides what shall be (decide.go and the builders, all pure), applies it
// (apply.go), and says in the status what came of it (status.go). It is asked for when the agent, an object that it
// refers to or one that it made has changed, when a task is queued for it or ends, and when its pods report news; an
// agent with nothing to do is not looked at.
package agents

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/controller"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/queue/identity"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

// Name is that of the controller.
const Name = "agents"

// Pods is what the pods of all agents are made with.
type Pods struct {
	// Image of the agents' containers: the operator's own.
	Image string
	// EnvFrom names Secrets that every agent's environment gets, in its own namespace and where they exist.
	EnvFrom []string
	// Env is added to every agent's environment; the agent's own entries win.
	Env []corev1.EnvVar
	// CA are certificates, PEM, of authorities that every agent trusts besides those of its image; empty for none.
	CA []byte
}

// Access is how an agent's pods reach the queue.
type Access struct {
	Credentials []byte    // the file of NATS_CREDS; empty for none
	CA          []byte    // that the server's certificate is checked with; empty for the system's own
	URL         string    //
	RenewAt     time.Time // when to ask again; zero for never
}

// Config says what the controller works with. All but Observe is required.
type Config struct {
	Clients *kube.Clients
	Cache   *kube.Cache
	Applier *kube.Applier
	Queue   *queue.Queue
	// Reports is what an agent's pods say of themselves.
	Reports func(namespace, agent string) []work.Report
	// Budgets are the daily budgets that hold for an agent; Budget reads one, and when a call of so many tokens is possible.
	Budgets func(namespace, agent, team string) []task.Budget
	Budget  func(ctx context.Context, namespace string, b task.Budget, tokens int64) (work.BudgetState, error)
	// Access returns how an agent reaches the queue. current is its credentials now, or nil: they are kept while they are
	// good.
	Access func(agent identity.Agent, current []byte) (Access, error)

	Pods    Pods
	Workers int
	Logger  *slog.Logger
	Observe controller.Observer
}

// Agents is the controller. It hears of changes from New on, and acts in Run.
type Agents struct {
	cfg      Config
	log      *slog.Logger
	now      func() time.Time
	loop     *controller.Controller
	contents *contents
	pace     *pace

	mu    sync.Mutex
	memos map[controller.Key]*memo
}

// memo is what the controller remembers of an agent between reconciles. It is lost with the process, which only makes it
// more careful.
type memo struct {
	scaling     scaling
	credentials []byte             // issued last; whoever they are not for refuses them
	deployment  *appsv1.Deployment // as it was applied last; the cache may be behind
	written     time.Time          // when the status was written last
	known       bool               // the agent was there once
	absent      time.Time          // since when it is known not to exist
}

// New makes the controller and has it hear of changes. It is called before the cache runs.
func New(c Config) (*Agents, error) {
	if c.Pods.Image == "" {
		return nil, errors.New("agents: the image of their pods is missing")
	}
	a := &Agents{
		cfg: c, log: c.Logger, now: time.Now, memos: map[controller.Key]*memo{}, pace: newPace(),
		contents: newContents(c.Clients.Core),
	}
	a.loop = controller.New(Name, c.Workers, a.reconcile, c.Logger, c.Observe)
	return a, a.listen()
}

// Name is that of the controller.
func (a *Agents) Name() string { return Name }

// Add has an agent looked at soon.
func (a *Agents) Add(k controller.Key) { a.loop.Add(k) }

// Reported has an agent looked at whose pods have reported news. It does not block.
func (a *Agents) Reported(namespace, agent string) { a.hint(namespace, agent) }

// Run works until ctx ends.
func (a *Agents) Run(ctx context.Context) {
	var group sync.WaitGroup
	group.Go(func() { a.followQueue(ctx) })
	a.loop.Run(ctx)
	group.Wait()
}

// Names of indexes.
const (
	byReference = "agents/reference"       // ArkAgents by what they refer to
	byTeam      = "agents/team"            // ArkAgents by the team whose roles they are
	bySecret    = "agents/memories/secret" // ArkMemories by the Secrets that they name
)

// listen registers for all changes that matter to agents.
func (a *Agents) listen() error {
	c := a.cfg.Cache
	return errors.Join(
		c.Agents.Index(byReference, func(o *v1alpha1.ArkAgent) []string {
			return referred(o, a.cfg.Pods.EnvFrom)
		}),
		c.Agents.Index(byTeam, func(o *v1alpha1.ArkAgent) []string { return []string{o.Namespace + "/" + o.Labels[v1alpha1.LabelTeam]} }),
		c.Memories.Index(bySecret, func(m *v1alpha1.ArkMemory) []string {
			var names []string
			for _, r := range memoryReferences(m) {
				names = append(names, indexKey(r.kind, m.Namespace, r.name))
			}
			return names
		}),
		c.Pods.Index(podsByAgent, podAgent),
		c.Agents.OnChange(func(old, now *v1alpha1.ArkAgent) {
			if old == nil || now == nil || old.Generation != now.Generation || old.UID != now.UID || !sameMeta(old, now) {
				a.loop.Add(controller.KeyOf(either(old, now)))
			}
		}),
		c.Teams.OnChange(a.teamChanged),
		c.Settings.OnChange(func(old, now *v1alpha1.ArkSettings) { a.referrers(kindSettings, either(old, now)) }),
		c.Memories.OnChange(func(old, now *v1alpha1.ArkMemory) { a.referrers(kindMemory, either(old, now)) }),
		c.ConfigMaps.OnChange(func(old, now *metav1.PartialObjectMetadata) { a.contentChanged(kindConfigMap, old, now) }),
		c.Secrets.OnChange(func(old, now *metav1.PartialObjectMetadata) { a.contentChanged(kindSecret, old, now) }),
		onOwn(a, c.Deployments),
		onOwn(a, c.Pods),
		onOwn(a, c.NetworkPolicies),
	)
}

// sameMeta says whether two versions of an agent have the labels that its pods get, and live or go alike.
func sameMeta(old, now *v1alpha1.ArkAgent) bool {
	for _, label := range []string{v1alpha1.LabelTeam, v1alpha1.LabelRole} {
		if old.Labels[label] != now.Labels[label] {
			return false
		}
	}
	return old.DeletionTimestamp.IsZero() == now.DeletionTimestamp.IsZero()
}

func either[T kube.Object](old, now T) T {
	var none T
	if any(now) == any(none) {
		return old
	}
	return now
}

// onOwn has the agent looked at whose label an object carries.
func onOwn[T kube.Object](a *Agents, i *kube.Informer[T]) error {
	return i.OnChange(func(old, now T) { a.owner(either(old, now)) })
}

func (a *Agents) owner(o metav1.Object) {
	if l := o.GetLabels(); l[v1alpha1.LabelManagedBy] == v1alpha1.ManagedBy && l[v1alpha1.LabelAgent] != "" {
		a.loop.Add(controller.Key{Namespace: o.GetNamespace(), Name: l[v1alpha1.LabelAgent]})
	}
}

func (a *Agents) contentChanged(kind string, old, now *metav1.PartialObjectMetadata) {
	o := either(old, now)
	if now == nil {
		a.contents.forget(kind, o.Namespace, o.Name)
	}
	a.owner(o)
	a.referrers(kind, o)
	for _, m := range a.cfg.Cache.Memories.By(bySecret, indexKey(kind, o.Namespace, o.Name)) {
		a.referrers(kindMemory, m)
	}
}

// referrers has every agent looked at that refers to an object.
func (a *Agents) referrers(kind string, o metav1.Object) {
	for _, agent := range a.cfg.Cache.Agents.By(byReference, indexKey(kind, o.GetNamespace(), o.GetName())) {
		a.loop.Add(controller.KeyOf(agent))
	}
}

// memo is what is remembered of an agent. Only the reconcile of its key uses it.
func (a *Agents) memo(k controller.Key) *memo {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.memos[k] == nil {
		a.memos[k] = &memo{}
	}
	return a.memos[k]
}

func (a *Agents) forget(k controller.Key) {
	a.mu.Lock()
	delete(a.memos, k)
	a.mu.Unlock()
	a.pace.forget(k)
}

// reconcile brings one agent to what it shall be.
func (a *Agents) reconcile(ctx context.Context, key controller.Key) (controller.Result, error) {
	agent, ok := a.cfg.Cache.Agents.Get(key.Namespace, key.Name)
	if !ok {
		return a.removed(ctx, key)
	}
	if !agent.DeletionTimestamp.IsZero() {
		// What it owns goes with it; it must not be made anew meanwhile.
		return controller.Result{}, nil
	}
	m := a.memo(key)
	m.known, m.absent = true, time.Time{}
	in, err := a.gather(ctx, agent, m)
	if err != nil {
		return controller.Result{}, err
	}
	p := decide(in)
	m.scaling = p.scaling
	a.tellTeam(in)
	done := a.apply(ctx, in, p)
	m.deployment = done.deployment
	wait, err := a.writeStatus(ctx, in, status(in, p, done), m)
	return controller.Result{After: soonest(p.after, done.after, wait)}, errors.Join(done.err, err)
}

// soonest is the shortest of some waits, 0 being none.
func soonest(waits ...time.Duration) time.Duration {
	var least time.Duration
	for _, w := range waits {
		if w > 0 && (least == 0 || w < least) {
			least = w
		}
	}
	return least
}
