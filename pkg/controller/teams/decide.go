package teams

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/controller"
	"arkonis.dev/ark/pkg/controller/history"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/runner"
)

// world is what a reconcile sees.
type world struct {
	key     controller.Key
	team    *v1alpha1.ArkTeam // nil: there is none
	lookup  pipeline.Lookup
	service *v1alpha1.ArkService
	runs    []*v1alpha1.ArkRun // of the team, live and finished
	budget  *budget            // nil: no daily limit
}

// decision is what shall be.
type decision struct {
	team        *v1alpha1.ArkTeam
	agents      []*v1alpha1.ArkAgent // of inline roles and the router
	live        map[string]*v1alpha1.ArkAgent
	surplus     []*v1alpha1.ArkAgent
	service     *v1alpha1.ArkService // nil: none
	liveService *v1alpha1.ArkService // nil: none that is the team's
	remove      []*v1alpha1.ArkRun
	status      v1alpha1.ArkTeamStatus
	again       time.Duration // when a run becomes too old, or the budget another one; 0 for never
	conflict    error         // found when it was applied
	now         time.Time
}

func decide(w world, now time.Time) decision {
	d := decision{team: w.team, live: w.lookup.Agents, now: now}
	if w.team == nil || w.team.DeletionTimestamp != nil {
		// The garbage collector would come to the runs too; but nothing is paid for them any more from now on.
		for _, r := range w.runs {
			owner := metav1.GetControllerOf(r)
			if owner != nil && owner.Kind == "ArkTeam" && owner.Name == w.key.Name && (w.team == nil || owner.UID == w.team.UID) {
				d.remove = append(d.remove, r)
			}
		}
		if w.team != nil {
			d.status = w.team.Status
			d.agents, d.live = nil, nil
		}
		return d
	}
	found := pipeline.ValidateTeam(w.team, runner.Engine())
	references := pipeline.ValidateReferences(w.team, w.lookup)
	d.agents = ownAgents(w.team)
	d.surplus = surplusAgents(w.team, d.agents, w.lookup.Agents)
	if w.team.Spec.Entry != "" {
		d.service = entryService(w.team)
	}
	if w.service != nil && controlled(w.service, w.team) || d.service != nil {
		d.liveService = w.service
	}
	d.remove, d.again = surplusRuns(w.team, w.runs, now)
	d.again = soonest(d.again, w.budget.again(now))
	d.status = statusOf(w, found, references, now)
	return d
}

func controlled(o metav1.Object, team *v1alpha1.ArkTeam) bool {
	owner := metav1.GetControllerOf(o)
	return owner != nil && owner.UID == team.UID
}

// ownAgents are the agents that a team makes, as they are applied: with the fields that the user wrote and no others.
func ownAgents(team *v1alpha1.ArkTeam) []*v1alpha1.ArkAgent {
	var out []*v1alpha1.ArkAgent
	for i := range team.Spec.Roles {
		if a := team.RoleAgent(&team.Spec.Roles[i]); a != nil {
			out = append(out, a)
		}
	}
	if a := team.RouterAgent(); a != nil {
		out = append(out, a)
	}
	for _, a := range out {
		a.OwnerReferences = kube.Controlled("ArkTeam", team)
	}
	return out
}

// surplusAgents are those that the team made for roles that it does not have any more.
func surplusAgents(team *v1alpha1.ArkTeam, want []*v1alpha1.ArkAgent, live map[string]*v1alpha1.ArkAgent) []*v1alpha1.ArkAgent {
	var out []*v1alpha1.ArkAgent
	for _, name := range slices.Sorted(maps.Keys(live)) {
		a := live[name]
		wanted := slices.ContainsFunc(want, func(w *v1alpha1.ArkAgent) bool { return w.Name == name })
		if !wanted && controlled(a, team) && a.DeletionTimestamp == nil {
			out = append(out, a)
		}
	}
	return out
}

// entryPort is the port of the ArkService that leads to a team's entry role.
const entryPort = 80

func entryService(team *v1alpha1.ArkTeam) *v1alpha1.ArkService {
	return &v1alpha1.ArkService{
		TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion().String(), Kind: "ArkService"},
		ObjectMeta: metav1.ObjectMeta{
			Name: team.Name, Namespace: team.Namespace, OwnerReferences: kube.Controlled("ArkTeam", team),
			Labels: map[string]string{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy, v1alpha1.LabelTeam: team.Name},
		},
		Spec: v1alpha1.ArkServiceSpec{
			Selector: v1alpha1.ServiceSelector{ArkTeam: team.Name},
			Ports:    []v1alpha1.ServicePort{{Protocol: v1alpha1.ProtocolHTTP, Port: entryPort}},
		},
	}
}

