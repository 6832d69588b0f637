package main

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

const rawNamespace = "raw"

// startRaw starts the reference: whatever is made in its namespace is seen by a watch and gets two status writes, which
// say that it runs and that it has succeeded. It ends with stop.
func (w *world) startRaw(ctx context.Context, most int) (s *subject, stop func(), err error) {
	ctx, stop = context.WithCancel(ctx)
	s = w.subject("reference", rawNamespace)
	if err = w.follow(ctx, rawNamespace, s); err != nil {
		stop()
		return nil, nil, err
	}
	seen := make(chan *v1alpha1.ArkRun, most)
	err = w.watch(ctx, rawNamespace, func(r *v1alpha1.ArkRun) {
		if r.Status.Phase == "" {
			seen <- r
		}
	})
	if err != nil {
		stop()
		return nil, nil, err
	}
	const workers = 16
	for range workers {
		go func() {
			for {
				select {
				case r := <-seen:
					if err := w.bring(ctx, r.DeepCopy()); err != nil {
						s.fail(err)
					}
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	return s, stop, nil
}

func (w *world) bring(ctx context.Context, r *v1alpha1.ArkRun) (err error) {
	for _, phase := range []v1alpha1.RunPhase{v1alpha1.RunRunning, v1alpha1.RunSucceeded} {
		r.Status.Phase = phase
		if r, err = w.clients.Runs(rawNamespace).UpdateStatus(ctx, r, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	return nil
}
