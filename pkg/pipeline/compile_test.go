package pipeline_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/task"
)

// TestCompileRefuses: a run can be written by hand, so it is checked like a team.
func TestCompileRefuses(t *testing.T) {
	t.Parallel()
	lookup := oneRole(v1alpha1.Step{Name: "a", Role: "nobody", RegistryLookup: &v1alpha1.RegistryLookup{Capability: "x"}})
	routing := v1alpha1.ArkRunSpec{Routing: &v1alpha1.RunRouting{}}
	roles := oneRole(v1alpha1.Step{Role: "r"})
	roles.Roles = append(roles.Roles, v1alpha1.RunRole{Name: "x"}, v1alpha1.RunRole{Name: "y", Agent: "a", Team: "b"})
	input := oneRole(v1alpha1.Step{Role: "r"})
	input.Input = v1alpha1.Values{"a": {Raw: []byte("{")}}
	for name, c := range map[string]struct {
		spec v1alpha1.ArkRunSpec
		want string
	}{
		"cycle": {
			oneRole(v1alpha1.Step{Name: "a", Role: "r", DependsOn: []string{"b"}}, v1alpha1.Step{Name: "b", Role: "r", DependsOn: []string{"a"}}),
			"the run is invalid: spec.pipeline[0].dependsOn: the steps wait for each other: a -> b -> a (remove one of these dependencies)",
		},
		"template": {
			oneRole(v1alpha1.Step{Role: "r", Inputs: map[string]string{"prompt": "{{ .steps.x.output }}"}}),
			`the run is invalid: spec.pipeline[0].inputs.prompt: line 1, column 4: .steps.x does not exist: there is no step "x" (steps are r)`,
		},
		"nothing":   {v1alpha1.ArkRunSpec{}, "the run is invalid: spec: there is nothing to run (give one of pipeline, entry and routing)"},
		"nobody":    {lookup, `the run is invalid: spec.pipeline[0].registryLookup: no agent has the capability "x", and there is neither a fallback nor a role`},
		"no router": {routing, "the run is invalid: spec.routing.agent: is empty: it must name the agent of the router"},
		"roles": {roles, `the run is invalid: spec.roles[1]: the role "x" needs exactly one of agent and team; ` +
			`spec.roles[2]: the role "y" needs exactly one of agent and team`},
		"input": {input, "the run is invalid: spec.input: is not JSON: a: decode value: unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := pipeline.Compile(pipeline.Run{Spec: c.spec}, options())
			var invalid *pipeline.InvalidError
			require.True(t, errors.As(err, &invalid), "%v", err)
			require.Equal(t, c.want, err.Error())
		})
	}
}

// Without a checker of schemas a schema cannot be used, and that is said.
func TestCompileNeedsASchemaChecker(t *testing.T) {
	t.Parallel()
	run := pipeline.Run{Spec: oneRole(v1alpha1.Step{Role: "r", OutputSchema: "{}"})}
	_, err := pipeline.Compile(run, pipeline.Options{})
	require.ErrorContains(t, err, "spec.pipeline[0].outputSchema: cannot be checked here")
}

func TestDeadlineAndBudgetsOfARunAbove(t *testing.T) {
	t.Parallel()
	above := []task.Budget{{Scope: "run.above", Limit: 10}}
	for name, c := range map[string]struct {
		timeout int64
		above   time.Duration
		want    time.Duration
	}{
		"none":     {0, 0, 24 * time.Hour},
		"own":      {60, 0, time.Minute},
		"above":    {0, time.Hour, time.Hour},
		"nearer":   {60, time.Hour, time.Minute},
		"farther":  {7200, time.Hour, time.Hour},
		"passed":   {60, -time.Second, -time.Second},
		"a second": {1, 0, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := oneRole(v1alpha1.Step{Role: "r", MaxTokens: 3})
			spec.TimeoutSeconds, spec.MaxTokens = c.timeout, 7
			run := pipeline.Run{UID: "u", Spec: spec, Started: epoch(), Budgets: above}
			if c.above != 0 {
				run.Deadline = epoch().Add(c.above)
			}
			plan, err := pipeline.Compile(run, options())
			require.NoError(t, err)
			require.Equal(t, epoch().Add(c.want), plan.Deadline())
			submit, ok := plan.Decide(plan.Start(), epoch().Add(-time.Hour)).Actions[0].(*pipeline.Submit)
			require.True(t, ok)
			require.Equal(t, epoch().Add(c.want), submit.Deadline)
			require.Equal(t, []task.Budget{{Scope: "step.u.r", Limit: 3}, {Scope: "run.u", Limit: 7}, {Scope: "run.above", Limit: 10}}, submit.Budgets)
		})
	}
}

