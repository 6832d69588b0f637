package local

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/propagation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/local/progress"
	"arkonis.dev/ark/pkg/runner"
	"arkonis.dev/ark/pkg/telemetry"
)

// cleanUp bounds the time that a cancelled run has to end in good order.
const cleanUp = 10 * time.Second

// Run runs a team or an agent, or goes on with a run of a store, and returns when it has ended. When ctx ends, the run
// is cancelled and its end waited for.
//
// The report is set whenever the run has ended, also with an error. Errors: *ConfigError and manifest errors when it
// cannot start; *FailedError; *TimeoutError when Options.Timeout is over; *InterruptedError when ctx ended. Any other
// error is a fault of the queue or the disk.
func Run(ctx context.Context, o Options) (*Report, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	s := &session{options: &o, view: o.newView(), log: slog.New(slog.DiscardHandler)}
	if s.view != nil {
		s.observer = progress.NewObserver(s.view, o.Stream)
		s.log = telemetry.NewLogger(s.view, telemetry.Text, o.LogLevel)
	}
	report, err := s.run(ctx)
	if s.view != nil {
		summary := ""
		if report != nil {
			summary = report.Summary()
		}
		s.view.Finish(summary)
	}
	return report, err
}

// session is one `ark run`.
type session struct {
	options  *Options
	view     progress.View      // nil: nobody looks on
	observer *progress.Observer // nil like view
	log      *slog.Logger
}