// Limits of a history that says nothing.
const (
	defaultSucceeded = 10
	defaultFailed    = 3
)

// surplusRuns are the finished runs that the team does not keep. Runs below other runs go with them.
func surplusRuns(team *v1alpha1.ArkTeam, runs []*v1alpha1.ArkRun, now time.Time) (surplus []*v1alpha1.ArkRun, again time.Duration) {
	var succeeded, failed []*v1alpha1.ArkRun
	for _, r := range runs {
		switch {
		case !controlled(r, team) || !r.Status.Phase.Terminal():
		case r.Status.Phase == v1alpha1.RunSucceeded:
			succeeded = append(succeeded, r)
		default:
			failed = append(failed, r)
		}
	}
	keep, err := time.ParseDuration(team.Spec.RunRetainFor)
	if err != nil {
		keep = 0 // the schema allows only durations, and none
	}
	one, next := history.Surplus(succeeded, limit(team.Spec.SuccessfulRunsHistoryLimit, defaultSucceeded), keep, now)
	two, later := history.Surplus(failed, limit(team.Spec.FailedRunsHistoryLimit, defaultFailed), keep, now)
	if next.IsZero() || !later.IsZero() && later.Before(next) {
		next = later
	}
	if !next.IsZero() {
		again = max(next.Sub(now), time.Second)
	}
	return append(one, two...), again
}

func limit(n *int32, otherwise int) int {
	if n == nil {
		return otherwise
	}
	return int(*n)
}

// statusOf is the status of a team, but for what is found when it is applied.
func statusOf(w world, found, references []pipeline.Finding, now time.Time) v1alpha1.ArkTeamStatus {
	team := w.team
	s := v1alpha1.ArkTeamStatus{ObservedGeneration: team.Generation}
	if len(team.Spec.Pipeline) == 0 {
		s.EntryRole = team.Spec.Entry
	}
	s.Roles = roleStatuses(team, w.lookup)
	if last := newest(w.runs); last != nil {
		at := last.CreationTimestamp
		s.LastRunName, s.LastRunPhase, s.LastRunTime = last.Name, cmp.Or(last.Status.Phase, v1alpha1.RunPending), &at
	}
	for _, r := range w.runs {
		if !r.Status.Phase.Terminal() {
			s.ActiveRuns++
		}
	}
	ready := condition(team, found, references, s.Roles)
	s.Conditions = withTransition(team.Status.Conditions, ready, now)
	if w.budget != nil {
		s.Conditions = withTransition(s.Conditions, budgetCondition(&w), now)
	} else {
		meta.RemoveStatusCondition(&s.Conditions, v1alpha1.ConditionBudgetExceeded)
	}
	s.Phase = phase(&s, ready)
	return s
}

// statusNow is the status with what was found when the decision was applied.
func (d *decision) statusNow() v1alpha1.ArkTeamStatus {
	s := d.status
	if d.conflict == nil {
		return s
	}
	ready := metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonNameConflict, Message: clip(d.conflict.Error()),
		ObservedGeneration: d.team.Generation,
	}
	s.Conditions = withTransition(s.Conditions, ready, d.now)
	s.Phase = v1alpha1.TeamFailed
	return s
}

func roleStatuses(team *v1alpha1.ArkTeam, l pipeline.Lookup) []v1alpha1.RoleStatus {
	var out []v1alpha1.RoleStatus
	add := func(role, agent string) {
		r := v1alpha1.RoleStatus{Name: role, Agent: agent}
		if a := l.Agents[agent]; a != nil {
			r.ReadyReplicas, r.DesiredReplicas = a.Status.ReadyReplicas, a.Status.DesiredReplicas
		}
		out = append(out, r)
	}
	for i := range team.Spec.Roles {
		switch r := &team.Spec.Roles[i]; {
		case r.Model != "":
			add(r.Name, v1alpha1.RoleAgentName(team.Name, r.Name))
		case r.ArkAgent != "":
			add(r.Name, r.ArkAgent)
		default:
			out = append(out, v1alpha1.RoleStatus{Name: r.Name})
		}
	}
	if a := team.RouterAgent(); a != nil {
		add(a.Labels[v1alpha1.LabelRole], a.Name)
	}
	return out
}

