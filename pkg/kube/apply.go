package kube

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// ErrConflict says that an object that ark did not make has the name of one that ark needs.
var ErrConflict = errors.New("the name is taken")

// patcher is what all typed clients have.
type patcher[T Object] interface {
	Get(ctx context.Context, name string, o metav1.GetOptions) (T, error)
	Patch(ctx context.Context, name string, t types.PatchType, data []byte, o metav1.PatchOptions, subresources ...string) (T, error)
	Delete(ctx context.Context, name string, o metav1.DeleteOptions) error
}

// Applier writes objects by server-side apply, and only those that are not yet as they shall be.
//
// It remembers what it applied and the version that came of it. An object is written again when what it shall be has
// changed, when it is gone or another one, or when somebody has changed its spec meanwhile. A new Applier remembers
// nothing: it writes each object once, which changes nothing in the API server when all is as it shall be.
type Applier struct {
	mu      sync.Mutex
	applied map[string]applied // by kind, namespace and name
}

type applied struct {
	hash    [sha256.Size]byte
	uid     types.UID
	version int64
}

// versionOf grows with every change of an object's spec: its generation, or, of kinds that have none, the version that
// grows with every change at all.
func versionOf(o metav1.Object) int64 {
	if g := o.GetGeneration(); g > 0 {
		return g
	}
	v, err := strconv.ParseInt(o.GetResourceVersion(), 10, 64)
	if err != nil {
		return 0
	}
	return v
}

// NewApplier makes an Applier that remembers nothing.
func NewApplier() *Applier { return &Applier{applied: map[string]applied{}} }

// Apply has an object be as want says, in the fields that want has; other managers' fields stay as they are. live is the
// object as an informer has it, or the zero T. want needs its type meta, and the owner that live must have as controller
// when it has one. What exists and is not ark's own, or is another owner's, is ErrConflict and stays untouched. wrote says
// whether the API server was asked to write.
func Apply[T Object](ctx context.Context, a *Applier, c patcher[T], live, want T) (now T, wrote bool, err error) {
	kind, ns, name := want.GetObjectKind().GroupVersionKind().Kind, want.GetNamespace(), want.GetName()
	id := kind + "\n" + ns + "\n" + name
	body, err := encode(want)
	if err != nil {
		return live, false, fmt.Errorf("apply %s: %w", Describe(kind, ns, name), err)
	}
	hash := sha256.Sum256(body)
	exists := !isNil(live)
	if exists {
		if err := owned(live, want); err != nil {
			return live, false, fmt.Errorf("apply %s: %w", Describe(kind, ns, name), err)
		}
		if a.asApplied(id, hash, live, want) {
			return live, false, nil
		}
	} else if err := free(ctx, c, want); err != nil {
		return live, false, fmt.Errorf("apply %s: %w", Describe(kind, ns, name), err)
	}
	force := true
	now, err = c.Patch(ctx, name, types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: FieldManager, Force: &force})
	if err != nil {
		return live, true, fmt.Errorf("apply %s: %w", Describe(kind, ns, name), err)
	}
	a.mu.Lock()
	a.applied[id] = applied{hash: hash, uid: now.GetUID(), version: versionOf(now)}
	a.mu.Unlock()
	return now, true, nil
}

func (a *Applier) asApplied(id string, hash [sha256.Size]byte, live, want metav1.Object) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	last, ok := a.applied[id]
	switch {
	case !ok || last.hash != hash || last.uid != live.GetUID():
		return false
	case versionOf(live) > last.version: // somebody has changed it; a cache that is behind has a lower one
		return false
	default:
		return holds(live.GetLabels(), want.GetLabels()) && holds(live.GetAnnotations(), want.GetAnnotations())
	}
}

// holds says whether all of want is in have.
func holds(have, want map[string]string) bool {
	for k, v := range want {
		if have[k] != v {
			return false
		}
	}
	return true
}

