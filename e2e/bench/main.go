// Command bench measures ark as a process: from its start to its output or until it is ready, and the memory that it takes. Beside each
// figure stands the reference: the same executable that only prints its version. The Go benchmarks of the packages
// measure the rest; `make bench` runs both.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	ark := flag.String("ark", "bin/ark", "the executable")
	team := flag.String("team", "deploy/samples/linear.yaml", "a team that takes the input topic")
	runs := flag.Int("n", 15, "runs of each")
	idles := flag.Int("idle", 5, "runs of each process that is left idle")
	flag.Parse()
	err := measure(os.Stdout, *ark, *team, *runs)
	if err == nil {
		err = measureIdle(os.Stdout, *ark, *idles)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// sample is one process: how long it took and the most memory it held.
type sample struct {
	took   time.Duration
	memory int64 // bytes
}

func measure(w io.Writer, ark, team string, runs int) error {
	dir, err := os.MkdirTemp("", "ark-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	cases := []struct {
		name string
		args func(i int) []string
		all  []sample
	}{
		{name: "ark version (reference)", args: func(int) []string { return []string{"version"} }},
		{name: "ark run, 3 steps, memory", args: func(int) []string { return []string{"run", team, "--input", "topic=tides"} }},
		{name: "ark run, 3 steps, --store (synced)", args: func(i int) []string {
			return []string{"run", team, "--input", "topic=tides", "--store", fmt.Sprintf("%s/%d", dir, i)}
		}},
	}
	for i := range runs + 1 { // in turns; the first round warms up
		for c := range cases {
			s, err := once(ark, cases[c].args(i))
			if err != nil {
				return err
			}
			if i > 0 {
				cases[c].all = append(cases[c].all, s)
			}
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "process, %d runs each\tp50\tmax\tx reference\tpeak memory\n", runs)
	reference := median(cases[0].all)
	for _, c := range cases {
		fmt.Fprintf(t, "%s\t%s\t%s\t%.1f\t%d MB\n", c.name, median(c.all).Round(time.Millisecond/10), longest(c.all).Round(time.Millisecond/10),
			float64(median(c.all))/float64(reference), most(c.all)>>20)
	}
	return t.Flush()
}

// once runs the executable and demands that it says something and ends well.
func once(ark string, args []string) (sample, error) {
	cmd := exec.Command(ark, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	start := time.Now()
	if err := cmd.Run(); err != nil {
		return sample{}, fmt.Errorf("%s %v: %w\n%s", ark, args, err, errs.String())
	}
	took := time.Since(start)
	if out.Len() == 0 {
		return sample{}, fmt.Errorf("%s %v printed nothing", ark, args)
	}
	s := sample{took: took}
	if u, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		s.memory = u.Maxrss << 10
	}
	return s, nil
}

func median(all []sample) time.Duration {
	d := durations(all)
	return d[len(d)/2]
}

func longest(all []sample) time.Duration {
	d := durations(all)
	return d[len(d)-1]
}

func durations(all []sample) []time.Duration {
	d := make([]time.Duration, 0, len(all))
	for _, s := range all {
		d = append(d, s.took)
	}
	slices.Sort(d)
	return d
}

func most(all []sample) int64 {
	var m int64
	for _, s := range all {
		m = max(m, s.memory)
	}
	return m
}
