package queue_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// BenchmarkStart is process start to usable queue, which `ark run` pays once.
func BenchmarkStart(b *testing.B) {
	for b.Loop() {
		s, err := queue.StartServer(b.Context(), queue.ServerConfig{Logger: quiet()})
		require.NoError(b, err)
		nc, err := s.Connect("bench")
		require.NoError(b, err)
		_, err = queue.Open(b.Context(), nc, queue.Config{Storage: jetstream.MemoryStorage, Logger: quiet()})
		require.NoError(b, err)
		b.StopTimer()
		s.Shutdown()
		b.StartTimer()
	}
}

// BenchmarkHop is a task from Submit over Next to Ack, on memory streams and on disk.
func BenchmarkHop(b *testing.B) {
	for name, storage := range storages {
		b.Run(name, func(b *testing.B) {
			q := open(b, startServer(b, dirFor(b, storage)), queue.Config{Storage: storage})
			tasks := takeTasks(b, q, queue.TasksConfig{Slots: 4})
			i := 0
			for b.Loop() {
				i++
				if err := q.Submit(b.Context(), newTask(i)); err != nil {
					b.Fatal(err)
				}
				if err := next(b, tasks).Ack(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkHopRaw is the reference of BenchmarkHop: the same message through a work queue by nats.go alone.
func BenchmarkHopRaw(b *testing.B) {
	for name, storage := range storages {
		b.Run(name, func(b *testing.B) {
			js, err := jetstream.New(connect(b, startServer(b, dirFor(b, storage))))
			require.NoError(b, err)
			s, err := js.CreateStream(b.Context(), jetstream.StreamConfig{
				Name: "RAW", Subjects: []string{"raw.>"}, Retention: jetstream.WorkQueuePolicy, Storage: storage,
			})
			require.NoError(b, err)
			c, err := s.CreateConsumer(b.Context(), jetstream.ConsumerConfig{Durable: "raw", AckPolicy: jetstream.AckExplicitPolicy})
			require.NoError(b, err)
			iter, err := c.Messages(jetstream.PullMaxMessages(4))
			require.NoError(b, err)
			defer iter.Stop()
			i := 0
			for b.Loop() {
				i++
				body, err := json.Marshal(newTask(i))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := js.Publish(b.Context(), fmt.Sprint("raw.", i), body); err != nil {
					b.Fatal(err)
				}
				m, err := iter.Next()
				if err != nil {
					b.Fatal(err)
				}
				if err := json.Unmarshal(m.Data(), new(task.Task)); err != nil {
					b.Fatal(err)
				}
				if err := m.DoubleAck(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkBatch is a journal entry together with two budget states, as a model call writes them; "single" is one
// message of the same size, the least that a durable decision can cost.
func BenchmarkBatch(b *testing.B) {
	for _, c := range []struct {
		name string
		disk bool
		sync bool
	}{{name: "memory"}, {name: "disk", disk: true}, {name: "synced", disk: true, sync: true}} {
		cfg := queue.ServerConfig{SyncAlways: c.sync, Logger: quiet()}
		storage := jetstream.MemoryStorage
		if c.disk {
			storage = jetstream.FileStorage
		}
		b.Run(c.name, func(b *testing.B) {
			if c.disk {
				cfg.StoreDir = b.TempDir()
			}
			s, err := queue.StartServer(b.Context(), cfg)
			require.NoError(b, err)
			b.Cleanup(s.Shutdown)
			q := open(b, s, queue.Config{Storage: storage})
			b.Run("batch", func(b *testing.B) { benchBatch(b, q) })
			b.Run("single", func(b *testing.B) { benchSingle(b, q) })
		})
	}
}

func benchBatch(b *testing.B, q *queue.Queue) {
	body := make([]byte, 500)
	subjects := []string{
		queue.CallSubject(queue.KeyOf(newTask(1))),
		queue.BudgetSubject("default", "run.run-1"),
		queue.BudgetSubject("default", "agent.writer"),
	}
	var seqs [3]uint64
	for i, subject := range subjects {
		s, _, err := q.Last(b.Context(), subject)
		require.NoError(b, err)
		seqs[i] = s.Seq
	}
	for b.Loop() {
		got, err := q.Batch(b.Context(),
			queue.Write{Subject: subjects[0], Body: body, Expect: &seqs[0]},
			queue.Write{Subject: subjects[1], Body: body, Expect: &seqs[1], Rollup: true},
			queue.Write{Subject: subjects[2], Body: body, Expect: &seqs[2], Rollup: true})
		if err != nil {
			b.Fatal(err)
		}
		seqs = [3]uint64(got)
	}
}

func benchSingle(b *testing.B, q *queue.Queue) {
	body := make([]byte, 1500)
	for b.Loop() {
		if _, err := q.Batch(b.Context(), queue.Write{Subject: "ark.call.a.b.c.d", Body: body}); err != nil {
			b.Fatal(err)
		}
	}
}

var storages = map[string]jetstream.StorageType{"memory": jetstream.MemoryStorage, "disk": jetstream.FileStorage}

func dirFor(b *testing.B, storage jetstream.StorageType) string {
	b.Helper()
	if storage == jetstream.FileStorage {
		return b.TempDir()
	}
	return ""
}