func newest(runs []*v1alpha1.ArkRun) *v1alpha1.ArkRun {
	if len(runs) == 0 {
		return nil
	}
	return slices.MaxFunc(runs, func(a, b *v1alpha1.ArkRun) int {
		return cmp.Or(firedAt(a).Compare(firedAt(b)), cmp.Compare(a.Name, b.Name))
	})
}

// firedAt is when a run was asked for: its creation has whole seconds only.
func firedAt(r *v1alpha1.ArkRun) time.Time {
	if t := r.Spec.Trigger; t != nil && t.FiredAt != nil {
		return t.FiredAt.Time
	}
	return r.CreationTimestamp.Time
}

// condition is the team's Ready.
func condition(team *v1alpha1.ArkTeam, found, references []pipeline.Finding, roles []v1alpha1.RoleStatus) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, ObservedGeneration: team.Generation}
	wrong, missing := errorsOf(found), errorsOf(references)
	waiting := notReady(roles)
	switch {
	case len(wrong) > 0:
		c.Reason, c.Message = topology(found), clip(strings.Join(wrong, "; "))
	case len(missing) > 0:
		c.Reason, c.Message = v1alpha1.ReasonReferenceNotFound, clip(strings.Join(missing, "; "))
	case team.Spec.Suspend:
		c.Reason, c.Message = v1alpha1.ReasonSuspended, "triggers are refused until spec.suspend is false"
	case len(waiting) > 0:
		c.Reason, c.Message = v1alpha1.ReasonRolesNotReady, clip("roles without a ready pod: "+strings.Join(waiting, ", "))
	default:
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1alpha1.ReasonReconciled, "all roles are ready"
	}
	return c
}

// topology tells what is wrong with the steps from what is wrong with the rest.
func topology(found []pipeline.Finding) string {
	for _, f := range found {
		if f.Severity != pipeline.SeverityWarning && !strings.HasPrefix(f.Path, "spec.pipeline") {
			return v1alpha1.ReasonInvalidTopology
		}
	}
	return v1alpha1.ReasonInvalidDAG
}

func errorsOf(found []pipeline.Finding) []string {
	var out []string
	for _, f := range found {
		if f.Severity != pipeline.SeverityWarning {
			out = append(out, f.String())
		}
	}
	return out
}

// notReady lists the roles that agents play of which none is ready, and that are not scaled to nothing on purpose.
func notReady(roles []v1alpha1.RoleStatus) []string {
	var out []string
	for _, r := range roles {
		if r.Agent != "" && r.ReadyReplicas == 0 {
			out = append(out, fmt.Sprintf("%s (agent %s)", r.Name, r.Agent))
		}
	}
	return out
}

func phase(s *v1alpha1.ArkTeamStatus, ready metav1.Condition) v1alpha1.TeamPhase {
	switch {
	case ready.Reason == v1alpha1.ReasonInvalidDAG, ready.Reason == v1alpha1.ReasonInvalidTopology, ready.Reason == v1alpha1.ReasonReferenceNotFound:
		return v1alpha1.TeamFailed
	case s.ActiveRuns > 0:
		return v1alpha1.TeamRunning
	case ready.Reason == v1alpha1.ReasonRolesNotReady:
		return v1alpha1.TeamPending
	case s.LastRunPhase == v1alpha1.RunSucceeded:
		return v1alpha1.TeamSucceeded
	case s.LastRunPhase.Terminal():
		return v1alpha1.TeamFailed
	default:
		return v1alpha1.TeamReady
	}
}

// withTransition replaces a condition, and keeps its time when its status is the same.
func withTransition(old []metav1.Condition, c metav1.Condition, now time.Time) []metav1.Condition {
	c.LastTransitionTime = metav1.NewTime(now.Truncate(time.Second))
	out := make([]metav1.Condition, 0, len(old)+1)
	for _, o := range old {
		if o.Type != c.Type {
			out = append(out, o)
		} else if o.Status == c.Status {
			c.LastTransitionTime = o.LastTransitionTime
		}
	}
	return append(out, c)
}

// maxMessage bounds the message of a condition, in bytes.
const maxMessage = 4000

func clip(s string) string {
	if len(s) <= maxMessage {
		return s
	}
	return strings.ToValidUTF8(s[:maxMessage], "") + " ..."
}
