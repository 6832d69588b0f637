package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"

	"arkonis.dev/ark/pkg/telemetry"
)

func TestEndpointSwitchesExportOn(t *testing.T) {
	t.Parallel()
	const endpoint = "http://collector:4318"
	for name, c := range map[string]struct {
		env  map[string]string
		want telemetry.Config
		err  string
	}{
		"nothing set":  {},
		"one endpoint": {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}, want: telemetry.Config{Traces: "http/protobuf", Metrics: "http/protobuf"}},
		"traces only":  {env: map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint}, want: telemetry.Config{Traces: "http/protobuf"}},
		"metrics off":  {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_METRICS_EXPORTER": "none"}, want: telemetry.Config{Traces: "http/protobuf"}},
		"grpc": {
			env:  map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf"},
			want: telemetry.Config{Traces: "grpc", Metrics: "http/protobuf"},
		},
		"disabled": {env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_SDK_DISABLED": "true"}},
		"contents": {env: map[string]string{"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "true"}, want: telemetry.Config{Contents: true}},
		"bad contents": {
			env: map[string]string{"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "yes"},
			err: `environment variable OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT is "yes": set it to true or false`,
		},
		"bad protocol": {
			env: map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
			err: `environment variable OTEL_EXPORTER_OTLP_PROTOCOL is "http/json": allowed are http/protobuf and grpc`,
		},
		"bad endpoint": {
			env: map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "::nonsense"},
			err: `environment variable OTEL_EXPORTER_OTLP_TRACES_ENDPOINT is "::nonsense": set it to the URL of a collector, such as http://collector:4318`,
		},
		"endpoint without a scheme": {
			env: map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318", "OTEL_METRICS_EXPORTER": "none"},
			err: `environment variable OTEL_EXPORTER_OTLP_ENDPOINT is "collector:4318": set it to the URL of a collector, such as http://collector:4318`,
		},
		"bad exporter": {
			env: map[string]string{"OTEL_TRACES_EXPORTER": "zipkin"},
			err: `environment variable OTEL_TRACES_EXPORTER is "zipkin": ark exports otlp or none`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := telemetry.ConfigFromEnv(func(k string) string { return c.env[k] })
			if c.err != "" {
				require.EqualError(t, err, c.err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

// The exporters read their endpoint from the real environment, so this test cannot run beside others.
func TestSpansAndMetricsArriveAtTheCollector(t *testing.T) {
	var mu sync.Mutex
	bodies := map[string]string{}
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		bodies[r.URL.Path] += string(body)
	}))
	defer collector.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	tel, err := telemetry.Start(t.Context(), telemetry.Config{Service: "ark-test", Traces: telemetry.HTTP, Metrics: telemetry.HTTP})
	require.NoError(t, err)

	ctx, chat := tel.StartChat(t.Context(), telemetry.Chat{Provider: "openai", Model: "m-1", Agent: "writer", Messages: func() string { return "secret prompt" }})
	chat.Finish(ctx, telemetry.ChatEnd{Usage: telemetry.Usage{Input: 3, Output: 2}})
	require.NoError(t, tel.Shutdown(t.Context()))

	mu.Lock()
	defer mu.Unlock()
	require.Contains(t, bodies["/v1/traces"], "chat m-1")
	require.Contains(t, bodies["/v1/traces"], "gen_ai.usage.input_tokens")
	require.Contains(t, bodies["/v1/traces"], "ark-test")
	require.NotContains(t, bodies["/v1/traces"], "secret prompt")
	require.Contains(t, bodies["/v1/metrics"], "gen_ai.client.token.usage")
	require.Contains(t, bodies["/v1/metrics"], "gen_ai.client.operation.duration")
}

func TestRecorderPrintsTheTree(t *testing.T) {
	t.Parallel()
	var rec telemetry.Recorder
	tel, err := telemetry.Start(t.Context(), telemetry.Config{Recorder: &rec})
	require.NoError(t, err)

	ctx, run := tel.Start(t.Context(), "run", trace.SpanKindInternal)
	tctx, process := tel.Start(ctx, "task process", trace.SpanKindConsumer)
	cctx, chat := tel.StartChat(tctx, telemetry.Chat{Provider: "mock", Model: "m"})
	chat.Finish(cctx, telemetry.ChatEnd{Usage: telemetry.Usage{Input: 10, Output: 4}})
	xctx, tool := tel.StartTool(tctx, telemetry.Tool{Name: "lookup", CallID: "1.0"})
	tool.Finish(xctx, "ToolUnavailable", nil)
	process.End("", "")
	run.End("StepFailed", "step a failed")

	want := []*telemetry.Node{{
		Name: "run", Error: "StepFailed: step a failed",
		Children: []*telemetry.Node{{
			Name: "task process",
			Children: []*telemetry.Node{
				{Name: "chat m", InputTokens: 10, OutputTokens: 4},
				{Name: "execute_tool lookup", Error: "ToolUnavailable"},
			},
		}},
	}}
	require.Empty(t, cmp.Diff(want, rec.Tree(), cmpopts.IgnoreFields(telemetry.Node{}, "Started", "Duration")))

	var out bytes.Buffer
	require.NoError(t, rec.WriteTree(&out))
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	require.Len(t, lines, 4)
	require.Regexp(t, `^run +\S+  error  StepFailed: step a failed$`, lines[0])
	require.Regexp(t, `^└─ task process +\S+  ok$`, lines[1])
	require.Regexp(t, `^   ├─ chat m +\S+  ok  10 in, 4 out$`, lines[2])
	require.Regexp(t, `^   └─ execute_tool lookup +\S+  error  ToolUnavailable$`, lines[3])
}

func TestOffCostsNothingAndKeepsTheTrace(t *testing.T) {
	t.Parallel()
	off, err := telemetry.Start(t.Context(), telemetry.Config{})
	require.NoError(t, err)
	for name, tel := range map[string]*telemetry.Telemetry{"off": off, "nil": nil} {
		ctx, span := tel.Start(traced(t.Context()), "run", trace.SpanKindInternal)
		require.Equal(t, traceID, telemetry.TraceID(ctx), name)
		span.SetUsage(telemetry.Usage{Input: 1})
		span.End("Internal", "boom")
		cctx, chat := tel.StartChat(ctx, telemetry.Chat{})
		chat.Finish(cctx, telemetry.ChatEnd{})
		tel.TaskTaken(ctx, "a", time.Second, false)
		tel.TaskDone(ctx, "a", "Succeeded", time.Second)
		tel.CallUnknown(ctx, "a", 1)
		tel.BudgetRefused(ctx, "a")
		require.NoError(t, tel.Shutdown(ctx))
	}
}

func TestContentsOnlyWhenAskedFor(t *testing.T) {
	t.Parallel()
	read := 0
	text := func() string { read++; return "text" }
	for _, contents := range []bool{false, true} {
		tel, err := telemetry.Start(t.Context(), telemetry.Config{Recorder: &telemetry.Recorder{}, Contents: contents})
		require.NoError(t, err)
		ctx, chat := tel.StartChat(t.Context(), telemetry.Chat{Messages: text})
		chat.Finish(ctx, telemetry.ChatEnd{Answer: text})
		ctx, tool := tel.StartTool(t.Context(), telemetry.Tool{Arguments: text})
		tool.Finish(ctx, "", text)
		if !contents {
			require.Zero(t, read)
		}
	}
	require.Equal(t, 4, read)
}

const traceID = "0af7651916cd43dd8448eb211c80319c"

func traced(ctx context.Context) context.Context {
	id, _ := trace.TraceIDFromHex(traceID)
	span, _ := trace.SpanIDFromHex("b7ad6b7169203331")
	return trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: span}))
}

func TestEveryLogLineHasTheTrace(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log := telemetry.NewLogger(&out, telemetry.JSON, slog.LevelInfo).With("agent", "writer")
	log.DebugContext(traced(t.Context()), "hidden")
	log.InfoContext(traced(t.Context()), "task taken", "task", "t1")
	log.InfoContext(t.Context(), "started")

	var first, second map[string]any
	dec := json.NewDecoder(&out)
	require.NoError(t, dec.Decode(&first))
	require.NoError(t, dec.Decode(&second))
	delete(first, "time")
	require.Equal(t, map[string]any{"level": "INFO", "msg": "task taken", "agent": "writer", "task": "t1", "trace_id": traceID}, first)
	require.NotContains(t, second, "trace_id")

	out.Reset()
	telemetry.NewLogger(&out, telemetry.Text, slog.LevelInfo).InfoContext(traced(t.Context()), "task taken")
	require.Contains(t, out.String(), `msg="task taken" trace_id=`+traceID)
}

func TestParseLevel(t *testing.T) {
	t.Parallel()
	level, err := telemetry.ParseLevel("warn")
	require.NoError(t, err)
	require.Equal(t, slog.LevelWarn, level)
	_, err = telemetry.ParseLevel("loud")
	require.EqualError(t, err, `log level "loud" is unknown: use debug, info, warn or error`)
}
