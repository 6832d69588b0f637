package operator

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// leaseName is the Lease by which operators agree on which of them acts.
const leaseName = "ark-operator"

// Times of the Lease, those of Kubernetes' own controllers: an operator that was killed is succeeded within leaseDuration,
// and one that can renew it for renewDeadline no more, because it or the API server is too busy, ends.
const (
	leaseDuration = 15 * time.Second
	renewDeadline = 10 * time.Second
	retryPeriod   = 2 * time.Second
)

// errLost ends an operator that does not hold the Lease any more: another one may act already.
var errLost = errors.New("the Lease was lost to another operator")

// lead controls while this process is the one that acts, until ctx ends.
func (o *Operator) lead(ctx context.Context) error {
	if !o.cfg.LeaderElect {
		o.leading.Store(true)
		o.control(ctx)
		return nil
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	lock := &resourcelock.LeaseLock{
		LeaseMeta:  metav1.ObjectMeta{Namespace: o.cfg.Namespace, Name: leaseName},
		Client:     o.cfg.Clients.Core.CoordinationV1(),
		LockConfig: resourcelock.ResourceLockConfig{Identity: o.cfg.Identity},
	}
	done := make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, Name: leaseName, LeaseDuration: leaseDuration, RenewDeadline: renewDeadline, RetryPeriod: retryPeriod,
		// The Lease is given back only after everything has stopped.
		ReleaseOnCancel: true,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(leading context.Context) {
				defer close(done)
				o.leading.Store(true)
				o.control(leading)
			},
			OnStoppedLeading: func() {
				if o.leading.Load() {
					<-done
				}
			},
		},
	})
	if err != nil {
		return fmt.Errorf("operator: leader election: %w", err)
	}
	o.waiting("another operator leads")
	elector.Run(ctx)
	if o.leading.Load() && ctx.Err() == nil {
		return fmt.Errorf("operator: %w", errLost)
	}
	return nil
}
