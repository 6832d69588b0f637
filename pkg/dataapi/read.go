package dataapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arkonis.dev/ark/pkg/apis/data"
	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/runner"
	"arkonis.dev/ark/pkg/task"
)

const (
	// maxSnapshot bounds the snapshot of a team that is read, in bytes.
	maxSnapshot = 8 << 20
	// stepPreview is how much of the output of each step a list shows, in bytes.
	stepPreview = 2 << 10
	// pageSteps and mostSteps are how many steps a page has, unasked and at most.
	pageSteps = 250
	mostSteps = 1000
)

// output answers with a whole output: of the run, or of one step.
func (s *Server) output(w http.ResponseWriter, r *http.Request, run *v1alpha1.ArkRun) {
	step := r.URL.Query().Get("step")
	text, err := runner.OutputOf(&run.Status), error(nil)
	if step != "" {
		text, err = s.stepOutput(r.Context(), run, step)
	} else if !run.Status.Phase.Terminal() {
		err = apierrors.NewConflict(groupResource(), run.Name, errors.New("it has not ended, so that it has no output yet: name a step that is done, or wait"))
	}
	if err != nil {
		fail(w, err)
		return
	}
	if err := s.stream(w, r, text); err != nil {
		s.log.DebugContext(r.Context(), "an output was not sent whole", "run", run.Namespace+"/"+run.Name, "error", err)
	}
}

// stepOutput finds the whole output of a step: by its reference in the status, else in the run's records.
func (s *Server) stepOutput(ctx context.Context, run *v1alpha1.ArkRun, step string) (task.Text, error) {
	i := slices.IndexFunc(run.Status.Steps, func(st v1alpha1.StepStatus) bool { return st.Name == step })
	if i >= 0 && run.Status.Steps[i].OutputRef != nil {
		return runner.StoredText(run.Status.Steps[i].OutputRef), nil
	}
	past, err := s.past(ctx, run)
	if err != nil {
		return task.Text{}, err
	}
	if text, ok := past.Output(step); ok {
		return text, nil
	}
	steps := past.Steps(time.Now(), mostText)
	i = slices.IndexFunc(steps, func(st v1alpha1.StepStatus) bool { return st.Name == step })
	switch {
	case i < 0:
		return task.Text{}, apierrors.NewNotFound(groupResource(), run.Name+": step "+step)
	case steps[i].OutputRef != nil:
		return runner.StoredText(steps[i].OutputRef), nil
	case steps[i].Parent != "" && steps[i].Phase.Terminal():
		return task.Text{Inline: steps[i].Output}, nil
	default:
		return task.Text{}, apierrors.NewConflict(groupResource(), run.Name, fmt.Errorf("step %s is %s and has no output", step, steps[i].Phase))
	}
}

// mostText is longer than any text that is not in the payload store.
const mostText = 16 << 20

