package kube

import (
	"context"
	"errors"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
)

// ErrGone means that an object was removed while it was followed.
var ErrGone = errors.New("it was removed meanwhile")

// follower is what all typed clients have.
type follower[T Object] interface {
	Get(ctx context.Context, name string, o metav1.GetOptions) (T, error)
	Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error)
}

// Follow passes an object as it is and whenever it has changed, until done says so, and returns it as it is then. It
// watches: it asks for nothing again and again. The error is ErrGone, that of the API server, or that of the context.
func Follow[T Object](ctx context.Context, c follower[T], o T, done func(T) bool) (T, error) {
	for !done(o) {
		next, ended, err := followWatch(ctx, c, o, done)
		if ended || err != nil {
			return next, err
		}
		// The API server ended the watch, which it does from time to time: go on from what is there now.
		now, err := c.Get(ctx, o.GetName(), metav1.GetOptions{})
		if err != nil {
			return next, err
		}
		if now.GetUID() != o.GetUID() {
			return next, fmt.Errorf("%s: %w", o.GetName(), ErrGone)
		}
		o = now
	}
	return o, nil
}

// followWatch follows an object until it is done, or the watch is over.
func followWatch[T Object](ctx context.Context, c follower[T], o T, done func(T) bool) (last T, ended bool, err error) {
	w, err := c.Watch(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("metadata.name", o.GetName()).String(), ResourceVersion: o.GetResourceVersion(),
	})
	if err != nil {
		return o, false, err
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return o, false, context.Cause(ctx)
		case event, ok := <-w.ResultChan():
			next, is := event.Object.(T)
			switch {
			case !ok || !is:
				return o, false, nil
			case event.Type == watch.Deleted:
				return o, false, fmt.Errorf("%s: %w", o.GetName(), ErrGone)
			}
			if o = next; done(o) {
				return o, true, nil
			}
		}
	}
}
