package local

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/manifest"
)

// chain is a team whose steps stand one after another.
func chain(steps int) string {
	var b strings.Builder
	b.WriteString("apiVersion: arkonis.dev/v1alpha1\nkind: ArkTeam\nmetadata: {name: chain}\nspec:\n" +
		"  roles:\n  - {name: worker, model: mock, systemPrompt: You work., limits: {maxConcurrentTasks: 64}}\n  pipeline:\n")
	for i := range steps {
		after := ""
		if i > 0 {
			after = fmt.Sprintf(", dependsOn: [s%d]", i-1)
		}
		fmt.Fprintf(&b, "  - {name: s%d, role: worker, inputs: {prompt: step %d of the chain}%s}\n", i, i, after)
	}
	return b.String()
}

// benchHost is a host with the agents of a chain.
type benchHost struct {
	*host
	session  *session
	prepared *prepared
}

func newBenchHost(b *testing.B, store string, steps int) *benchHost {
	b.Helper()
	file := filepath.Join(b.TempDir(), "team.yaml")
	require.NoError(b, os.WriteFile(file, []byte(chain(steps)), 0o600))
	set, err := manifest.Load(b.Context(), manifest.Sources{Paths: []string{file}})
	require.NoError(b, err)
	o := Options{Manifests: set, Getenv: func(string) string { return "" }, LogLevel: slog.LevelWarn, Store: store}
	p, err := prepare(&o)
	require.NoError(b, err)
	log := slog.New(slog.DiscardHandler)
	h, err := newHost(b.Context(), hostConfig{store: store, log: log})
	require.NoError(b, err)
	b.Cleanup(func() { _ = h.close() })
	require.NoError(b, h.equip(b.Context(), p.catalog, p.agents, p.outfits))
	return &benchHost{host: h, session: &session{options: &o, log: log}, prepared: p}
}

// run makes one run and returns its end.
func (h *benchHost) run(b *testing.B) (v1alpha1.ArkRunStatus, error) {
	r, err := h.session.newRecord(b.Context(), h.host, h.prepared)
	if err != nil {
		return v1alpha1.ArkRunStatus{}, err
	}
	if err := h.newDriver(r, false).run(b.Context()); err != nil {
		return v1alpha1.ArkRunStatus{}, err
	}
	if p := r.Run.Status.Phase; p != v1alpha1.RunSucceeded {
		return v1alpha1.ArkRunStatus{}, fmt.Errorf("run ended %s: %s", p, r.Run.Status.Message)
	}
	return r.Run.Status, nil
}

// percentile of durations, in microseconds.
func percentile(d []time.Duration, p float64) float64 {
	slices.Sort(d)
	return float64(d[min(len(d)-1, int(p*float64(len(d))))].Nanoseconds()) / 1e3
}

func gaps(at []time.Time) []time.Duration {
	var d []time.Duration
	for i := 1; i < len(at); i++ {
		d = append(d, at[i].Sub(at[i-1]))
	}
	return d
}

func stores(b *testing.B, f func(b *testing.B, store func() string)) {
	b.Run("memory", func(b *testing.B) { f(b, func() string { return "" }) })
	b.Run("synced", func(b *testing.B) { f(b, func() string { return b.TempDir() }) })
}

// BenchmarkStep measures one step after another: from a result to the next one. The mock model takes no time, so it
// is all overhead. Both sides take turns, a chain each, in the same process.
func BenchmarkStep(b *testing.B) {
	const steps = 100
	stores(b, func(b *testing.B, store func() string) {
		h, r := newBenchHost(b, store(), steps), newRaw(b, store(), 1)
		var ark, bare []time.Duration
		var arkCPU, bareCPU time.Duration
		var messages uint64
		for i := 0; b.Loop(); i++ {
			before, sent := processorTime(b), h.messages()
			status, err := h.run(b)
			require.NoError(b, err)
			arkCPU, messages = arkCPU+processorTime(b)-before, messages+h.messages()-sent
			var at []time.Time
			for _, s := range status.Steps {
				at = append(at, s.CompletionTime.Time)
			}
			ark = append(ark, gaps(at)...)
			before = processorTime(b)
			done, err := r.steps(b.Context(), 0, fmt.Sprint(i), steps)
			require.NoError(b, err)
			bareCPU += processorTime(b) - before
			bare = append(bare, gaps(done)...)
		}
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(percentile(ark, 0.5), "ark-p50-µs")
		b.ReportMetric(percentile(bare, 0.5), "raw-p50-µs")
		b.ReportMetric(percentile(ark, 0.99), "ark-p99-µs")
		b.ReportMetric(percentile(bare, 0.99), "raw-p99-µs")
		b.ReportMetric(percentile(ark, 0.5)/percentile(bare, 0.5), "ark/raw")
		all := float64(b.N * steps)
		b.ReportMetric(float64(arkCPU.Microseconds())/all, "ark-cpu-µs")
		b.ReportMetric(float64(bareCPU.Microseconds())/all, "raw-cpu-µs")
		b.ReportMetric(float64(messages)/all, "ark-msgs")
	})
}

// messages is how many messages have gone over the host's connection, in both directions.
func (h *benchHost) messages() uint64 {
	s := h.queue.Conn().Stats()
	return s.InMsgs + s.OutMsgs
}

// processorTime is what this process has used of the processors so far.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// inFlight is how many runs go on at once in BenchmarkRuns.
const inFlight = 64

// parallel works on n pieces, inFlight at once, and returns how many were done per second.
func parallel(b *testing.B, n int, work func(worker, i int) error) float64 {
	next := make(chan int)
	start := time.Now()
	var wg sync.WaitGroup
	for worker := range inFlight {
		wg.Go(func() {
			for i := range next {
				if err := work(worker, i); err != nil {
					b.Error(err)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
	return float64(n) / time.Since(start).Seconds()
}

// BenchmarkRuns measures runs of three steps, 64 in flight, against as many raw chains of three steps.
func BenchmarkRuns(b *testing.B) {
	const steps, runs = 3, 512
	stores(b, func(b *testing.B, store func() string) {
		h, r := newBenchHost(b, store(), steps), newRaw(b, store(), inFlight)
		var ark, bare []float64
		for round := 0; b.Loop(); round++ {
			ark = append(ark, parallel(b, runs, func(int, int) error { _, err := h.run(b); return err }))
			bare = append(bare, parallel(b, runs, func(worker, i int) error {
				_, err := r.steps(b.Context(), worker, fmt.Sprintf("%d-%d", round, i), steps)
				return err
			}))
		}
		slices.Sort(ark)
		slices.Sort(bare)
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(ark[len(ark)/2], "ark-runs/s")
		b.ReportMetric(bare[len(bare)/2], "raw-runs/s")
		b.ReportMetric(bare[len(bare)/2]/ark[len(ark)/2], "raw/ark")
		b.ReportMetric(peakMemory(b), "peak-MB")
	})
}

// peakMemory is the largest resident memory of this process so far, the reference's included, in megabytes.
func peakMemory(b *testing.B) float64 {
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return float64(u.Maxrss) / 1024
}
