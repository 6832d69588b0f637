package cmd

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/remote"
	"arkonis.dev/ark/pkg/remote/why"
	"arkonis.dev/ark/pkg/trigger"
)

type statusFlags struct {
	remoteFlags
	output string
}

func newStatus(s *streams) *cobra.Command {
	var f statusFlags
	c := &cobra.Command{
		Use:   "status",
		Short: "Show how ark is in a cluster: operator, queue, agents, teams, events",
		Example: `  ark status
  ark status -A`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			return f.run(ctx, s)
		},
	}
	f.add(c)
	f.addAll(c)
	f.addOperator(c)
	addOutput(c, &f.output)
	return c
}

// statusReport is what `ark status -o json` prints.
type statusReport struct {
	Operator operatorReport `json:"operator"`
	Queue    queueReport    `json:"queue"`
	Agents   []agentReport  `json:"agents"`
	Teams    []teamReport   `json:"teams"`
	Events   []eventReport  `json:"events"`
	Notes    []string       `json:"notes,omitempty"` // what could not be read
}

type operatorReport struct {
	State     string `json:"state"` // Ready, NotReady, NotFound, Unknown
	Name      string `json:"name,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Ready     int32  `json:"ready"`
	Desired   int32  `json:"desired"`
	Image     string `json:"image,omitempty"`
	DataAPI   string `json:"dataAPI,omitempty"`
}

type queueReport struct {
	LiveRuns     int   `json:"liveRuns"`
	PendingTasks int64 `json:"pendingTasks"`
	RunningTasks int64 `json:"runningTasks"`
}

type agentReport struct {
	Namespace   string `json:"namespace"`
	Name        string `json:"name"`
	Model       string `json:"model"`
	Ready       int32  `json:"ready"`
	Desired     int32  `json:"desired"`
	Pending     int64  `json:"pending"`
	Running     int64  `json:"running"`
	TokensToday int64  `json:"tokensToday"`
	DailyLimit  int64  `json:"dailyLimit,omitempty"`
	State       string `json:"state"`
}

type teamReport struct {
	Namespace    string `json:"namespace"`
	Name         string `json:"name"`
	Phase        string `json:"phase"`
	ActiveRuns   int32  `json:"activeRuns"`
	LastRun      string `json:"lastRun,omitempty"`
	LastRunPhase string `json:"lastRunPhase,omitempty"`
	State        string `json:"state"`
}

type eventReport struct {
	Namespace string       `json:"namespace"`
	Name      string       `json:"name"`
	Type      string       `json:"type"`
	Suspended bool         `json:"suspended"`
	Fired     int64        `json:"fired"`
	LastFired *metav1.Time `json:"lastFired,omitempty"`
	NextFire  *metav1.Time `json:"nextFire,omitempty"`
}

func (f *statusFlags) run(ctx context.Context, s *streams) error {
	cluster, err := f.cluster()
	if err != nil {
		return err
	}
	overview, err := cluster.Overview(ctx, f.operatorNamespace)
	if err != nil {
		return err
	}
	report := newStatusReport(overview)
	if f.output != formatText {
		return encode(s.out, f.output, report)
	}
	f.write(s, report, time.Now())
	return nil
}

func newStatusReport(o *remote.Overview) *statusReport {
	r := &statusReport{
		Operator: newOperatorReport(&o.Operator, o.Image), Queue: queueReport{LiveRuns: len(o.Live)},
		Agents: []agentReport{}, Teams: []teamReport{}, Events: []eventReport{}, Notes: o.Unseen,
	}
	for i := range o.Agents {
		a := &o.Agents[i]
		row := agentReport{
			Namespace: a.Namespace, Name: a.Name, Model: a.Spec.Model, Ready: a.Status.ReadyReplicas, Desired: a.Status.DesiredReplicas,
			Pending: a.Status.PendingTasks, Running: a.Status.RunningTasks, State: stateOf(a.Status.Conditions),
		}
		if u := a.Status.DailyTokenUsage; u != nil {
			row.TokensToday, row.DailyLimit = u.TotalTokens, u.Limit
		}
		r.Queue.PendingTasks += row.Pending
		r.Queue.RunningTasks += row.Running
		r.Agents = append(r.Agents, row)
	}
	for i := range o.Teams {
		t := &o.Teams[i]
		state := stateOf(t.Status.Conditions)
		if t.Spec.Suspend {
			state = v1alpha1.ReasonSuspended
		}
		r.Teams = append(r.Teams, teamReport{
			Namespace: t.Namespace, Name: t.Name, Phase: string(t.Status.Phase), ActiveRuns: t.Status.ActiveRuns,
			LastRun: t.Status.LastRunName, LastRunPhase: string(t.Status.LastRunPhase), State: state,
		})
	}
	for i := range o.Events {
		e := &o.Events[i]
		if run, refused := trigger.Outcome(e); e.Spec.Source.Type == v1alpha1.EventManual && (run != "" || refused != nil) {
			continue // what became of it stands among the runs
		}
		r.Events = append(r.Events, eventReport{
			Namespace: e.Namespace, Name: e.Name, Type: string(e.Spec.Source.Type), Suspended: e.Spec.Suspended,
			Fired: e.Status.FiredCount, LastFired: e.Status.LastFiredAt, NextFire: e.Status.NextFireAt,
		})
	}
	return r
}

func newOperatorReport(o *why.Operator, image string) operatorReport {
	r := operatorReport{
		State: "Ready", Name: o.Name, Namespace: o.Namespace, Ready: o.Ready, Desired: o.Desired, Image: image, DataAPI: string(o.Data),
	}
	switch {
	case !o.Seen && o.Data == why.DataServed:
	case !o.Seen && o.Data == why.DataUnavailable:
		r.State = "NotReady"
	case !o.Seen:
		r.State = "Unknown"
	case o.Name == "":
		r.State = "NotFound"
	case o.Ready == 0:
		r.State = "NotReady"
	}
	return r
}

// stateOf is the reason of the worst condition: one that is True and says that something is wrong, else that of Ready.
func stateOf(conditions []metav1.Condition) string {
	for _, kind := range []string{v1alpha1.ConditionNameConflict, v1alpha1.ConditionBudgetExceeded} {
		i := slices.IndexFunc(conditions, func(c metav1.Condition) bool { return c.Type == kind && c.Status == metav1.ConditionTrue })
		if i >= 0 {
			return conditions[i].Reason
		}
	}
	i := slices.IndexFunc(conditions, func(c metav1.Condition) bool { return c.Type == v1alpha1.ConditionReady })
	if i < 0 {
		return "Unknown"
	}
	return conditions[i].Reason
}

// write shows the report to people. Each section is a table of its own.
func (f *statusFlags) write(s *streams, r *statusReport, now time.Time) {
	f.writeHead(s, r)
	section := func(title string, n int, t *table, row func(i int) (namespace string, fields []string)) {
		if n == 0 {
			return
		}
		if s.outTerminal {
			fmt.Fprintln(s.out)
		}
		for i := range n {
			namespace, fields := row(i)
			if f.all {
				fields = append([]string{namespace}, fields...)
			}
			if !s.outTerminal {
				fields = append([]string{title}, fields...)
			}
			t.row(fields...)
		}
		t.flush()
	}
	head := func(fields ...string) *table {
		if f.all {
			fields = append([]string{"NAMESPACE"}, fields...)
		}
		return newTable(s, fields...)
	}
	section("agent", len(r.Agents), head("AGENT", "READY", "PENDING", "RUNNING", "TOKENS TODAY", "MODEL", "STATE"), func(i int) (string, []string) {
		a := &r.Agents[i]
		tokens := strconv.FormatInt(a.TokensToday, 10)
		if a.DailyLimit > 0 {
			tokens += "/" + strconv.FormatInt(a.DailyLimit, 10)
		}
		return a.Namespace, []string{
			a.Name, fmt.Sprintf("%d/%d", a.Ready, a.Desired), strconv.FormatInt(a.Pending, 10), strconv.FormatInt(a.Running, 10), tokens, a.Model, a.State,
		}
	})
	section("team", len(r.Teams), head("TEAM", "PHASE", "ACTIVE RUNS", "LAST RUN", "STATE"), func(i int) (string, []string) {
		t := &r.Teams[i]
		last := t.LastRun
		if last != "" && t.LastRunPhase != "" {
			last += " (" + t.LastRunPhase + ")"
		}
		return t.Namespace, []string{t.Name, t.Phase, strconv.Itoa(int(t.ActiveRuns)), last, t.State}
	})
	section("event", len(r.Events), head("EVENT", "TYPE", "SUSPENDED", "FIRED", "LAST FIRED", "NEXT FIRE"), func(i int) (string, []string) {
		e := &r.Events[i]
		return e.Namespace, []string{e.Name, e.Type, strconv.FormatBool(e.Suspended), strconv.FormatInt(e.Fired, 10), ago(e.LastFired, now), until(e.NextFire, now)}
	})
	for _, n := range r.Notes {
		fmt.Fprintln(s.err, "note: "+n)
	}
}

func (f *statusFlags) writeHead(s *streams, r *statusReport) {
	o := r.Operator
	text := o.State
	if o.State == "NotFound" {
		text += " in namespace " + f.operatorNamespace + ": run 'ark install', or name its namespace with --operator-namespace"
	}
	if o.Name != "" {
		text = fmt.Sprintf("%s, %d of %d pods ready (%s/%s)", o.State, o.Ready, o.Desired, o.Namespace, o.Name)
	}
	if o.Image != "" {
		text += ", image " + o.Image
	}
	switch o.DataAPI {
	case string(why.DataServed):
		if o.State == "NotFound" {
			text += "; data.arkonis.dev is served from elsewhere"
			break
		}
		text += ", serves data.arkonis.dev"
	case string(why.DataUnavailable):
		text += "; data.arkonis.dev does not answer"
	}
	queue := fmt.Sprintf("%d tasks wait, %d are worked on, %d runs are live", r.Queue.PendingTasks, r.Queue.RunningTasks, r.Queue.LiveRuns)
	if s.outTerminal {
		fmt.Fprintf(s.out, "Operator: %s\nQueue:    %s\n", text, queue)
		return
	}
	fmt.Fprintf(s.out, "operator\t%s\nqueue\t%d\t%d\t%d\n", text, r.Queue.PendingTasks, r.Queue.RunningTasks, r.Queue.LiveRuns)
}

func ago(t *metav1.Time, now time.Time) string {
	if t == nil {
		return ""
	}
	return age(t.Time, now) + " ago"
}

func until(t *metav1.Time, now time.Time) string {
	if t == nil {
		return ""
	}
	return "in " + age(now, t.Time)
}
