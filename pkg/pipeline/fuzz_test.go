package pipeline_test

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/task"
)

// FuzzTeam: whatever a manifest says, it is refused with findings or it runs to an end.
func FuzzTeam(f *testing.F) {
	for _, seed := range []string{
		"spec: {entry: a, roles: [{name: a, model: mock, canDelegate: [b]}, {name: b, model: mock}]}",
		"spec: {roles: [{name: r, model: mock}], pipeline: [{role: r, forEach: {items: '[1,2]'}, loop: {condition: '{{ lt .iteration 2 }}'}}]}",
		"spec: {roles: [{name: r, model: mock}], pipeline: [{name: a, role: r, dependsOn: [b]}, {name: b, role: r, dependsOn: [a]}]}",
		"spec: {routing: {registryRef: {name: x}, model: mock, fallback: y}, output: '{{ .steps.route.output }}'}",
		"spec: {inputs: [{name: n, type: number, default: x, enum: [1]}], input: {n: 2}, roles: [{name: r, arkTeam: t}], pipeline: [{role: r, inputs: {a: '{{ .input.n }}'}}]}",
		"spec: {roles: [{name: r, model: mock}], pipeline: [{role: r, outputSchema: '{\"type\":\"object\",\"properties\":{\"a\":{}}}', validate: {semantic: x, rejectPatterns: ['('], onFailure: retry, maxRetries: -3}, retry: {maxAttempts: -1, backoffSeconds: -5}}]}",
		"spec: {roles: [{name: r, model: mock}], pipeline: [{role: r, forEach: {items: '[1]', maxParallel: -1, maxItems: -1}, loop: {condition: x, maxIterations: -1}, maxOutputBytes: -1}]}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 16<<10 {
			t.Skip("larger than what is fuzzed")
		}
		team := &v1alpha1.ArkTeam{}
		if yaml.Unmarshal(text, team) != nil {
			t.Skip("not a team")
		}
		start := time.Now()
		team.Name = "t"
		findings := pipeline.ValidateTeam(team, options())
		require.Equal(t, findings, pipeline.ValidateTeam(team, options()))
		input, _ := pipeline.ResolveInput(team, map[string]any{"prompt": "go"})
		spec, more := pipeline.Snapshot(team, pipeline.Lookup{}, input, v1alpha1.Trigger{})
		plan, err := pipeline.Compile(pipeline.Run{UID: "u", Name: "r", Namespace: "n", Spec: spec, Started: epoch()}, options())
		if err != nil {
			require.NotEmpty(t, slices.Concat(failures(append(findings, more...)), refusals(team)), "what cannot be compiled was found before: %v", err)
			return
		}
		if len(failures(append(findings, more...))) == 0 {
			runToEnd(t, plan)
		}
		require.Less(t, time.Since(start), time.Minute)
	})
}

// runToEnd answers every task at once and in the same way, so that nothing is ever waited for.
func runToEnd(t *testing.T, plan *pipeline.Plan) {
	t.Helper()
	s, now := plan.Start(), epoch()
	for turn := 0; ; turn++ {
		d := plan.Decide(s, now)
		require.NotEmpty(t, d.Actions, "every task has its answer: a run that has not ended has something to do")
		for _, a := range d.Actions {
			switch a := a.(type) {
			case *pipeline.Submit:
				plan.Apply(s, pipeline.TaskEnded{TaskID: a.TaskID, Status: task.Succeeded, Output: "VALID", At: now})
			case *pipeline.StartRun:
				plan.Apply(s, pipeline.TaskEnded{TaskID: a.TaskID, Status: task.Succeeded, Output: "[]", At: now})
			case *pipeline.Withdraw:
				plan.Apply(s, pipeline.TaskEnded{TaskID: a.TaskID, Status: task.Cancelled, Code: a.Code, At: now})
			case *pipeline.Finish:
				plan.Apply(s, pipeline.Ended{Phase: a.Phase, Reason: a.Reason, At: now})
				require.Empty(t, plan.Decide(s, now).Actions)
				plan.Status(s, now)
				return
			}
		}
		if turn > 2000 { // a run may be long: 1,000 steps of 100 iterations. It can always be ended.
			plan.Apply(s, pipeline.Cancelled{At: now})
		}
	}
}

