package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/work"
)

// The work service knows how each pod is, without asking Kubernetes or the pod: tool servers, running tasks, the verdict
// of the semantic probe, and that a pod has ended.
func TestPodsReportHowTheyAre(t *testing.T) {
	t.Parallel()
	told := make(chan struct{}, 1)
	answers := modelserver.Config{Rules: []modelserver.Rule{
		{When: modelserver.When{Prompt: modelserver.Match("well")}, Reply: modelserver.Reply{Text: "well"}},
		{Reply: modelserver.Reply{Tools: []modelserver.Use{{Name: "pay", Arguments: `{}`}}}},
	}}
	f := newFleet(t, answers, work.Config{Reported: func(string, string) {
		select {
		case told <- struct{}{}:
		default:
		}
	}})
	until := func(what string, ok func([]work.Report) bool) {
		t.Helper()
		timeout := time.After(time.Minute)
		for !ok(f.service.Reports("default", "writer")) {
			select {
			case <-told:
			case <-timeout:
				require.FailNow(t, "the service never heard: "+what, "%+v", f.service.Reports("default", "writer"))
			}
		}
	}
	d := newDesk(t, func(string, string, int) time.Duration { return time.Minute })
	p := f.pod("writer-0", []string{
		fmt.Sprintf(`MCP_SERVERS=[{"name":"search","url":"http://127.0.0.1:%d/mcp"}]`, freePort(t)),
		d.tools(),
		"VALIDATOR_PROMPT=Are you well?", "PROBE_EXPECT=well", "PROBE_INTERVAL_SECONDS=3600",
	}, "--grace-period", "2s")
	until("ready, probed and one tool server down", func(all []work.Report) bool {
		return len(all) == 1 && all[0].Pod == "writer-0" && all[0].Ready && all[0].Verdict != nil && all[0].Verdict.Healthy &&
			len(all[0].ToolConnections) == 1 && all[0].ToolConnections[0].Name == "search" &&
			!all[0].ToolConnections[0].Healthy && all[0].ToolConnections[0].Message != ""
	})
	f.task("pay")
	<-d.began
	until("a running task", func(all []work.Report) bool { return len(all) == 1 && all[0].RunningTasks == 1 })
	p.terminate()
	until("that it drains", func(all []work.Report) bool { return len(all) == 1 && !all[0].Ready && all[0].RunningTasks == 1 })
	until("its end", func(all []work.Report) bool { return len(all) == 0 })
	<-p.done
	require.NoError(t, p.err)
}
