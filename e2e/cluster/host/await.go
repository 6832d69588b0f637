package main

import (
	"context"
	"errors"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// watcher is a typed client of one kind.
type watcher interface {
	Watch(ctx context.Context, options metav1.ListOptions) (watch.Interface, error)
}

// await returns when the object of a name is there and as wanted.
func await[T any](ctx context.Context, kind watcher, name string, wanted func(T) bool) error {
	for ctx.Err() == nil {
		// Without a resource version, a watch begins with what is there.
		w, err := kind.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
		if err != nil {
			return err
		}
		done, err := awaitEvent(ctx, w, wanted)
		w.Stop()
		if done || err != nil {
			return err
		}
	}
	return ctx.Err()
}

// awaitEvent reports whether what was wanted happened before the watch ended, as watches do after a while.
func awaitEvent[T any](ctx context.Context, w watch.Interface, wanted func(T) bool) (bool, error) {
	for {
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case event, open := <-w.ResultChan():
			if !open {
				return false, nil
			}
			if event.Type == watch.Error {
				return false, errors.New("the watch failed")
			}
			if object, ok := event.Object.(T); ok && event.Type != watch.Deleted && wanted(object) {
				return true, nil
			}
		}
	}
}
