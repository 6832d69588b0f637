package work_test

import (
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

var storages = map[string]jetstream.StorageType{"memory": jetstream.MemoryStorage, "disk": jetstream.FileStorage}

// spread shares out b.N among workers.
func spread(b *testing.B, workers int, f func(worker int, next func() bool)) {
	b.Helper()
	var count atomic.Int64
	var group sync.WaitGroup
	b.ResetTimer()
	for i := range workers {
		group.Go(func() { f(i, func() bool { return count.Add(1) <= int64(b.N) }) })
	}
	group.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
}

// BenchmarkCallInProcess is BenchmarkCall with clients in the service's process.
func BenchmarkCallInProcess(b *testing.B) {
	for _, workers := range []int{1, 16, 64} {
		b.Run(fmt.Sprint(workers), func(b *testing.B) {
			w := newWorld(b, work.Config{})
			w.serve()
			w.client = w.service.Client()
			w.benchCalls(b, workers)
		})
	}
}

// BenchmarkCall is what one model call costs: two appends, the intent with its reservation and the answer with its
// settlement, by workers that share one budget.
func BenchmarkCall(b *testing.B) {
	for name, storage := range storages {
		for _, workers := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("%s/%d", name, workers), func(b *testing.B) {
				w := newWorldOn(b, work.Config{}, storage)
				w.serve()
				w.benchCalls(b, workers)
			})
		}
	}
}

func (w *world) benchCalls(b *testing.B, workers int) {
	b.Helper()
	sessions := make([]*work.Session, workers)
	for i := range sessions {
		sessions[i] = w.take(w.task(runBudget(1 << 40)))
	}
	spread(b, workers, func(worker int, next func() bool) {
		for call := 1; next(); call++ {
			err := sessions[worker].Append(b.Context(), intent(call, 100))
			if err == nil {
				err = sessions[worker].Append(b.Context(), answer(call, 10), started("x"))
			}
			if err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// BenchmarkCallRaw is the reference of BenchmarkCall: the same bytes in two batches, written without a service, a budget
// for each worker.
func BenchmarkCallRaw(b *testing.B) {
	for name, storage := range storages {
		for _, workers := range []int{1, 16, 64} {
			b.Run(fmt.Sprintf("%s/%d", name, workers), func(b *testing.B) {
				w := newWorldOn(b, work.Config{}, storage)
				body, err := json.Marshal([]work.Entry{intent(1, 100), answer(1, 10)})
				require.NoError(b, err)
				spread(b, workers, func(worker int, next func() bool) {
					call, budget := fmt.Sprint("ark.call.default.writer.run-1.", worker), fmt.Sprint("ark.budget.default.run.", worker)
					for next() {
						for range 2 {
							if _, err := w.queue.Batch(b.Context(), queue.Write{Subject: call, Body: body}, queue.Write{Subject: budget, Body: body, Rollup: true}); err != nil {
								b.Error(err)
								return
							}
						}
					}
				})
			})
		}
	}
}

// BenchmarkTakeOver is the take-over of a fresh task.
func BenchmarkTakeOver(b *testing.B) {
	for name, storage := range storages {
		b.Run(name, func(b *testing.B) {
			w := newWorldOn(b, work.Config{}, storage)
			w.serve()
			for b.Loop() {
				b.StopTimer()
				tk := w.submit(w.task())
				b.StartTimer()
				if _, err := w.takeAgain(tk); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkReplay is the take-over of a task of 25 turns.
func BenchmarkReplay(b *testing.B) {
	w := newWorld(b, work.Config{Retries: func(string, string) int { return 1 << 30 }})
	w.serve()
	tk := w.task()
	s := w.take(tk)
	for call := 1; call <= 25; call++ {
		appends(b, s, intent(call, 100))
		appends(b, s, work.Entry{Answer: &work.Answer{Call: call, Response: json.RawMessage(`"x"`), Usage: task.Usage{InputTokens: 1}}}, started("x"))
		appends(b, s, toolEnd("x", "text"))
	}
	for b.Loop() {
		if _, err := w.takeAgain(tk); err != nil {
			b.Fatal(err)
		}
	}
}
