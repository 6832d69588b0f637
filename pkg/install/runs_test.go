package install

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
)

// Each live run is asked to end once; one below a live run is left to that one until it has ended.
func TestWhichRunsAreAskedToEnd(t *testing.T) {
	t.Parallel()
	run := func(name, parent string, phase v1alpha1.RunPhase) *v1alpha1.ArkRun {
		r := &v1alpha1.ArkRun{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Status: v1alpha1.ArkRunStatus{Phase: phase}}
		if parent != "" {
			r.Spec.Parent = &v1alpha1.ParentTask{RunUID: parent}
		}
		return r
	}
	names := func(runs []*v1alpha1.ArkRun) (out []string) {
		for _, r := range runs {
			out = append(out, r.Name)
		}
		return out
	}
	top, below := run("top", "", v1alpha1.RunRunning), run("below", "top", v1alpha1.RunRunning)
	going, marked := run("going", "", v1alpha1.RunRunning), run("marked", "", v1alpha1.RunPending)
	going.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	marked.Annotations = map[string]string{v1alpha1.AnnotationCancel: "true"}
	all := []*v1alpha1.ArkRun{
		below, top, going, marked, run("new", "", ""), run("orphan", "ended", v1alpha1.RunPending),
		run("ended", "", v1alpha1.RunSucceeded), run("failed", "", v1alpha1.RunFailed), run("cancelled", "", v1alpha1.RunCancelled),
	}
	asked := map[types.UID]bool{}
	require.Equal(t, []string{"below", "top", "marked", "new", "orphan"}, names(live(all)))
	require.Equal(t, []string{"top", "new", "orphan"}, names(due(live(all), asked)))
	require.Empty(t, due(live(all), asked))
	top.Status.Phase = v1alpha1.RunCancelled
	require.Equal(t, []string{"below"}, names(due(live(all), asked)))
}
