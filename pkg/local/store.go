package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/task"
)

// bucket is the KV bucket that holds the ArkRuns of a host, by name.
const bucket = "ark_runs"

// recordVersion is the version of every record that this build writes. A higher one is refused.
const recordVersion = 1

// record is one run as the bucket holds it. Records without Parent were asked for by the user and carry the setup to
// go on with.
type record struct {
	Version int             `json:"v"`
	Run     v1alpha1.ArkRun `json:"run"`

	Parent   *parentTask   `json:"parent,omitempty"`
	Budgets  []task.Budget `json:"budgets,omitempty"` // of the runs above
	Deadline time.Time     `json:"deadline,omitzero"` // of the runs above
	Setup    *task.Text    `json:"setup,omitempty"`   // a setup as JSON

	revision uint64
}

// parentTask is the task of the run above that a child run carries out.
type parentTask struct {
	Namespace string `json:"namespace"`
	RunUID    string `json:"runUID"`
	TaskID    string `json:"task"`
}

// setup is what a run was started with, without any Secret.
type setup struct {
	Manifests  *catalog `json:"manifests"`
	Override   override `json:"override"`
	MockScript string   `json:"mockScript,omitempty"`
	NoMCP      bool     `json:"noMCP,omitempty"`
}

var errNoRun = errors.New("no such run")

// runStore keeps records. It is safe for concurrent use.
type runStore struct{ kv jetstream.KeyValue }

// create stores a new record; an error is jetstream.ErrKeyExists when the name is taken.
func (s *runStore) create(ctx context.Context, r *record) error {
	r.Version = recordVersion
	body, err := json.Marshal(r)
	if err == nil {
		r.revision, err = s.kv.Create(ctx, r.Run.Name, body)
	}
	if err != nil {
		return fmt.Errorf("store run %s: %w", r.Run.Name, err)
	}
	return nil
}

// update replaces a record on the condition that nobody else did since it was read.
func (s *runStore) update(ctx context.Context, r *record) error {
	body, err := json.Marshal(r)
	if err == nil {
		r.revision, err = s.kv.Update(ctx, r.Run.Name, body, r.revision)
	}
	if err != nil {
		return fmt.Errorf("store run %s: %w", r.Run.Name, err)
	}
	return nil
}

func (s *runStore) get(ctx context.Context, name string) (*record, error) {
	entry, err := s.kv.Get(ctx, name)
	if errors.Is(err, jetstream.ErrKeyNotFound) || errors.Is(err, jetstream.ErrInvalidKey) {
		return nil, errNoRun
	}
	if err != nil {
		return nil, fmt.Errorf("read run %s: %w", name, err)
	}
	return decodeRecord(entry)
}

func decodeRecord(entry jetstream.KeyValueEntry) (*record, error) {
	r := &record{revision: entry.Revision()}
	if err := json.Unmarshal(entry.Value(), r); err != nil {
		return nil, fmt.Errorf("read run %s: its record is damaged: %w", entry.Key(), err)
	}
	if r.Version > recordVersion {
		return nil, fmt.Errorf("read run %s: a newer ark wrote it (version %d, this one knows %d)", entry.Key(), r.Version, recordVersion)
	}
	return r, nil
}

// all lists the records, those of the newest runs last.
func (s *runStore) all(ctx context.Context) ([]*record, error) {
	watch, err := s.kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	defer func() { _ = watch.Stop() }()
	var out []*record
	for {
		select {
		case entry := <-watch.Updates():
			if entry == nil { // everything that is there was passed
				slices.SortStableFunc(out, func(a, b *record) int { return a.fired().Compare(b.fired()) })
				return out, nil
			}
			r, err := decodeRecord(entry)
			if err != nil {
				return nil, err
			}
			out = append(out, r)
		case <-ctx.Done():
			return nil, fmt.Errorf("list runs: %w", context.Cause(ctx))
		}
	}
}

// fired is when the run was asked for.
func (r *record) fired() time.Time {
	if t := r.Run.Spec.Trigger; t != nil && t.FiredAt != nil {
		return t.FiredAt.Time
	}
	return r.Run.CreationTimestamp.Time
}

// family is the uids of a run and of all runs below it.
func family(all []*record, root *record) map[string]bool {
	out := map[string]bool{string(root.Run.UID): true}
	for known := 0; known < len(out); {
		known = len(out)
		for _, r := range all {
			if r.Parent != nil && out[r.Parent.RunUID] {
				out[string(r.Run.UID)] = true
			}
		}
	}
	return out
}

// end writes a status into a run's record, unless that holds an end already, and returns the one that it then holds. It
// believes r to be the record until the store says otherwise, and notes in it what the store holds then.
func (s *runStore) end(ctx context.Context, r *record, status v1alpha1.ArkRunStatus) (v1alpha1.ArkRunStatus, error) {
	for now := *r; ; {
		now.Run.Status = status
		err := s.update(ctx, &now)
		if err == nil {
			r.revision = now.revision
			return status, nil
		}
		if !errors.Is(err, jetstream.ErrKeyExists) {
			return v1alpha1.ArkRunStatus{}, err
		}
		held, err := s.get(ctx, r.Run.Name) // somebody else wrote
		if err != nil {
			return v1alpha1.ArkRunStatus{}, fmt.Errorf("end run %s: %w", r.Run.Name, err)
		}
		if held.Run.Status.Phase.Terminal() {
			return held.Run.Status, nil
		}
		now = *held
	}
}
