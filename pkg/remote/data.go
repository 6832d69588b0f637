package remote

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"arkonis.dev/ark/pkg/apis/data"
	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// ErrNoData means that the operator does not serve the aggregated API in this cluster.
var ErrNoData = errors.New("the aggregated API data.arkonis.dev is not served in this cluster: install ark with it")

// request is a request for a part of a run.
func (c *Cluster) request(run *v1alpha1.ArkRun, part string) *rest.Request {
	return c.Clients.Core.Discovery().RESTClient().Get().
		AbsPath(data.Path, "namespaces", run.Namespace, data.Resource, run.Name, part).
		Param("uid", string(run.UID)).Timeout(0)
}

// explainData says what an error of the aggregated API means.
func (c *Cluster) explainData(err error, run *v1alpha1.ArkRun, part string) error {
	what := "the " + part + " of run " + run.Name
	switch {
	case notServed(err):
		return fmt.Errorf("read %s: %w", what, ErrNoData)
	case apierrors.IsServiceUnavailable(err):
		return fmt.Errorf("read %s: the operator does not answer: see 'ark status'", what)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("read %s: you have no right to get arkruns/%s in API group data.arkonis.dev: ask an administrator for the role ark-view", what, part)
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return fmt.Errorf("read %s: %s", what, cause(err))
	default:
		return c.explain(err, "read", what)
	}
}

// Output returns the whole output of a run that has ended, or of a step that is done when one is named. Whoever takes it
// closes it. What fits the status is read from there; the rest comes from the aggregated API, as it is asked for.
func (c *Cluster) Output(ctx context.Context, run *v1alpha1.ArkRun, step string) (io.ReadCloser, error) {
	if step == "" && run.Status.Phase.Terminal() && run.Status.OutputRef == nil {
		return io.NopCloser(strings.NewReader(run.Status.Output)), nil
	}
	req := c.request(run, data.Output)
	if step != "" {
		req = req.Param("step", step)
	}
	body, err := req.Stream(ctx)
	if apierrors.IsNotFound(err) && !notServed(err) {
		if wrong := unknownStep(run, step); wrong != nil {
			return nil, wrong
		}
	}
	if err != nil {
		return nil, c.explainData(err, run, data.Output)
	}
	return body, nil
}

// unknownStep is the error for a step that a run does not have; nil when it has it, or when its status does not hold all
// of them.
func unknownStep(run *v1alpha1.ArkRun, step string) error {
	counts := run.Status.StepCounts
	if step == "" || counts != nil && int(counts.Total+counts.Delegated) > len(run.Status.Steps) {
		return nil
	}
	names := make([]string, 0, len(run.Status.Steps))
	for i := range run.Status.Steps {
		names = append(names, run.Status.Steps[i].Name)
	}
	if slices.Contains(names, step) {
		return nil
	}
	return missing("step", "run "+run.Name, step, names)
}

// Steps returns all steps of a run, also those that do not fit its status.
func (c *Cluster) Steps(ctx context.Context, run *v1alpha1.ArkRun) ([]v1alpha1.StepStatus, error) {
	var all []v1alpha1.StepStatus
	next := ""
	for {
		req := c.request(run, data.Steps)
		if next != "" {
			req = req.Param("continue", next)
		}
		body, err := req.Do(ctx).Raw()
		if err != nil {
			return nil, c.explainData(err, run, data.Steps)
		}
		var page data.StepList
		if err := json.Unmarshal(body, &page); err != nil {
			return nil, fmt.Errorf("read the steps of run %s: %w", run.Name, err)
		}
		all = append(all, page.Items...)
		if next = page.Continue; next == "" {
			return all, nil
		}
	}
}

// maxEntry bounds a line of a log, in bytes: far above what the API writes.
const maxEntry = 1 << 20

// LogOptions say which entries of a log are wanted.
type LogOptions struct {
	Step   string // of this step only
	Follow bool   // also what happens, until the run has ended
	Mute   bool   // without what models and tools say
}

// Log passes what happened in a run, in the order of time.
func (c *Cluster) Log(ctx context.Context, run *v1alpha1.ArkRun, o LogOptions, f func(e *data.Entry) error) error {
	req := c.request(run, data.Log)
	if o.Follow {
		req = req.Param("follow", "true")
	}
	if o.Mute {
		req = req.Param("text", "false")
	}
	if o.Step != "" {
		req = req.Param("step", o.Step)
	}
	body, err := req.Stream(ctx)
	if err != nil {
		return c.explainData(err, run, data.Log)
	}
	defer body.Close() //nolint:errcheck // it was only read
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 64<<10), maxEntry)
	ended := false
	for lines.Scan() {
		var e data.Entry
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("read the log of run %s: %w", run.Name, err)
		}
		ended = ended || e.Kind == data.EntryRunEnded
		if err := f(&e); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil || o.Follow && !ended {
		return fmt.Errorf("the log of run %s broke off before the run had ended: type it again to go on (%w)", run.Name, cmp.Or(err, io.ErrUnexpectedEOF))
	}
	return nil
}
