package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// ErrNoData means that the operator does not serve the aggregated API in this cluster.
var ErrNoData = errors.New("the aggregated API data.arkonis.dev is not served in this cluster: install ark with it")

// request is a request for a part of a run.
func (c *Cluster) request(run *v1alpha1.ArkRun, part string) *rest.Request {
	return c.Clients.Core.Discovery().RESTClient().Get().
		AbsPath(dataPath, "namespaces", run.Namespace, "arkruns", run.Name, part).
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
	req := c.request(run, "output")
	if step != "" {
		req = req.Param("step", step)
	}
	body, err := req.Stream(ctx)
	if err != nil {
		return nil, c.explainData(err, run, "output")
	}
	return body, nil
}

// stepList is a page of steps, as the aggregated API writes it.
type stepList struct {
	metav1.ListMeta `json:"metadata"`
	Items           []v1alpha1.StepStatus `json:"items"`
}

// Steps returns all steps of a run, also those that do not fit its status.
func (c *Cluster) Steps(ctx context.Context, run *v1alpha1.ArkRun) ([]v1alpha1.StepStatus, error) {
	var all []v1alpha1.StepStatus
	next := ""
	for {
		req := c.request(run, "steps")
		if next != "" {
			req = req.Param("continue", next)
		}
		body, err := req.Do(ctx).Raw()
		if err != nil {
			return nil, c.explainData(err, run, "steps")
		}
		var page stepList
		if err := json.Unmarshal(body, &page); err != nil {
			return nil, fmt.Errorf("read the steps of run %s: %w", run.Name, err)
		}
		all = append(all, page.Items...)
		if next = page.Continue; next == "" {
			return all, nil
		}
	}
}