// FuzzSpec does the same with the snapshot of a run, which anybody may write.
func FuzzSpec(f *testing.F) {
	for seed := range uint64(6) {
		text, err := json.Marshal(randomSpec(rand.New(rand.NewPCG(seed, 5))))
		require.NoError(f, err)
		f.Add(text)
	}
	f.Add([]byte(`{"agentRef":{"name":"a"},"prompt":"x"}`))
	f.Add([]byte(`{"routing":{"agent":"a","fallback":"b","capabilities":[{"id":"VALID"},{"id":"x","agents":[]}]}}`))
	f.Add([]byte(`{"roles":[{"name":"r","agent":"a"}],"pipeline":[{"role":"x","registryLookup":{"capability":"c"}}],"lookups":[{"step":"x","agents":["",""]}]}`))
	f.Add([]byte(`{"roles":[{"name":"r","agent":"a"}],"pipeline":[{"role":"r","forEach":{"items":"[1]","maxParallel":-1}}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var spec v1alpha1.ArkRunSpec
		if len(text) > 16<<10 || json.Unmarshal(text, &spec) != nil {
			t.Skip()
		}
		plan, err := pipeline.Compile(pipeline.Run{UID: "u", Name: "r", Namespace: "n", Spec: spec, Started: epoch()}, options())
		if err == nil {
			runToEnd(t, plan)
		}
	})
}

// FuzzEvents folds any events in any order, about tasks that exist and others. Nothing may go wrong, applying one
// again changes nothing, and the run can still be ended.
func FuzzEvents(f *testing.F) {
	for seed := range uint64(8) {
		r := rand.New(rand.NewPCG(seed, 9))
		script := make([]byte, 60)
		for i := range script {
			script[i] = byte(r.Uint32())
		}
		f.Add(seed, script)
	}
	f.Fuzz(func(t *testing.T, seed uint64, script []byte) {
		plan := compile(t, randomSpec(rand.New(rand.NewPCG(seed%1000, 11))))
		s, now := plan.Start(), epoch()
		for len(script) >= 3 && len(script) < 600 {
			e := anyEvent(plan, s, script[0], script[1], script[2], now)
			script = script[3:]
			plan.Apply(s, e)
			once, err := json.Marshal(s)
			require.NoError(t, err)
			plan.Apply(s, e)
			twice, err := json.Marshal(s)
			require.NoError(t, err)
			require.True(t, bytes.Equal(once, twice), "%T changes something the second time", e)
			plan.Decide(s, now)
			plan.Status(s, now)
			now = now.Add(time.Second)
		}
		if s.Ended {
			return
		}
		plan.Apply(s, pipeline.Cancelled{At: now})
		for _, a := range plan.Decide(s, now).Actions {
			if w, ok := a.(*pipeline.Withdraw); ok {
				plan.Apply(s, pipeline.TaskEnded{TaskID: w.TaskID, Status: task.Cancelled, Code: w.Code, At: now})
			}
		}
		for _, i := range slices.Clone(s.Open) { // those whose withdrawal was handed out before
			plan.Apply(s, pipeline.TaskEnded{TaskID: s.Tasks[i].ID, Status: task.Cancelled, At: now})
		}
		if !s.FinishIssued {
			require.True(t, slices.ContainsFunc(plan.Decide(s, now).Actions, func(a pipeline.Action) bool {
				_, ok := a.(*pipeline.Finish)
				return ok
			}))
		}
	})
}

func anyEvent(plan *pipeline.Plan, s *pipeline.State, kind, which, how byte, now time.Time) pipeline.Event {
	id := "nobody"
	if len(s.Tasks) > 0 && which != 255 {
		id = s.Tasks[int(which)%len(s.Tasks)].ID
	}
	codes := []task.Code{"", task.CodeCancelled, task.CodeDeadline, task.CodeBudgetExceeded, task.CodeProviderFailed, task.CodeProviderAuth}
	outputs := []string{"", "VALID", "INVALID", "yes", `{"go":"x","list":[1]}`, "</step-output>", "[]", "\xff"}
	agent := []string{"agent-0", "agent-1", "agent-2", "nobody"}[how%4]
	switch kind % 10 {
	case 0, 1, 2, 3:
		return pipeline.TaskEnded{TaskID: id, Status: task.Succeeded, Output: outputs[int(how)%len(outputs)], At: now}
	case 4:
		return pipeline.TaskEnded{TaskID: id, Status: task.Failed, Code: codes[int(how)%len(codes)], Output: outputs[int(how)%len(outputs)], At: now}
	case 5:
		return pipeline.Delegated{Parent: id, Child: "child-" + string(rune('a'+how%26)), Role: "helper", Agent: agent, At: now}
	case 6:
		return pipeline.TaskStarted{TaskID: id, Pod: agent, At: now}
	case 7:
		return pipeline.Issued{ID: []string{id, "withdraw." + id, "finish", "withdraw.", ""}[how%5]}
	case 8:
		step := "route"
		if spec := plan.Run().Spec; len(spec.Pipeline) > 0 {
			step = spec.Pipeline[int(which)%len(spec.Pipeline)].ID()
		}
		return pipeline.Chosen{Step: step, Agent: agent}
	default:
		if how == 7 {
			return pipeline.Ended{Phase: v1alpha1.RunFailed, Reason: "Other", At: now}
		}
		return pipeline.AgentReadiness{Agent: agent, Ready: which%2 == 0, Pending: int(how)}
	}
}

// refusals is what the API refuses of a team by itself.
func refusals(team *v1alpha1.ArkTeam) []string {
	var out []string
	for _, e := range team.Validate() {
		out = append(out, e.Error())
	}
	return out
}
