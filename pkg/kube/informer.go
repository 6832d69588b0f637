package kube

import (
	"context"
	"fmt"
	"log/slog"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// Object is any Kubernetes object.
type Object interface {
	runtime.Object
	metav1.Object
}

// source lists and watches one kind in one namespace, or in all when that is "".
type source struct {
	list  func(context.Context, metav1.ListOptions) (runtime.Object, error)
	watch func(context.Context, metav1.ListOptions) (watch.Interface, error)
}

// Informer keeps the objects of one kind, in all namespaces or in some, as the API server has them.
type Informer[T Object] struct {
	kind  string
	parts []cache.SharedIndexInformer // one per namespace that is watched, or one for all
	sync  []cache.InformerSynced
}

// newInformer makes an informer that is not running. slim drops what nobody reads before an object is kept; it may be
// nil. Fields that say who owns which field are always dropped.
func newInformer[T Object](kind string, namespaces []string, example T, of func(namespace string) source, slim func(T)) (*Informer[T], error) {
	i := &Informer[T]{kind: kind}
	if len(namespaces) == 0 {
		namespaces = []string{metav1.NamespaceAll}
	}
	for _, ns := range namespaces {
		s := of(ns)
		part := cache.NewSharedIndexInformer(&cache.ListWatch{ListWithContextFunc: s.list, WatchFuncWithContext: s.watch},
			example, 0, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
		err := part.SetTransform(func(in any) (any, error) {
			if o, ok := in.(T); ok {
				o.SetManagedFields(nil)
				if slim != nil {
					slim(o)
				}
			}
			return in, nil
		})
		if err != nil {
			return nil, fmt.Errorf("informer of %s: %w", kind, err)
		}
		i.parts, i.sync = append(i.parts, part), append(i.sync, part.HasSynced)
	}
	return i, nil
}

// Index makes objects findable with By. It is called before Run.
func (i *Informer[T]) Index(name string, values func(T) []string) error {
	for _, p := range i.parts {
		err := p.AddIndexers(cache.Indexers{name: func(o any) ([]string, error) {
			if object, ok := o.(T); ok {
				return values(object), nil
			}
			return nil, nil
		}})
		if err != nil {
			return fmt.Errorf("index %s of %s: %w", name, i.kind, err)
		}
	}
	return nil
}

// OnChange calls f after each change, one after the other, from one goroutine per watched namespace. Of a new object old
// is nil (the zero T), of a removed one the other. It is called before Run.
func (i *Informer[T]) OnChange(f func(old, now T)) error {
	var none T
	for _, p := range i.parts {
		handler, err := p.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(o any) {
				if now, ok := o.(T); ok {
					f(none, now)
				}
			},
			UpdateFunc: func(before, after any) {
				old, ok := before.(T)
				now, also := after.(T)
				if ok && also && old.GetResourceVersion() != now.GetResourceVersion() {
					f(old, now)
				}
			},
			DeleteFunc: func(o any) {
				if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
					o = gone.Obj
				}
				if old, ok := o.(T); ok {
					f(old, none)
				}
			},
		})
		if err != nil {
			return fmt.Errorf("handler of %s: %w", i.kind, err)
		}
		i.sync = append(i.sync, handler.HasSynced)
	}
	return nil
}

// Get returns an object.
func (i *Informer[T]) Get(namespace, name string) (T, bool) {
	var none T
	key := name
	if namespace != "" {
		key = namespace + "/" + name
	}
	for _, p := range i.parts {
		if o, ok, _ := p.GetIndexer().GetByKey(key); ok { // the error is of the key's form
			object, ok := o.(T)
			return object, ok
		}
	}
	return none, false
}

// In returns the objects of a namespace in no order.
func (i *Informer[T]) In(namespace string) []T { return i.By(cache.NamespaceIndex, namespace) }

// All returns all objects in no order.
func (i *Informer[T]) All() []T {
	var all []T
	for _, p := range i.parts {
		for _, o := range p.GetIndexer().List() {
			if object, ok := o.(T); ok {
				all = append(all, object)
			}
		}
	}
	return all
}

// Selected returns the objects of a namespace whose labels match.
func (i *Informer[T]) Selected(namespace string, s labels.Selector) []T {
	var some []T
	for _, o := range i.In(namespace) {
		if s.Matches(labels.Set(o.GetLabels())) {
			some = append(some, o)
		}
	}
	return some
}

// By returns the objects that an index has under a value, in no order.
func (i *Informer[T]) By(index, value string) []T {
	var some []T
	for _, p := range i.parts {
		found, err := p.GetIndexer().ByIndex(index, value)
		if err != nil {
			continue // no such index: there is nothing to find
		}
		for _, o := range found {
			if object, ok := o.(T); ok {
				some = append(some, object)
			}
		}
	}
	return some
}

// Run watches until the context ends.
func (i *Informer[T]) run(ctx context.Context, log *slog.Logger) {
	done := make(chan struct{}, len(i.parts))
	for _, p := range i.parts {
		// It is set before the start and only then; the error says that it was started before.
		_ = p.SetWatchErrorHandlerWithContext(func(ctx context.Context, _ *cache.Reflector, err error) {
			log.WarnContext(ctx, "watch ended, it begins again", "kind", i.kind, "error", err)
		})
		go func() {
			p.RunWithContext(ctx)
			done <- struct{}{}
		}()
	}
	for range i.parts {
		<-done
	}
}

// synced says that everything that was there at the start has been seen, by the handlers too.
func (i *Informer[T]) synced() []cache.InformerSynced { return i.sync }

func (i *Informer[T]) name() string { return i.kind }