func TestRoles(t *testing.T) {
	t.Parallel()
	spec := v1alpha1.ArkRunSpec{Entry: "a", Roles: []v1alpha1.RunRole{
		{Name: "a", Agent: "t-a", CanDelegate: []string{"b"}, PromptHash: "h"}, {Name: "b", Agent: "t-b"}, {Name: "c", Team: "x"},
	}}
	require.Equal(t, map[string]task.Role{"a": {Agent: "t-a", CanDelegate: []string{"b"}, PromptHash: "h"}, "b": {Agent: "t-b"}}, compile(t, spec).Roles())
}

// The spec belongs to the caller: compiling and running it changes nothing in it.
func TestCompileLeavesTheSpecAlone(t *testing.T) {
	t.Parallel()
	for seed := range uint64(50) {
		spec := randomSpec(rand.New(rand.NewPCG(seed, 1)))
		before := spec.DeepCopy()
		plan := compile(t, spec)
		plan.Decide(plan.Start(), epoch())
		require.Equal(t, *before, spec)
	}
}

// Decide and Status read only, and a plan may be shared: the race detector looks at this one.
func TestReadersChangeNothing(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		plan := compile(t, randomSpec(rand.New(rand.NewPCG(seed, 2))))
		s := plan.Start()
		before, err := json.Marshal(s)
		require.NoError(t, err)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				for range 5 {
					plan.Decide(s, epoch().Add(time.Hour))
					plan.Status(s, epoch())
					own := plan.Start()
					plan.Apply(own, pipeline.Cancelled{At: epoch()})
				}
			})
		}
		wg.Wait()
		after, err := json.Marshal(s)
		require.NoError(t, err)
		require.Equal(t, string(before), string(after))
	}
}

// A state that was written and read again goes on as if nothing had happened.
func TestStateSurvivesJSON(t *testing.T) {
	t.Parallel()
	for seed := range uint64(40) {
		plan := compile(t, randomSpec(rand.New(rand.NewPCG(seed, 3))))
		kept, stored := plan.Start(), plan.Start()
		for range 60 {
			actions := plan.Decide(kept, epoch()).Actions
			text, err := json.Marshal(stored)
			require.NoError(t, err)
			stored = &pipeline.State{}
			require.NoError(t, json.Unmarshal(text, stored))
			require.Equal(t, actions, plan.Decide(stored, epoch()).Actions, "seed %d", seed)
			if len(actions) == 0 {
				break
			}
			e := pipeline.TaskEnded{TaskID: actions[0].ActionID(), Status: task.Succeeded, Output: `{"go":"VALID","list":[1.50,{"a":12345678901234567890}]}`, At: epoch()}
			plan.Apply(kept, e)
			plan.Apply(stored, e)
		}
	}
}

// TestFinishIsGivenUntilItIsIssued: the end is asked for until somebody carried it out, also after a restart.
func TestFinishIsGivenUntilItIsIssued(t *testing.T) {
	t.Parallel()
	plan := compile(t, oneRole(v1alpha1.Step{Role: "r"}))
	s := plan.Start()
	finish := []pipeline.Action{&pipeline.Finish{Phase: v1alpha1.RunCancelled, Reason: "Cancelled", Message: "the run was cancelled"}}
	plan.Apply(s, pipeline.Issued{ID: "finish"}) // nothing was given out yet
	plan.Apply(s, pipeline.Cancelled{At: epoch()})
	open := s.Tasks[0].ID
	require.Equal(t, []pipeline.Action{
		&pipeline.Withdraw{TaskID: open, Agent: "t-r", Code: task.CodeCancelled, Message: "the run was cancelled"},
	}, plan.Decide(s, epoch()).Actions)
	plan.Apply(s, pipeline.Issued{ID: "withdraw." + open})
	require.Equal(t, pipeline.Decision{}, plan.Decide(s, epoch()), "it waits for the result of the withdrawn task")
	plan.Apply(s, pipeline.TaskEnded{TaskID: open, Status: task.Cancelled, At: epoch()})
	require.Equal(t, finish, plan.Decide(s, epoch()).Actions)
	require.Equal(t, finish, plan.Decide(s, epoch().Add(100*time.Hour)).Actions)
	plan.Apply(s, pipeline.Issued{ID: "finish"})
	require.Equal(t, pipeline.Decision{}, plan.Decide(s, epoch()))
}

