// Command cluster measures runs in a cluster: a real API server, `ark operator`, and `ark runtime` as the processes that pods
// would be, with a model server that answers at once. Beside each figure stands the reference: the same objects against
// the same API server with the least that any controller could do, two status writes for each and nothing else.
//
// Everything shares one machine, the API server and this command too. CPU time is told beside wall time, as a machine that
// is busy with other things makes only the latter longer.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// sizes say how much is measured.
type sizes struct {
	single, burst, finished, live int
}

func main() {
	var n sizes
	ark := flag.String("ark", "bin/ark", "the executable")
	limit := flag.Duration("limit", 20*time.Minute, "give up after this time")
	flag.IntVar(&n.single, "single", 200, "runs one after the other")
	flag.IntVar(&n.burst, "burst", 5000, "runs at once")
	flag.IntVar(&n.finished, "finished", 10000, "finished runs with which memory is measured, at most 10000")
	flag.IntVar(&n.live, "live", 1000, "live runs with which memory is measured")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	ctx, cancel := context.WithTimeoutCause(ctx, *limit, fmt.Errorf("not done within %s", *limit))
	err := measure(ctx, *ark, n)
	cancel()
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// measure prints a table for each part as soon as it is known.
func measure(ctx context.Context, ark string, n sizes) (err error) {
	w, err := newWorld(ctx, ark)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.close()) }()
	ctx, unfollow := context.WithCancel(ctx)
	defer unfollow()
	raw, stop, err := w.startRaw(ctx, n.single+n.burst+warm)
	if err != nil {
		return err
	}
	defer stop()
	applied, triggered, err := w.startTeam(ctx)
	if err != nil {
		return err
	}
	all := []*subject{raw, applied, triggered}
	if err := w.latency(ctx, all, n.single); err != nil {
		return err
	}
	if err := w.bursts(ctx, all, n.burst); err != nil {
		return err
	}
	stop()
	return w.memory(ctx, applied, triggered.made, n)
}
