package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"arkonis.dev/ark/e2e/cluster/apiserver"
)

func table(head string, rows ...string) error {
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, head)
	for _, r := range rows {
		fmt.Fprintln(t, r)
	}
	fmt.Fprintln(t)
	return t.Flush()
}

// warm is how many runs come before those that are measured.
const warm = 10

// latency measures runs one after the other, in turns with the reference.
func (w *world) latency(ctx context.Context, subjects []*subject, n int) error {
	took := make([][]time.Duration, len(subjects))
	for i := range n + warm {
		for k, s := range subjects {
			names, err := s.create(ctx, 1)
			if err != nil {
				return err
			}
			if err := s.ends(ctx); err != nil {
				return w.operator.failed(err)
			}
			if i >= warm {
				took[k] = append(took[k], s.finished[names[0]])
			}
		}
	}
	row := func(name string, d []time.Duration, aim string) string {
		slices.Sort(d)
		return fmt.Sprintf("%s\t%s\t%s\t%.1f\t%s", name, short(quantile(d, 50)), short(quantile(d, 99)), float64(quantile(d, 50))/float64(quantile(took[0], 50)), aim)
	}
	return table(fmt.Sprintf("created to Succeeded, %d one after the other\tp50\tp99\tx reference\taim", n),
		row("reference: create, 2 status writes, watch", took[0], ""), row("run of 3 steps, applied", took[1], "p50 100ms, p99 300ms"),
		row("run of 3 steps, triggered", took[2], "p50 100ms, p99 300ms"))
}

// quantile of sorted values.
func quantile(d []time.Duration, percent int) time.Duration {
	return d[min(len(d)*percent/100, len(d)-1)]
}

func short(d time.Duration) string { return d.Round(time.Millisecond / 10).String() }

// bursts measures many runs at once.
func (w *world) bursts(ctx context.Context, subjects []*subject, n int) error {
	var rows []string
	var reference time.Duration
	entries := make([][]apiserver.Entry, len(subjects))
	for i, s := range subjects {
		earlier, err := w.api.Audit()
		if err != nil {
			return err
		}
		asked := len(earlier)
		before, err := w.cpu()
		if err != nil {
			return err
		}
		began := time.Now()
		names, err := s.create(ctx, n)
		if err != nil {
			return err
		}
		created := time.Since(began)
		if err := s.ends(ctx); err != nil {
			return w.operator.failed(err)
		}
		took := time.Since(began)
		after, err := w.cpu()
		if err != nil {
			return err
		}
		all, err := w.api.Audit()
		if err != nil {
			return err
		}
		entries[i] = all[asked:]
		writes, over := w.writes(entries[i], s, names)
		if i == 0 {
			reference = took
		}
		used := after.minus(before)
		each := func(d time.Duration) string { return short(d / time.Duration(n)) }
		rows = append(rows, fmt.Sprintf("%s\t%s\t%s\t%.1f\t%.1f\t%s\t%s\t%s\t%s\t%.2f\t%d", s.name, short(created), short(took), float64(n)/took.Seconds(),
			float64(took)/float64(reference), each(used.operator), each(used.agents), each(used.api), each(used.bench), writes, over))
	}
	rows = append(rows, "aim\t\t2m for 5000\t50\t\t\t\t\t\t4 + 1 per second of life\t0")
	err := table(fmt.Sprintf("burst of %d\tcreated in\tended in\tper second\tx reference\tCPU each: operator\tagents\tAPI server\tbench\twrites each\tover the aim", n), rows...)
	for i, s := range subjects[1:] {
		err = errors.Join(err, requests(entries[i+1], s.name, n))
	}
	return err
}

// writes counts what was written of some runs beside their creation: on average, and how many runs had more than 4
// writes and one for each second of their life.
func (w *world) writes(entries []apiserver.Entry, s *subject, names []string) (each float64, over int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	count := make(map[string]int, len(names))
	for _, name := range names {
		count[s.runs[name]] = 0
	}
	for i := range entries {
		e := &entries[i]
		if _, ours := count[e.Name]; ours && e.Write() && e.Resource == "arkruns" && e.Namespace == s.namespace && e.Verb != "create" {
			count[e.Name]++
		}
	}
	total := 0
	for _, name := range names {
		n := count[s.runs[name]]
		total += n
		if n > 4+int(s.finished[name].Seconds()) {
			over++
		}
	}
	return float64(total) / float64(len(names)), over
}

// requests prints what the operator asked the API server for, for each of n runs, whatever it was about.
func requests(entries []apiserver.Entry, name string, n int) error {
	count := map[string]int{}
	for i := range entries {
		if e := &entries[i]; strings.HasPrefix(e.Agent, "ark-operator") {
			resource := e.Resource
			if e.Subresource != "" {
				resource += "/" + e.Subresource
			}
			count[e.Verb+" "+resource]++
		}
	}
	var rows []string
	for _, what := range slices.Sorted(maps.Keys(count)) {
		if each := float64(count[what]) / float64(n); each >= 0.01 {
			rows = append(rows, fmt.Sprintf("%s\t%.2f", what, each))
		}
	}
	return table("requests of the operator\tfor each run "+name, rows...)
}

// memory measures what the operator holds: with finished runs, of which there are some already, then with live ones too,
// then when it was started anew.
func (w *world) memory(ctx context.Context, team *subject, there int, n sizes) error {
	if err := w.operator.peakFromNow(); err != nil {
		return err
	}
	for more := n.finished - there - team.made; more > 0; more = n.finished - there - team.made {
		if _, err := team.create(ctx, min(more, n.live)); err != nil {
			return err
		}
		if err := team.ends(ctx); err != nil {
			return w.operator.failed(err)
		}
	}
	finished, err := w.rest()
	if err != nil {
		return err
	}
	w.gate.shut()
	team.mu.Lock()
	started := team.started
	team.mu.Unlock()
	if _, err := team.create(ctx, n.live); err != nil {
		return err
	}
	if err := team.until(ctx, "runs to be live", func() bool { return team.started-started == n.live }); err != nil {
		return w.operator.failed(err)
	}
	live, err := w.rest()
	if err != nil {
		return err
	}
	if err := w.operator.stop(); err != nil {
		return err
	}
	began := time.Now()
	if err := w.startOperator(ctx); err != nil {
		return err
	}
	ready := time.Since(began)
	anew, err := w.rest()
	if err != nil {
		return err
	}
	w.gate.open()
	if err := team.ends(ctx); err != nil {
		return w.operator.failed(err)
	}
	row := func(name string, m memory, more string) string {
		return fmt.Sprintf("%s\t%d MiB\t%d MiB\t%d MiB\t%s", name, m.resident>>20, m.own>>20, m.peak>>20, more)
	}
	return table("memory of the operator\tresident\tits own\tpeak\t",
		row(fmt.Sprintf("%d finished runs", n.finished), finished, ""),
		row(fmt.Sprintf("%d finished, %d live", n.finished, n.live), live, "aim 256 MiB"),
		row("the same, started anew", anew, "ready after "+short(ready)))
}

// rest leaves the operator alone for a while and reads what it holds then.
func (w *world) rest() (memory, error) {
	const while = 5 * time.Second
	time.Sleep(while)
	return w.operator.memory()
}
