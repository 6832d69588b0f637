package remote

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arkonis.dev/ark/pkg/apis/data"
	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/remote/why"
)

// Why gathers what explains a run. What the user has no right to read, or what cannot be read, is left out and named.
func (c *Cluster) Why(ctx context.Context, run *v1alpha1.ArkRun, operatorNamespace string, now time.Time) (*why.Facts, error) {
	f := &why.Facts{Now: now, Run: run, Agents: map[string]why.Agent{}, Children: map[string]*v1alpha1.ArkRun{}}
	g := gathering{Cluster: c, facts: f}
	if t := run.Spec.TeamRef; t != nil {
		team, err := c.Clients.Teams(run.Namespace).Get(ctx, t.Name, metav1.GetOptions{})
		switch {
		case err == nil:
			f.Team = team
		case apierrors.IsNotFound(err):
			f.TeamMissing = true
		case !g.unseen(err, kindTeam+" "+t.Name):
			return nil, c.explain(err, "get", kindTeam+" "+t.Name)
		}
	}
	for _, name := range agentsOf(run, f.Team) {
		if err := g.agent(ctx, name); err != nil {
			return nil, err
		}
	}
	if err := g.children(ctx); err != nil {
		return nil, err
	}
	if run.Status.Phase.Terminal() {
		return f, nil
	}
	var err error
	f.Operator, err = c.Operator(ctx, operatorNamespace)
	return f, err
}

// gathering collects facts.
type gathering struct {
	*Cluster
	facts *why.Facts
}

// unseen notes what the user has no right to read; it is false for any other error.
func (g *gathering) unseen(err error, what string) bool {
	if !apierrors.IsForbidden(err) {
		return false
	}
	g.facts.Unseen = append(g.facts.Unseen, "not seen, for want of rights: "+what)
	return true
}

// agentsOf are the agents that a run needs: those of its steps, or of its roles before it has steps.
func agentsOf(run *v1alpha1.ArkRun, team *v1alpha1.ArkTeam) []string {
	seen := map[string]bool{"": true}
	var names []string
	add := func(name string) {
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	for i := range run.Status.Steps {
		add(run.Status.Steps[i].Agent)
	}
	for _, r := range why.SpecOf(run).Roles {
		add(r.Agent)
	}
	if run.Spec.AgentRef != nil {
		add(run.Spec.AgentRef.Name)
	}
	if len(names) > 0 || team == nil {
		return names
	}
	for i := range team.Status.Roles {
		add(team.Status.Roles[i].Agent)
	}
	return names
}

func (g *gathering) agent(ctx context.Context, name string) error {
	namespace := g.facts.Run.Namespace
	var a why.Agent
	agent, err := g.Clients.Agents(namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil:
		a.Agent = agent
	case apierrors.IsNotFound(err):
	case g.unseen(err, kindAgent+" "+name):
		return nil
	default:
		return g.explain(err, "get", kindAgent+" "+name)
	}
	if a.Agent != nil && a.Agent.Status.ReadyReplicas == 0 {
		pods, err := g.Clients.Core.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: v1alpha1.LabelAgent + "=" + name})
		if err != nil && !g.unseen(err, "the pods of agent "+name) {
			return g.explain(err, "list", "the pods of agent "+name)
		}
		if err == nil {
			a.Pods = pods.Items
		}
	}
	g.facts.Agents[name] = a
	return nil
}

// children finds the runs that carry out steps of this one.
func (g *gathering) children(ctx context.Context) error {
	run := g.facts.Run
	teams := map[string]string{} // by role
	for _, r := range why.SpecOf(run).Roles {
		if r.Team != "" {
			teams[r.Name] = r.Team
		}
	}
	for i := range run.Status.Steps {
		s := &run.Status.Steps[i]
		team := teams[s.Role]
		if team == "" || len(s.TaskID) < v1alpha1.RunHexLength {
			continue
		}
		name := v1alpha1.RunName(team, s.TaskID)
		child, err := g.Clients.Runs(run.Namespace).Get(ctx, name, metav1.GetOptions{})
		switch {
		case err == nil:
			g.facts.Children[s.TaskID] = child
		case apierrors.IsNotFound(err), g.unseen(err, kindRun+" "+name):
		default:
			return g.explain(err, "get", kindRun+" "+name)
		}
	}
	return nil
}

// operatorLabels choose the operator's workload and pods.
const operatorLabels = "app.kubernetes.io/name=ark,app.kubernetes.io/component=operator"

