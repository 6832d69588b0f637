package operator

import (
	"bytes"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/llm/modelserver"
)

// receiver keeps the spans that processes send.
type receiver struct {
	url   string
	mu    sync.Mutex
	spans map[string][]*tracepb.Span // by trace
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{spans: map[string][]*tracepb.Span{}}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

// env has a process send its spans there.
func (r *receiver) env() []string {
	return []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + r.url, "OTEL_METRICS_EXPORTER=none"}
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	var sent collector.ExportTraceServiceRequest
	if err != nil || req.URL.Path != "/v1/traces" || proto.Unmarshal(body, &sent) != nil {
		w.WriteHeader(http.StatusOK) // metrics are not looked at
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, resource := range sent.GetResourceSpans() {
		for _, scope := range resource.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				id := hex.EncodeToString(s.GetTraceId())
				r.spans[id] = append(r.spans[id], s)
			}
		}
	}
}

// of counts the spans of a trace by their names, and lists those whose id is that of another one or whose parent is missing. A
// span may be told twice: an operator cannot know whether one that was killed had still sent it.
func (r *receiver) of(trace string) (names map[string]int, roots int, wrong []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	names = map[string]int{}
	there := map[string]*tracepb.Span{}
	for _, s := range r.spans[trace] {
		id := string(s.GetSpanId())
		if other := there[id]; other == nil {
			there[id] = s
			names[s.GetName()]++
		} else if other.GetName() != s.GetName() || !bytes.Equal(other.GetParentSpanId(), s.GetParentSpanId()) {
			wrong = append(wrong, s.GetName()+" has the id of "+other.GetName())
		}
	}
	for _, s := range there {
		switch parent := string(s.GetParentSpanId()); {
		case parent == "":
			roots++
		case there[parent] == nil:
			wrong = append(wrong, s.GetName()+" has a parent that is missing")
		}
	}
	return names, roots, wrong
}

// One trace leads from a trigger to the output, over operators that are killed in between: through queue, agents, models,
// tools, delegated work and runs below runs. Each span is there once, and so is its parent.
func TestOneTraceOverKilledOperators(t *testing.T) {
	t.Parallel()
	r := newReceiver(t)
	w := newWorld(t)
	w.env = r.env()
	o := w.start()
	w.apply(crowd)
	models, err := modelserver.Start(t.Context(), modelserver.Config{Answer: crowdAnswers(2 * time.Second)})
	require.NoError(t, err)
	defer func() { _ = models.Close() }()
	env := append([]string{"OPENAI_BASE_URL=" + models.URL(), "OPENAI_API_KEY=k"}, w.env...)
	ant, bee := w.pod("ant", "ant-0", env...), w.pod("bee", "bee-0", env...)
	traces := map[string]string{} // by run
	for _, team := range []string{"boss", "nest"} {
		run := w.fire(team, map[string]any{"prompt": team}, "1")
		traces[run] = until(w, w.clients.Runs(w.namespace), run, "a trace", func(r *v1alpha1.ArkRun) bool { return r.Status.TraceID != "" }).Status.TraceID
	}
	require.Eventually(t, func() bool { // what ended in the second before a kill is lost with the process
		for _, trace := range traces {
			if names, _, _ := r.of(trace); names["trigger"] == 0 {
				return false
			}
		}
		return true
	}, patience, 20*time.Millisecond)
	for calls := 2; calls <= 4; calls += 2 {
		_, err := models.WaitIn(t.Context(), calls)
		require.NoError(t, err)
		o.kill()
		o = w.start()
	}
	for run, trace := range traces {
		now := w.ended(run)
		require.Equal(t, v1alpha1.RunSucceeded, now.Status.Phase, now.Status.Message)
		require.Equal(t, trace, now.Status.TraceID)
	}
	o.stop()
	require.NoError(t, ant.Process.Signal(syscall.SIGTERM))
	require.NoError(t, bee.Process.Signal(syscall.SIGTERM))
	for run, trace := range traces {
		require.Contains(t, o.logs.String(), trace, "the log of the last operator knows the trace of %s", run)
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			names, roots, wrong := r.of(trace)
			require.Empty(c, wrong)
			require.Equal(c, 1, roots)
			require.Equal(c, 1, names["trigger"])
			for _, name := range []string{"run", "step", "task process", "chat gpt-test"} {
				require.Positive(c, names[name], "%s: %v", name, names)
			}
			if names["execute_tool delegate"] > 0 {
				require.Equal(c, map[string]int{"run": 1, "step": 3}, map[string]int{"run": names["run"], "step": names["step"]})
				require.Equal(c, 4, names["task process"])
			} else {
				require.Equal(c, map[string]int{"run": 2, "step": 6}, map[string]int{"run": names["run"], "step": names["step"]})
				require.Equal(c, 5, names["task process"])
			}
		}, patience, 100*time.Millisecond)
	}
}
