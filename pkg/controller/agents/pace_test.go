package agents

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/controller"
)

// No hint is lost, also when the interval becomes another one: each is due, or one that is still to come covers it.
func TestPaceThatChanges(t *testing.T) {
	t.Parallel()
	p, k := newPace(), controller.Key{Namespace: "n", Name: "a"}
	for _, c := range []struct {
		at, interval, wait time.Duration
		due                bool
	}{
		{0, 10, 0, true},
		{1, 10, 9, false}, // at 10
		{5, 10, 0, false}, // by that one
		{9, 1, 0, false},
		{12, 1, 0, true}, // that one is over
		{12, 1, 1, false},
		{13, 10, 10, false}, // at 23
		{22, 1, 0, false},
		{40, 10, 0, true},
	} {
		wait, due := p.next(k, c.interval*time.Second, noon.Add(c.at*time.Second))
		require.Equal(t, c.due, due, "at %d", c.at)
		require.Equal(t, c.wait*time.Second, wait, "at %d", c.at)
	}
}