// Operator finds out how ark's operator is: its workload, if the user may read it, and whether it answers.
func (c *Cluster) Operator(ctx context.Context, namespace string) (why.Operator, error) {
	o := why.Operator{Data: c.dataAPI(ctx)}
	found, err := c.workload(ctx, namespace, &o)
	if apierrors.IsForbidden(err) {
		return o, nil
	}
	if err != nil {
		return o, c.explain(err, "look for", "the operator in namespace "+namespace)
	}
	o.Seen = true
	if !found {
		return o, nil
	}
	pods, err := c.Clients.Core.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{LabelSelector: operatorLabels})
	if err == nil {
		o.Pods = pods.Items
	}
	return o, nil
}

func (c *Cluster) workload(ctx context.Context, namespace string, o *why.Operator) (bool, error) {
	choose := metav1.ListOptions{LabelSelector: operatorLabels}
	sets, err := c.Clients.Core.AppsV1().StatefulSets(namespace).List(ctx, choose)
	if err != nil {
		return false, err
	}
	for i := range sets.Items {
		s := &sets.Items[i]
		o.Kind, o.Namespace, o.Name = "StatefulSet", namespace, s.Name
		o.Desired, o.Ready = replicas(s.Spec.Replicas), s.Status.ReadyReplicas
		return true, nil
	}
	deployments, err := c.Clients.Core.AppsV1().Deployments(namespace).List(ctx, choose)
	if err != nil {
		return false, err
	}
	for i := range deployments.Items {
		d := &deployments.Items[i]
		o.Kind, o.Namespace, o.Name = "Deployment", namespace, d.Name
		o.Desired, o.Ready = replicas(d.Spec.Replicas), d.Status.ReadyReplicas
		return true, nil
	}
	return false, nil
}

func replicas(n *int32) int32 {
	if n == nil {
		return 1
	}
	return *n
}

// dataAPI asks the aggregated API for its list of resources, which everybody may read.
func (c *Cluster) dataAPI(ctx context.Context) why.DataAPI {
	err := c.Clients.Core.Discovery().RESTClient().Get().AbsPath(data.Path).Do(ctx).Error()
	switch {
	case err == nil:
		return why.DataServed
	case apierrors.IsNotFound(err):
		return why.DataAbsent
	case apierrors.IsServiceUnavailable(err):
		return why.DataUnavailable
	default:
		return why.DataUnknown
	}
}

// Overview is how ark is in a cluster.
type Overview struct {
	Operator why.Operator
	Agents   []v1alpha1.ArkAgent
	Teams    []v1alpha1.ArkTeam
	Events   []v1alpha1.ArkEvent
	// Live are the runs that have not ended.
	Live []v1alpha1.ArkRun
	// Image that the operator's pods run.
	Image string
	// Unseen says what could not be read.
	Unseen []string
}

// Overview gathers how ark is. A user who may read only some of it sees that.
func (c *Cluster) Overview(ctx context.Context, operatorNamespace string) (*Overview, error) {
	o := &Overview{}
	var err error
	if o.Operator, err = c.Operator(ctx, operatorNamespace); err != nil {
		return nil, err
	}
	for _, p := range o.Operator.Pods {
		for i := range p.Spec.Containers {
			o.Image = p.Spec.Containers[i].Image
		}
	}
	all := metav1.ListOptions{}
	for _, part := range []struct {
		what string
		read func() error
	}{
		{kindAgent, func() error {
			return each(ctx, c.Clients.Agents(c.Namespace), all, func(a *v1alpha1.ArkAgent) { o.Agents = append(o.Agents, *a) })
		}},
		{kindTeam, func() error {
			return each(ctx, c.Clients.Teams(c.Namespace), all, func(t *v1alpha1.ArkTeam) { o.Teams = append(o.Teams, *t) })
		}},
		{kindEvent, func() error {
			return each(ctx, c.Clients.Events(c.Namespace), all, func(e *v1alpha1.ArkEvent) { o.Events = append(o.Events, *e) })
		}},
		{kindRun, func() error {
			return each(ctx, c.Clients.Runs(c.Namespace), all, func(r *v1alpha1.ArkRun) {
				if !r.Status.Phase.Terminal() {
					o.Live = append(o.Live, *r)
				}
			})
		}},
	} {
		err := part.read()
		switch {
		case err == nil:
		case apierrors.IsForbidden(err):
			o.Unseen = append(o.Unseen, fmt.Sprintf("%ss are not shown: %s", part.what, cause(err)))
		default:
			return nil, c.explain(err, "list", part.what+"s "+c.In())
		}
	}
	if len(o.Unseen) == 4 {
		return nil, errors.New("you have no right to read ark's objects " + c.In() + ": ask an administrator for the role ark-view, or name one of your namespaces with -n")
	}
	return o, nil
}
