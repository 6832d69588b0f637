package runtime_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/runtime"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

// instant answers at once.
type instant struct{}

func (instant) Name() string { return "instant" }
func (instant) Chat(context.Context, llm.Request, func(llm.Chunk)) (*llm.Response, error) {
	return &llm.Response{
		Message: llm.Message{Role: llm.RoleAssistant, Text: "done"}, Finish: llm.FinishStop,
		Usage: task.Usage{InputTokens: 10, OutputTokens: 1},
	}, nil
}

// BenchmarkTask is one task after another, from its submission to its result, on a queue in memory.
func BenchmarkTask(b *testing.B) {
	server, err := queue.StartServer(b.Context(), queue.ServerConfig{Logger: quiet()})
	require.NoError(b, err)
	defer server.Shutdown()
	nc, err := server.Connect("bench")
	require.NoError(b, err)
	q, err := queue.Open(b.Context(), nc, queue.Config{Storage: jetstream.MemoryStorage, Logger: quiet()})
	require.NoError(b, err)
	service, err := work.NewService(q, nc, work.Config{Logger: quiet()})
	require.NoError(b, err)
	go func() { _ = service.Run(b.Context()) }()
	require.NoError(b, service.Ready(b.Context()))
	results := make(chan struct{}, 1)
	go func() {
		_ = q.Results(b.Context(), "", func(queue.Record) error { results <- struct{}{}; return nil }, nil)
	}()
	r, err := runtime.New(runtime.Config{
		Namespace: namespace, Agent: "a", Pod: "a-0", Model: "m", Provider: instant{}, Queue: q, Work: work.NewClient(nc), Logger: quiet(),
	})
	require.NoError(b, err)
	go func() { _ = r.Run(b.Context()) }()

	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		require.NoError(b, q.Submit(b.Context(), &task.Task{
			Version: task.Version, ID: task.ID(task.KindStep, runUID, "s", i, 0, 0), Kind: task.KindStep, Namespace: namespace, Agent: "a",
			Run: task.Run{UID: runUID, Name: "run"}, Step: "s", Prompt: task.Text{Inline: "x"}, Created: time.Now(), Deadline: time.Now().Add(time.Hour),
		}))
		<-results
	}
}