// stream sends a text, wherever it is, without holding more of it than a chunk.
func (s *Server) stream(w http.ResponseWriter, r *http.Request, text task.Text) error {
	var body io.Reader = strings.NewReader(text.Inline)
	size := int64(len(text.Inline))
	if text.Ref != nil {
		var err error
		size = text.Ref.Size
		if body, err = s.cfg.Queue.GetPayload(r.Context(), *text.Ref); err != nil {
			if errors.Is(err, queue.ErrNoPayload) {
				err = apierrors.NewGenericServerResponse(http.StatusGone, "get", groupResource(), text.Ref.Key, "the payload store has lost this output", 0, true)
			}
			fail(w, err)
			return err
		}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	out := newPatient(w)
	if _, err := io.Copy(out, body); err != nil {
		panic(http.ErrAbortHandler) // the length was promised: the client must see that it has not got all
	}
	return nil
}

// patient is a response whose client must take something from time to time.
type patient struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func newPatient(w http.ResponseWriter) *patient {
	return &patient{w: w, control: http.NewResponseController(w)}
}

func (p *patient) Write(b []byte) (int, error) {
	_ = p.control.SetWriteDeadline(time.Now().Add(writeTimeout)) // a test's recorder has none
	return p.w.Write(b)
}

func (p *patient) flush() error {
	_ = p.control.SetWriteDeadline(time.Now().Add(writeTimeout))
	return p.control.Flush()
}

// past reads all that the records say of a run. Only a few are read at once.
func (s *Server) past(ctx context.Context, run *v1alpha1.ArkRun) (*runner.Past, error) {
	select {
	case s.folds <- struct{}{}:
		defer func() { <-s.folds }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	run, err := s.withSnapshot(ctx, run)
	if err != nil {
		return nil, err
	}
	past, err := runner.ReadPast(ctx, s.cfg.Queue, run, startOf(run))
	if err != nil {
		return nil, fmt.Errorf("read the records of run %s: %w", run.Name, err)
	}
	return past, nil
}

// withSnapshot is a run whose spec has the snapshot of its team in it, wherever that is.
func (s *Server) withSnapshot(ctx context.Context, run *v1alpha1.ArkRun) (*v1alpha1.ArkRun, error) {
	resolved := run.Status.Resolved
	if resolved == nil {
		if spec := &run.Spec; spec.AgentRef == nil && len(spec.Roles) == 0 && len(spec.Pipeline) == 0 && spec.Entry == "" && spec.Routing == nil {
			return nil, apierrors.NewConflict(groupResource(), run.Name, errors.New("it has not started, so that there is nothing to read"))
		}
		return run, nil
	}
	spec := resolved.Spec
	if spec == nil && resolved.Ref != nil {
		text, err := s.cfg.Queue.Text(ctx, runner.StoredText(resolved.Ref), maxSnapshot)
		if err != nil {
			return nil, fmt.Errorf("read the snapshot of run %s: %w", run.Name, err)
		}
		spec = &v1alpha1.ArkRunSpec{}
		if err := json.Unmarshal([]byte(text), spec); err != nil {
			return nil, fmt.Errorf("read the snapshot of run %s: %w", run.Name, err)
		}
	}
	if spec == nil {
		return run, nil
	}
	whole := run.DeepCopy()
	whole.Spec = *spec
	return whole, nil
}

// startOf is when a run began, as far as that is known.
func startOf(run *v1alpha1.ArkRun) time.Time {
	switch t := run.Spec.Trigger; {
	case run.Status.StartTime != nil:
		return run.Status.StartTime.Time
	case t != nil && t.FiredAt != nil:
		return t.FiredAt.Time
	default:
		return run.CreationTimestamp.Time
	}
}

// steps answers with a page of steps.
func (s *Server) steps(w http.ResponseWriter, r *http.Request, run *v1alpha1.ArkRun) {
	from, err := whole(r, "continue", 0)
	limit, wrong := whole(r, "limit", pageSteps)
	if err = errors.Join(err, wrong); err != nil {
		fail(w, apierrors.NewBadRequest(err.Error()))
		return
	}
	past, err := s.past(r.Context(), run)
	if err != nil {
		fail(w, err)
		return
	}
	all := past.Steps(time.Now(), stepPreview)
	if limit == 0 {
		limit = pageSteps
	}
	from = min(from, len(all))
	to := min(from+min(limit, mostSteps), len(all))
	list := data.StepList{
		TypeMeta: metav1.TypeMeta{Kind: data.KindStepList, APIVersion: data.Group + "/" + data.Version}, Items: all[from:to],
	}
	if to < len(all) {
		rest := int64(len(all) - to)
		list.Continue, list.RemainingItemCount = strconv.Itoa(to), &rest
	}
	write(w, http.StatusOK, list)
}

// whole reads a parameter that is a number that is not negative.
func whole(r *http.Request, name string, unset int) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return unset, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s=%q is not a number of steps", name, text)
	}
	return n, nil
}
