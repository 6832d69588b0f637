package controller

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Keys that are preferred are reconciled first, but the others get their turns.
func TestPreferredKeysComeFirst(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var order []string
	const each = 20
	c := New("test", 1, func(_ context.Context, k Key) (Result, error) {
		if order = append(order, k.Name); len(order) == 2*each {
			stop()
		}
		return Result{}, nil
	}, slog.New(slog.DiscardHandler), nil)
	c.Prefer(func(k Key) bool { return k.Namespace == "live" })
	for i := range each {
		c.Add(Key{"new", fmt.Sprintf("n%d", i)})
		c.Add(Key{"live", fmt.Sprintf("l%d", i)})
	}
	require.Equal(t, 2*each, c.Depth())
	c.Run(ctx)
	require.Equal(t, "l0 l1 l2 l3 l4 l5 l6 n0 l7 l8 l9 l10 l11 l12 l13 n1 l14 l15 l16 l17 l18 l19 n2 n3 n4", strings.Join(order[:25], " "))
	require.Len(t, order, 2*each)
	require.Equal(t, "n19", order[2*each-1])
}