// Forget drops what is remembered of an object, for one that was removed.
func (a *Applier) Forget(kind, namespace, name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.applied, kind+"\n"+namespace+"\n"+name)
}

// free says whether the name of an object that no informer knows is really free: an informer sees only what carries
// ark's label.
func free[T Object](ctx context.Context, c patcher[T], want T) error {
	there, err := c.Get(ctx, want.GetName(), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return err
	default:
		return owned(there, want)
	}
}

// owned refuses an object that is not what ark made for the same owner.
func owned(live, want metav1.Object) error {
	if live.GetLabels()[v1alpha1.LabelManagedBy] != v1alpha1.ManagedBy {
		return fmt.Errorf("%w: an object with this name exists that ark did not make; rename or remove it", ErrConflict)
	}
	owner, wanted := metav1.GetControllerOf(live), metav1.GetControllerOf(want)
	if wanted == nil || owner != nil && owner.UID == wanted.UID {
		return nil
	}
	if owner == nil {
		return fmt.Errorf("%w: an object with this name exists that has no owner; remove it", ErrConflict)
	}
	if owner.Kind == wanted.Kind && owner.Name == wanted.Name {
		return fmt.Errorf("%w: it is still that of the %s of the same name that was removed, and goes with it", ErrConflict, owner.Kind)
	}
	return fmt.Errorf("%w: the object with this name belongs to %s %s", ErrConflict, owner.Kind, owner.Name)
}

// encode is the body of a server-side apply: the object without what only the server writes.
func encode(o Object) ([]byte, error) {
	if o.GetObjectKind().GroupVersionKind().Empty() {
		return nil, errors.New("the object has no kind")
	}
	whole, err := json.Marshal(o)
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(whole, &fields); err != nil {
		return nil, err
	}
	delete(fields, "status")
	dropNull(fields)
	return json.Marshal(fields)
}

// dropNull drops empty timestamps and the like, which stand in objects that were never stored.
func dropNull(m map[string]any) {
	for k, v := range m {
		switch v := v.(type) {
		case nil:
			delete(m, k)
		case map[string]any:
			dropNull(v)
		case []any:
			for _, e := range v {
				if inner, ok := e.(map[string]any); ok {
					dropNull(inner)
				}
			}
		}
	}
}

// Delete removes an object if it is still the one that is meant. One that is gone is no error.
func Delete[T Object](ctx context.Context, a *Applier, c patcher[T], kind string, o T) error {
	uid, policy := o.GetUID(), metav1.DeletePropagationBackground
	err := c.Delete(ctx, o.GetName(), metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}, PropagationPolicy: &policy})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("remove %s: %w", Describe(kind, o.GetNamespace(), o.GetName()), err)
	}
	a.Forget(kind, o.GetNamespace(), o.GetName())
	return nil
}

// StatusWriter writes the status of one of ark's kinds.
type statusWriter[T Object] interface {
	UpdateStatus(ctx context.Context, o T, opts metav1.UpdateOptions) (T, error)
}

// UpdateStatus writes the status of an object under its resource version. The caller has compared it: it has changed.
func UpdateStatus[T Object](ctx context.Context, c statusWriter[T], kind string, o T) (T, error) {
	now, err := c.UpdateStatus(ctx, o, metav1.UpdateOptions{FieldManager: FieldManager})
	if err != nil {
		return now, fmt.Errorf("write the status of %s: %w", Describe(kind, o.GetNamespace(), o.GetName()), err)
	}
	return now, nil
}

// Controlled makes an owner reference that makes the owner the controller of an object. Removing the owner removes the
// object; it blocks nothing.
func Controlled(kind string, owner metav1.Object) []metav1.OwnerReference {
	yes := true
	gv := v1alpha1.GroupVersion().String()
	return []metav1.OwnerReference{{APIVersion: gv, Kind: kind, Name: owner.GetName(), UID: owner.GetUID(), Controller: &yes}}
}

func isNil[T Object](o T) bool {
	var none T
	return any(o) == any(none)
}
