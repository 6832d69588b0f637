package remote

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/types"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/kube"
)

const (
	mergePatch = types.MergePatchType
	// fieldManager owns what the command line writes.
	fieldManager = "ark-cli"
)

// Follow passes a run as it is and whenever it has changed, until it has ended, and returns it then. The error is that of
// the context when that ends first.
func (c *Cluster) Follow(ctx context.Context, run *v1alpha1.ArkRun, changed func(*v1alpha1.ArkRun)) (*v1alpha1.ArkRun, error) {
	run, err := kube.Follow(ctx, c.Clients.Runs(run.Namespace), run, func(now *v1alpha1.ArkRun) bool {
		changed(now)
		return now.Status.Phase.Terminal()
	})
	switch {
	case err == nil || ctx.Err() != nil:
		return run, err
	case errors.Is(err, kube.ErrGone):
		return run, fmt.Errorf("run %w", err)
	default:
		return run, c.explain(err, "watch", kindRun+" "+run.Name+" in namespace "+run.Namespace)
	}
}
