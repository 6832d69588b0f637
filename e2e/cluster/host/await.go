package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// watcher is a typed client of one kind.
type watcher interface {
	Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error)
}

// askAgain is how long to wait after a watch that failed.
const askAgain = 100 * time.Millisecond

// await returns when the object of a name is there and as wanted. A watch that fails is begun anew.
func await[T any](ctx context.Context, kind watcher, name string, wanted func(T) bool) error {
	for {
		done, err := awaitOnce(ctx, kind, name, wanted)
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(askAgain):
		}
	}
}

// awaitOnce reports whether what was wanted happened before a watch ended, as watches do after a while.
func awaitOnce[T any](ctx context.Context, kind watcher, name string, wanted func(T) bool) (bool, error) {
	// Without a resource version, a watch begins with what is there.
	w, err := kind.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return false, err
	}
	defer w.Stop()
	for {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case event, open := <-w.ResultChan():
			if !open {
				return false, nil
			}
			if event.Type == watch.Error {
				return false, fmt.Errorf("watch %s: %w", name, apierrors.FromObject(event.Object))
			}
			if object, ok := event.Object.(T); ok && event.Type != watch.Deleted && wanted(object) {
				return true, nil
			}
		}
	}
}