func (s *session) run(ctx context.Context) (report *Report, err error) {
	var p *prepared
	if s.options.Resume == "" { // before anything is started or written
		if p, err = prepare(s.options); err != nil {
			return nil, err
		}
	}
	h, err := newHost(ctx, hostConfig{
		store: s.options.Store, log: s.log, tel: s.options.Telemetry, observer: s.observer, stream: s.options.Stream,
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	var r *record
	goesOn := map[string]bool{}
	if p != nil {
		r, err = s.newRecord(ctx, h, p)
	} else {
		r, p, goesOn, err = s.findRecord(ctx, h)
	}
	if err == nil && s.options.Store != "" {
		err = h.inherit(ctx, goesOn)
	}
	if err != nil {
		return nil, err
	}
	if s.view != nil {
		for _, w := range p.warnings {
			fmt.Fprintf(s.view, "warning: %s\n", w)
		}
	}
	if !r.Run.Status.Phase.Terminal() {
		if err := h.equip(ctx, p.catalog, p.agents, p.outfits); err != nil {
			return nil, err
		}
	}
	return s.drive(ctx, h, r)
}

// Who ended a run.
const (
	byCaller  = 1
	byTimeout = 2
)

// drive drives the run to its end and says how it ended.
func (s *session) drive(ctx context.Context, h *host, r *record) (*Report, error) {
	d := h.newDriver(r, s.options.Resume != "")
	var cause atomic.Int32 // who ended the run first, if anybody did
	end := func(by int32, reason string) {
		if cause.CompareAndSwap(0, by) {
			d.cancel(reason)
		}
	}
	// The run outlives ctx, so that it can be cancelled in good order.
	lasting, abandon := context.WithCancel(context.WithoutCancel(ctx))
	defer abandon()
	interrupted := context.AfterFunc(ctx, func() {
		end(byCaller, "interrupted")
		time.AfterFunc(cleanUp, abandon)
	})
	defer interrupted()
	waits := "" // to be read when the time-out has ended the run
	if t := s.options.Timeout; t > 0 {
		timer := time.AfterFunc(t, func() {
			waits = s.observer.Waits()
			end(byTimeout, notDone(t, waits))
		})
		defer timer.Stop()
	}
	var report *Report
	err := d.run(lasting)
	if err == nil {
		report, err = d.report(lasting)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, &InterruptedError{Run: r.Run.Name, Resume: s.resume(r)}
		}
		return nil, err
	}
	switch {
	case report.Status == v1alpha1.RunSucceeded:
		return report, nil
	case report.Status == v1alpha1.RunCancelled && cause.Load() == byCaller:
		return report, &InterruptedError{Run: r.Run.Name, Clean: true}
	case report.Status == v1alpha1.RunCancelled && cause.Load() == byTimeout:
		return report, &TimeoutError{Run: r.Run.Name, After: s.options.Timeout, Why: waits}
	default:
		return report, failure(&d.record.Run)
	}
}

// notDone is the reason of a cancel after a time, with what was waited for, if it was anything.
func notDone(after time.Duration, waits string) string {
	if waits == "" {
		return "not done after " + after.String()
	}
	return fmt.Sprintf("not done after %s: %s", after, waits)
}

func failure(run *v1alpha1.ArkRun) *FailedError {
	s := &run.Status
	e := &FailedError{Run: run.Name, Phase: s.Phase, Step: s.FailedStep, Reason: runner.EndReason(s), Message: s.Message}
	for i := range s.Steps {
		if s.Steps[i].Name == s.FailedStep && e.Reason == v1alpha1.ReasonStepFailed {
			e.Reason = cmp.Or(s.Steps[i].Reason, e.Reason)
		}
	}
	return e
}

// resume is how to go on with a run that did not end.
func (s *session) resume(r *record) string {
	if s.options.Store == "" {
		return ""
	}
	return fmt.Sprintf("ark run --store %s --resume %s", s.options.Store, r.Run.Name)
}

// newRecord stores a new run.
func (s *session) newRecord(ctx context.Context, h *host, p *prepared) (*record, error) {
	id, err := newID()
	if err != nil {
		return nil, err
	}
	now := time.Now().Truncate(time.Microsecond) // what a record keeps
	r := &record{Run: v1alpha1.ArkRun{
		TypeMeta:   runType(),
		ObjectMeta: metav1.ObjectMeta{Namespace: p.catalog.namespace, UID: types.UID(id), CreationTimestamp: metav1.NewTime(now)},
		Spec:       p.spec,
	}}
	fired := metav1.NewMicroTime(now)
	r.Run.Spec.Trigger = &v1alpha1.Trigger{Kind: v1alpha1.TriggerLocal, ID: id, FiredAt: &fired}
	switch {
	case p.spec.TeamRef != nil:
		r.Run.Name = v1alpha1.RunName(p.spec.TeamRef.Name, id)
		r.Run.Labels = map[string]string{v1alpha1.LabelTeam: p.spec.TeamRef.Name}
	default:
		r.Run.Name = v1alpha1.RunName(p.spec.AgentRef.Name, id)
		r.Run.Labels = map[string]string{v1alpha1.LabelAgent: p.spec.AgentRef.Name}
	}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	if parent := carrier.Get("traceparent"); parent != "" {
		r.Run.Annotations = map[string]string{v1alpha1.AnnotationTrace: parent}
	}
	if s.options.Store != "" {
		if err := s.keepSetup(ctx, h, p, r); err != nil {
			return nil, err
		}
	}
	if err := h.runs.create(ctx, r); err != nil {
		return nil, err
	}
	if s.options.Store != "" && s.view != nil {
		fmt.Fprintf(s.view, "Run %s; after a crash go on with: %s\n", r.Run.Name, s.resume(r))
	}
	return r, nil
}

// keepSetup stores what it takes to go on with the run.
func (s *session) keepSetup(ctx context.Context, h *host, p *prepared, r *record) error {
	body, err := json.Marshal(setup{
		Manifests: p.catalog, Override: override{Model: s.options.Model, Provider: s.options.Provider},
		MockScript: string(s.options.MockScript), NoMCP: s.options.NoMCP,
	})
	if err != nil {
		return fmt.Errorf("keep the manifests: %w", err)
	}
	text, err := h.queue.PutText(ctx, string(r.Run.UID), string(body))
	if err != nil {
		return fmt.Errorf("keep the manifests: %w", err)
	}
	r.Setup = &text
	return nil
}

// maxSetup bounds what is read back of the manifests of a run, in bytes.
const maxSetup = 256 << 20

// findRecord finds the run to go on with and prepares it as it was. family are the uids of the run and those below it.
func (s *session) findRecord(ctx context.Context, h *host) (r *record, p *prepared, below map[string]bool, err error) {
	all, err := h.runs.all(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	r, err = s.wanted(all)
	if err != nil {
		return nil, nil, nil, err
	}
	p = &prepared{}
	if !r.Run.Status.Phase.Terminal() {
		p, err = s.prepareAgain(ctx, h, r)
	}
	return r, p, family(all, r), err
}

// prepareAgain prepares a run with the manifests that it was started with.
func (s *session) prepareAgain(ctx context.Context, h *host, r *record) (*prepared, error) {
	body, err := h.queue.Text(ctx, *r.Setup, maxSetup)
	if err != nil {
		return nil, fmt.Errorf("read the manifests of run %s: %w", r.Run.Name, err)
	}
	var was setup
	d := json.NewDecoder(bytes.NewReader([]byte(body)))
	if err := d.Decode(&was); err != nil {
		return nil, fmt.Errorf("read the manifests of run %s: %w", r.Run.Name, err)
	}
	if s.options.Manifests != nil {
		was.Manifests.secrets = byName(s.options.Manifests.Secrets, was.Manifests.namespace)
	}
	script, err := parseScript("the run's mock script", []byte(was.MockScript))
	if err != nil {
		return nil, err
	}
	o := *s.options
	o.NoMCP = was.NoMCP
	over := override{Model: cmp.Or(o.Model, was.Override.Model), Provider: cmp.Or(o.Provider, was.Override.Provider)}
	return was.Manifests.equipRun(r.Run.Spec, over, script, &o, &problems{})
}

// wanted finds the record that Options.Resume names.
func (s *session) wanted(all []*record) (*record, error) {
	asked := slices.DeleteFunc(slices.Clone(all), func(r *record) bool { return r.Parent != nil || r.Setup == nil })
	name := s.options.Resume
	for _, r := range slices.Backward(asked) {
		if name == Latest || name == r.Run.Name {
			return r, nil
		}
	}
	if len(asked) == 0 {
		return nil, configErrorf("there is no run %q in store %s: the store holds none", name, s.options.Store)
	}
	var newest []string
	for _, r := range asked[max(0, len(asked)-10):] {
		newest = append(newest, r.Run.Name)
	}
	return nil, configErrorf("there is no run %q in store %s; the newest are: %s", name, s.options.Store, strings.Join(newest, ", "))
}

func runType() metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion().String(), Kind: "ArkRun"}
}

// newID is the uid of a run: 32 hex characters that nobody can guess.
func newID() (string, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return "", fmt.Errorf("make a run id: %w", err)
	}
	return hex.EncodeToString(b), nil
}

// Plan says what a run would do and cost at most. It calls no model and writes nothing.
func Plan(_ context.Context, o Options) (*PlanReport, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	p, err := prepare(&o)
	if err != nil {
		return nil, err
	}
	report := p.catalog.planRun(&p.spec, p.agents)
	report.Warnings = p.warnings
	return report, nil
}