// A choice that was committed holds, unless it is none of the agents or another one has the task already.
func TestChosen(t *testing.T) {
	t.Parallel()
	spec := oneRole(v1alpha1.Step{Name: "a", Role: "r", RegistryLookup: &v1alpha1.RegistryLookup{Capability: "x"}})
	spec.Lookups = []v1alpha1.RunLookup{{Step: "a", Agents: []string{"c", "b", "a"}}}
	plan := compile(t, spec)
	agent := func(s *pipeline.State) string {
		submit, ok := plan.Decide(s, epoch()).Actions[0].(*pipeline.Submit)
		require.True(t, ok)
		require.Equal(t, submit.Agent, plan.Status(s, epoch()).Steps[0].Agent)
		return submit.Agent
	}
	s := plan.Start()
	require.Equal(t, "a", agent(s), "nothing is known: the first by name")
	plan.Apply(s, pipeline.Chosen{Step: "a", Agent: "nobody"})
	require.Equal(t, "a", agent(s))
	s = plan.Start()
	plan.Apply(s, pipeline.Chosen{Step: "nothing", Agent: "b"})
	plan.Apply(s, pipeline.Chosen{Step: "a", Agent: "b"})
	plan.Apply(s, pipeline.Chosen{Step: "a", Agent: "c"})
	require.Equal(t, "b", agent(s), "the first one that was committed")
	s = plan.Start()
	plan.Apply(s, pipeline.Issued{ID: s.Tasks[0].ID})
	plan.Apply(s, pipeline.Chosen{Step: "a", Agent: "c"})
	require.Equal(t, "a", plan.Status(s, epoch()).Steps[0].Agent, "the task is out")
}

// Delegated work however deep has a name that the API takes, each its own.
func TestNamesOfDeepDelegation(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("r", 53)
	plan := compile(t, oneRole(v1alpha1.Step{Name: strings.Repeat("s", 63), Role: "r"}))
	s := plan.Start()
	parent := s.Tasks[0].ID
	for i := range 20 {
		for k := range 2 {
			plan.Apply(s, pipeline.Delegated{Parent: parent, Child: fmt.Sprintf("c%d-%d", i, k), Role: long, Agent: "x", At: epoch()})
		}
		parent = fmt.Sprintf("c%d-0", i)
	}
	names := map[string]bool{}
	for _, st := range plan.Status(s, epoch()).Steps {
		require.LessOrEqual(t, len(st.Name), 253)
		names[st.Name] = true
	}
	require.Len(t, names, 41)
}

// What comes after the end is counted and changes nothing else.
func TestAfterTheEnd(t *testing.T) {
	t.Parallel()
	plan := compile(t, oneRole(v1alpha1.Step{Name: "a", Role: "r"}))
	s := plan.Start()
	a := s.Tasks[0].ID
	plan.Apply(s, pipeline.Delegated{Parent: a, Child: "c", Role: "r", Agent: "x", At: epoch()})
	plan.Apply(s, pipeline.Ended{Phase: v1alpha1.RunFailed, Reason: "TimedOut", At: epoch()})
	before := plan.Status(s, epoch())
	for _, id := range []string{a, "c"} {
		plan.Apply(s, pipeline.TaskEnded{TaskID: id, Status: task.Succeeded, Output: "late", Usage: task.Usage{InputTokens: 3}, Pod: "pod-1", At: epoch().Add(time.Hour)})
		plan.Apply(s, pipeline.TaskStarted{TaskID: id, Pod: "pod-2", At: epoch()})
	}
	after := plan.Status(s, epoch())
	require.Equal(t, int64(6), after.TotalTokenUsage.TotalTokens)
	for i := range after.Steps {
		require.Equal(t, "pod-1", after.Steps[i].Pod, "a hint does not overrule a result")
		after.Steps[i].Pod, after.Steps[i].TokenUsage = before.Steps[i].Pod, before.Steps[i].TokenUsage
	}
	after.TotalTokenUsage = before.TotalTokenUsage
	require.Equal(t, before, after)
}

// A unit says what it is at, as documented with its phases.
func TestUnitPhases(t *testing.T) {
	t.Parallel()
	plan := compile(t, oneRole(v1alpha1.Step{Name: "a", Role: "r", Validate: &v1alpha1.Validation{Semantic: "good"}}))
	s := plan.Start()
	phases := []pipeline.UnitPhase{s.Steps[0].Units[0].Phase}
	for _, answer := range []string{"fine", "VALID"} {
		plan.Apply(s, pipeline.TaskEnded{TaskID: s.Tasks[s.Open[0]].ID, Status: task.Succeeded, Output: answer, At: epoch()})
		phases = append(phases, s.Steps[0].Units[0].Phase)
	}
	require.Equal(t, []pipeline.UnitPhase{pipeline.UnitWorking, pipeline.UnitJudging, pipeline.UnitDone}, phases)
}
