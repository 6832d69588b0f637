// Package history decides which finished runs are kept. It is pure.
package history

import (
	"cmp"
	"slices"
	"time"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// Surplus returns which of some finished runs are not kept: all but the newest most, and those that ended longer than keep
// ago, if keep is not 0. A run that has not ended is never among them, and counts for nothing. next is when another one
// becomes too old, the zero time for never.
func Surplus(runs []*v1alpha1.ArkRun, most int, keep time.Duration, now time.Time) (surplus []*v1alpha1.ArkRun, next time.Time) {
	done := slices.DeleteFunc(slices.Clone(runs), func(r *v1alpha1.ArkRun) bool { return !r.Status.Phase.Terminal() })
	slices.SortStableFunc(done, func(a, b *v1alpha1.ArkRun) int {
		if c := Ended(b).Compare(Ended(a)); c != 0 {
			return c
		}
		return cmp.Compare(a.Name, b.Name)
	})
	for i, r := range done {
		end := Ended(r).Add(keep)
		switch {
		case i >= most, keep > 0 && !end.After(now):
			surplus = append(surplus, r)
		case keep > 0 && (next.IsZero() || end.Before(next)):
			next = end
		}
	}
	return surplus, next
}

// Ended is when a run ended; when it was made, if nothing says more.
func Ended(r *v1alpha1.ArkRun) time.Time {
	if t := r.Status.CompletionTime; t != nil {
		return t.Time
	}
	return r.CreationTimestamp.Time
}
