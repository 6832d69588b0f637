package operator

import (
	"context"

	"arkonis.dev/ark/pkg/controller"
	"arkonis.dev/ark/pkg/controller/agents"
	"arkonis.dev/ark/pkg/controller/events"
	"arkonis.dev/ark/pkg/controller/runs"
	"arkonis.dev/ark/pkg/controller/teams"
	"arkonis.dev/ark/pkg/queue/identity"
)

// runner acts on the objects of one kind while the operator leads.
type runner interface {
	Name() string
	Add(k controller.Key)
	Run(ctx context.Context)
}

// addControllers makes the controllers. It is called before the cache runs, as they register with it.
func (o *Operator) addControllers() error {
	var err error
	o.agents, err = agents.New(agents.Config{
		Clients: o.cfg.Clients, Cache: o.cache, Applier: o.apply, Queue: o.queue.Queue, Reports: o.service.Reports,
		Budgets: o.daily, Budget: o.service.Budget, Access: o.access,
		Pods: o.cfg.Agents, Workers: o.cfg.Workers, Logger: o.log,
	})
	if err != nil {
		return err
	}
	o.controllers = append(o.controllers, o.agents)
	r, err := runs.New(runs.Config{
		Clients: o.cfg.Clients, Cache: o.cache, Queue: o.queue.Queue, Account: o.service.Account, Watch: o.cfg.Watch,
		Workers: o.cfg.Workers, Logger: o.log, Telemetry: o.cfg.Telemetry,
	})
	if err != nil {
		return err
	}
	o.controllers = append(o.controllers, r)
	t, err := teams.New(teams.Config{
		Clients: o.cfg.Clients, Cache: o.cache, Applier: o.apply, Queue: o.queue.Queue, Budget: o.teamBudget, Workers: o.cfg.Workers, Logger: o.log,
	})
	if err != nil {
		return err
	}
	e, err := events.New(events.Config{
		Clients: o.cfg.Clients, Cache: o.cache, Queue: o.queue.Queue, Kept: o.cfg.TriggersKept,
		Workers: o.cfg.Workers, Logger: o.log, Telemetry: o.cfg.Telemetry,
	})
	if err != nil {
		return err
	}
	o.controllers = append(o.controllers, t, e)
	return nil
}

// access is how an agent's pods reach the queue.
func (o *Operator) access(agent identity.Agent, current []byte) (agents.Access, error) {
	a, err := o.queue.access(agent, current)
	return agents.Access(a), err
}
