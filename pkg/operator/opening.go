package operator

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/work"
)

const (
	// openTries bounds how often budgets are opened again because another operator is just doing it.
	openTries = 5
	// runsPage is how many runs are read at once.
	runsPage = 100
)

// openBudgets gives daily budgets what they begin with in a store that is new: what Kubernetes records of the last 24 hours.
// The store may have been lost, and what was spent would be spent again. It is called before anything is let through.
func (o *Operator) openBudgets(ctx context.Context) error {
	groups := o.cfg.Watch
	if len(groups) == 0 {
		groups = []string{metav1.NamespaceAll}
	}
	for _, namespace := range groups {
		if err := o.openGroup(ctx, namespace); err != nil {
			return fmt.Errorf("operator: daily budgets: %w", err)
		}
	}
	return nil
}

// openGroup opens the budgets of a namespace, or of all.
func (o *Operator) openGroup(ctx context.Context, namespace string) error {
	var err error
	for range openTries {
		var open bool
		if open, err = o.service.Opened(ctx, namespace); open || err != nil {
			return err
		}
		var openings []work.Opening
		if openings, err = o.openings(ctx, namespace, time.Now()); err != nil {
			return err
		}
		if err = o.service.Open(ctx, namespace, openings); errors.Is(err, queue.ErrStale) {
			continue
		}
		if err == nil {
			o.tellOpened(ctx, openings)
		}
		return err
	}
	return err
}

func (o *Operator) tellOpened(ctx context.Context, openings []work.Opening) {
	used := 0
	for _, opening := range openings {
		tokens := int64(0)
		for _, c := range opening.Charges {
			tokens += c.Tokens
		}
		if tokens == 0 {
			continue
		}
		used++
		o.log.InfoContext(ctx, "a daily budget begins with what is recorded", "namespace", opening.Namespace, "scope", opening.Budget.Scope, "tokens", tokens)
	}
	if used > 0 {
		o.log.WarnContext(ctx, "the queue's store is new: daily budgets begin with what the runs and agents of the last 24 hours record, and count too much rather than too little",
			"budgets", used)
	}
}

// openings are the daily budgets of all agents and teams of a namespace, or of all, and what is recorded of their use.
func (o *Operator) openings(ctx context.Context, namespace string, now time.Time) ([]work.Opening, error) {
	var use records
	for _, a := range o.cache.Agents.All() {
		if namespace == "" || a.Namespace == namespace {
			use.addAgent(a)
		}
	}
	for _, t := range o.cache.Teams.All() {
		if namespace == "" || t.Namespace == namespace {
			use.addTeam(t)
		}
	}
	options := metav1.ListOptions{Limit: runsPage}
	for use.any() {
		// The cache keeps no steps of runs that have ended.
		page, err := o.cfg.Clients.Runs(namespace).List(ctx, options)
		if apierrors.IsForbidden(err) && namespace != "" && o.cache.Gone(ctx, namespace) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("list runs: %w", err)
		}
		for i := range page.Items {
			use.addRun(&page.Items[i], now)
		}
		if options.Continue = page.Continue; options.Continue == "" {
			break
		}
	}
	return use.openings(now), nil
}
