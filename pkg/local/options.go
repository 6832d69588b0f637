// Package local runs teams and agents from their manifests inside one process: `ark run` as a library.
//
// A Host is what a cluster is elsewhere: the embedded queue server, the work service, one runtime per agent, and a
// store of ArkRuns. It drives any number of runs at once, each through a runner.Live, and their child runs with them.
// Run is the whole of `ark run`: it makes a Host, runs one team or agent in it, shows the progress and ends it.
// Plan says what a run would do and cost at most; Validate finds everything that can be known to be wrong without
// running.
//
// With Options.Store the queue is kept in a folder, and a run that a dead process left behind goes on with
// Options.Resume. The record of a run holds the manifests it was started with - but no Secret - so that it needs
// nothing else. What was answered and journaled is not paid for again.
package local

import (
	"errors"
	"io"
	"log/slog"
	"time"

	"arkonis.dev/ark/pkg/local/progress"
	"arkonis.dev/ark/pkg/manifest"
	"arkonis.dev/ark/pkg/telemetry"
)

// Options say what to run and how. The zero value of a field leaves it to the manifests.
type Options struct {
	// Manifests hold the team or agent and all that it refers to. With Resume only their Secrets are used, and nil
	// will do.
	Manifests *manifest.Set
	// Team or Agent names what to run; at most one is set. With neither, it is the only team of the manifests, else
	// the only agent.
	Team, Agent string
	// Input of the run by name. Texts are converted to the types that the team declares. An agent's prompt is the
	// input "prompt".
	Input map[string]any

	// Provider and Model are used for all agents instead of their own.
	Provider, Model string
	// MockScript is the YAML text that the mock provider answers from; MockScriptName is the file in its errors.
	MockScript     []byte
	MockScriptName string
	// NoMCP leaves the agents' MCP servers out.
	NoMCP bool

	// MaxTokens bounds the run, beside the team's own bound. Timeout cancels it.
	MaxTokens int64
	Timeout   time.Duration

	// Store is a folder that the run is kept in; empty keeps it in memory. Resume is the name of a run of that folder
	// to go on with, or Latest.
	Store, Resume string

	// Progress hears how the run goes on, and the log. Nil hears nothing. With a Terminal the steps are drawn in
	// place, otherwise each transition is a line. Stream adds the models' text as it arrives, and draws nothing.
	Progress io.Writer
	Terminal *Terminal
	Stream   bool
	LogLevel slog.Leveler // of the log; nil is warn

	// Getenv reads this process's environment.
	Getenv func(string) string
	// Telemetry of the run; nil is off.
	Telemetry *telemetry.Telemetry
}

// Terminal is a terminal that progress is drawn on.
type Terminal = progress.Terminal

// Latest as Options.Resume is the newest run of the store.
const Latest = "@latest"

func (o *Options) validate() error {
	switch {
	case o.Getenv == nil:
		return errors.New("local: Getenv is missing")
	case o.Manifests == nil && o.Resume == "":
		return errors.New("local: Manifests are missing")
	case o.Team != "" && o.Agent != "":
		return configErrorf("--team %s and --agent %s exclude each other: name one of them", o.Team, o.Agent)
	case o.Resume != "" && o.Store == "":
		return configErrorf("--resume %s needs --store: the folder that holds the run", o.Resume)
	case o.MaxTokens < 0:
		return configErrorf("--max-tokens %d is negative", o.MaxTokens)
	case o.Timeout < 0:
		return configErrorf("--timeout %s is negative", o.Timeout)
	}
	if o.LogLevel == nil {
		o.LogLevel = slog.LevelWarn
	}
	return nil
}

// newView returns what shows the run, nil for nothing.
func (o *Options) newView() progress.View {
	switch {
	case o.Progress == nil:
		return nil
	case o.Terminal != nil && !o.Stream:
		return progress.NewScreen(o.Progress, *o.Terminal)
	default:
		return progress.NewLines(o.Progress)
	}
}
