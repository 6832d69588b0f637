package cmd

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel"

	"arkonis.dev/ark/pkg/manifest"
	"arkonis.dev/ark/pkg/telemetry"
)

// load reads manifests and tells on stderr what it skipped.
func load(ctx context.Context, s *streams, paths []string) (*manifest.Set, error) {
	src := manifest.Sources{Paths: paths}
	if slices.Contains(paths, "-") {
		in, err := s.in.take("FILE -")
		if err != nil {
			return nil, err
		}
		src.Stdin = in
	}
	set, err := manifest.Load(ctx, src)
	if err != nil {
		return nil, err
	}
	for _, n := range set.Notes {
		fmt.Fprintln(s.err, "note: "+n.String())
	}
	return set, nil
}

// telemetryFlush bounds how long the end of a command waits for its spans to be sent.
const telemetryFlush = 5 * time.Second

// startTelemetry sets telemetry up. What it fails to send costs spans, never work: that is told once.
func startTelemetry(ctx context.Context, s *streams, recorder *telemetry.Recorder) (*telemetry.Telemetry, error) {
	var told sync.Once
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		told.Do(func() { fmt.Fprintf(s.err, "warning: telemetry cannot be sent: %v\n", err) })
	}))
	c, err := telemetry.ConfigFromEnv(os.Getenv)
	if err != nil {
		return nil, err
	}
	c.Service, c.Version, c.Recorder = "ark", version, recorder
	return telemetry.Start(ctx, c)
}

func stopTelemetry(ctx context.Context, t *telemetry.Telemetry) {
	ctx, cancel := context.WithTimeout(ctx, telemetryFlush)
	defer cancel()
	if err := t.Shutdown(ctx); err != nil {
		otel.Handle(err)
	}
}
